"""The plant: MuJoCo with dry friction, sensor noise, command latency and a driver's inner loop."""

from __future__ import annotations

import mujoco
import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import ToolKinematics
from async_mbrl.core.robot import ArmConfig, RobotConfig
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.model import load_plant

__all__ = ['ArmPhysics', 'Physics', 'PlantConfig']

_NOISE_BLOCK = 256
"""Measurements whose noise is drawn at once; drawing them one by one costs more than a step."""


class Physics:
    """A robot that takes commands as its driver would and tells what its sensors read.

    Vectors are float64: commands (joints,), in the order of ``robot.joint_names``, positions,
    velocities and efforts (states,), in the order of ``robot.state_names``.
    """

    def __init__(self, plant: PlantConfig, robot: RobotConfig, rng: np.random.Generator) -> None:
        """Load the model.

        Args:
            plant: what is simulated.
            robot: the robot; must describe the model.
            rng: source of the sensor noise.

        Raises:
            ConfigError: model and robot do not fit.
        """
        self.model = load_plant(robot)
        self.robot = robot
        self.plant = plant
        self.period_s = 1.0 / plant.physics_rate_hz
        self.latency_ticks = round(plant.command_latency_s * plant.physics_rate_hz)
        self.model.opt.timestep = self.period_s
        self.data = mujoco.MjData(self.model)
        self.ticks = 0
        """Physics steps so far, those in which the robot was kept where it is among them."""
        self._rng = rng
        self._noise_scale = np.repeat([plant.position_noise_rad, plant.velocity_noise_rad_s],
                                      robot.states)
        self._noise = np.zeros((0, 2 * robot.states))
        self._noise_row = 0
        # A command enters the queue at its tick and leaves it latency_ticks later.
        self._queue = np.zeros((self.latency_ticks + 1, robot.joints))

    @property
    def home(self) -> np.ndarray:
        """What :meth:`reset` takes to put the robot where it begins."""
        raise NotImplementedError

    @property
    def position(self) -> np.ndarray:
        """True positions, rad or m."""
        raise NotImplementedError

    @property
    def velocity(self) -> np.ndarray:
        """True velocities, rad/s or m/s."""
        raise NotImplementedError

    @property
    def effort(self) -> np.ndarray:
        """Efforts that the motors give, N m or N."""
        raise NotImplementedError

    @property
    def holding(self) -> bool:
        """Whether the robot is kept where it is instead of following commands."""
        raise NotImplementedError

    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Measure positions, rad, and velocities, rad/s; each call is a new measurement."""
        if self._noise_row == len(self._noise):
            self._noise = self._noise_scale * self._rng.standard_normal(
                (_NOISE_BLOCK, len(self._noise_scale)))
            self._noise_row = 0
        noise = self._noise[self._noise_row]
        self._noise_row += 1
        states = self.robot.states
        return self.position + noise[:states], self.velocity + noise[states:]

    def tool_points(self) -> np.ndarray | None:
        """Give the true tool points (3 * points,), m, of a robot that has some."""
        return None

    def neutral_command(self) -> np.ndarray:
        """Give the command that asks for nothing: no torque, no speed, or the true position."""
        return np.zeros(self.robot.joints)

    def reset(self, start: np.ndarray) -> None:
        """Put the robot somewhere (start_size,), forget commands under way; time goes on."""
        raise NotImplementedError

    def step(self, command: np.ndarray | None) -> None:
        """Advance by one physics step; see the classes derived from this one."""
        raise NotImplementedError

    def _in_force(self, command: np.ndarray) -> np.ndarray:
        """Take a command that has reached the driver; give the one that takes effect now."""
        slot = self.ticks % len(self._queue)
        self._queue[slot] = command
        due: np.ndarray = self._queue[(slot + 1) % len(self._queue)]
        return due


class ArmPhysics(Physics):
    """An arm."""

    def __init__(self, plant: PlantConfig, robot: ArmConfig, rng: np.random.Generator) -> None:
        """Load the model, fit it to the plant and put the arm at its home pose.

        Args:
            plant: what is simulated.
            robot: the robot; must describe the model.
            rng: source of the sensor noise.

        Raises:
            ConfigError: model, robot and plant do not fit.
        """
        super().__init__(plant, robot, rng)
        self.robot: ArmConfig = robot
        joints = [self.model.joint(name) for name in robot.joint_names]
        self._positions = _as_slice([joint.qposadr[0] for joint in joints])
        self._velocities = _as_slice([joint.dofadr[0] for joint in joints])
        self.model.dof_frictionloss[self._velocities] = _friction(plant, robot)
        if plant.armature:
            if len(plant.armature) != robot.joints:
                raise ConfigError(f'armature: {len(plant.armature)} numbers for {robot.joints} '
                                  'joints; give one a joint')
            self.model.dof_armature[self._velocities] = plant.armature
        self._kinematics = ToolKinematics(robot.kinematics)
        effort = np.asarray(robot.limits.effort)
        self._effort = effort
        self._stiffness = plant.position_stiffness * effort
        self._damping = plant.position_damping * effort
        self._velocity_gain = plant.velocity_gain * effort
        self._interface = robot.command_interface
        self._hold_at: np.ndarray | None = None
        self.reset(self.home)
        self._check_inner_loop()

    @property
    def home(self) -> np.ndarray:
        """The home pose (n,), rad."""
        return np.asarray(self.robot.home)

    @property
    def position(self) -> np.ndarray:
        """True joint positions, rad."""
        return self.data.qpos[self._positions].copy()

    @property
    def velocity(self) -> np.ndarray:
        """True joint velocities, rad/s."""
        return self.data.qvel[self._velocities].copy()

    @property
    def effort(self) -> np.ndarray:
        """Torques that the motors give, N m."""
        return self.data.ctrl.copy()

    @property
    def holding(self) -> bool:
        """Whether the driver holds the arm instead of following commands."""
        return self._hold_at is not None

    def tool_points(self) -> np.ndarray:
        """Give the true tool points (3 * points,), m."""
        return self._kinematics.points(self.position)

    def neutral_command(self) -> np.ndarray:
        """Give the command that asks for no motion: no torque, no speed, or the true position."""
        if self._interface == 'position':
            return self.position
        return np.zeros(self.robot.joints)

    def reset(self, start: np.ndarray) -> None:
        """Put the arm into a pose (n,), rad, at rest, forget commands under way; time goes on."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._positions] = start
        self.data.time = self.ticks * self.period_s
        mujoco.mj_forward(self.model, self.data)
        self._queue[:] = self.neutral_command()
        self._hold_at = None

    def step(self, command: np.ndarray | None) -> None:
        """Advance by one physics step.

        Args:
            command: what reaches the driver now, finite; it takes effect after the latency. None
                lets the driver hold the arm where it was at the first None.
        """
        if command is None:
            if self._hold_at is None:
                self._hold_at = self.position
                self._queue[:] = self.neutral_command()
            due = self._hold_at
        else:
            self._hold_at = None
            due = self._in_force(command)
        self.data.ctrl[:] = self._torque(due)
        mujoco.mj_step(self.model, self.data)
        self.ticks += 1

    def _check_inner_loop(self) -> None:
        """Refuse gains under which the speed of a joint would grow from step to step.

        Raises:
            ConfigError: a joint has too little inertia for them.
        """
        gain = self._velocity_gain if self._interface == 'velocity' else self._damping
        unit, product = np.zeros(self.model.nv), np.zeros(self.model.nv)
        for index, name in enumerate(self.robot.joint_names):
            address = self.model.joint(name).dofadr[0]
            unit[:] = 0.0
            unit[address] = 1.0
            mujoco.mj_mulM(self.model, self.data, product, unit)
            least = 0.5 * gain[index] * self.period_s
            if product[address] <= least:
                raise ConfigError(
                    f'armature: joint {name} has an inertia of {product[address]:.2g} kg m^2 at '
                    f'home, and the inner loop of the driver needs more than {least:.2g}; give '
                    'armature, or lower velocity_gain or position_damping')

    def _torque(self, command: np.ndarray) -> np.ndarray:
        if self._hold_at is None and self._interface == 'effort':
            return command   # the motors themselves give no more than they can
        if self._hold_at is None and self._interface == 'velocity':
            torque = self._velocity_gain * (command - self.velocity)
        else:
            torque = (self._stiffness * (command - self.position)
                      - self._damping * self.velocity)
        return np.clip(torque, -self._effort, self._effort)


def _as_slice(addresses: list[int]) -> slice | np.ndarray:
    """Give a slice where the addresses follow each other: it indexes several times faster."""
    first = int(addresses[0])
    if addresses == list(range(first, first + len(addresses))):
        return slice(first, first + len(addresses))
    return np.array(addresses)


def _friction(plant: PlantConfig, robot: ArmConfig) -> np.ndarray:
    reference = plant.friction_reference
    if not reference and robot.command_interface == 'effort':
        reference = robot.action_scale
    if plant.friction_ratio == 0.0:
        return np.zeros(robot.joints)
    if len(reference) != robot.joints:
        raise ConfigError(f'friction_reference: {len(reference)} numbers for {robot.joints} '
                          'joints; give the torques that friction_ratio refers to, one a joint')
    return plant.friction_ratio * np.asarray(reference)
