"""The plant of a benchmark body, and the choice of a plant for any robot."""

from __future__ import annotations

import mujoco
import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import ArmConfig, BenchmarkConfig, RobotConfig
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.model import free_roots
from async_mbrl.simulation.physics import ArmPhysics, Physics


class BenchmarkPhysics(Physics):
    """A benchmark body.

    Put into a state by :meth:`reset`, it stays in it, time going on, until the first command: so
    an episode begins exactly there, however long that takes to arrive.
    """

    def __init__(self, plant: PlantConfig, robot: BenchmarkConfig,
                 rng: np.random.Generator) -> None:
        """Load the model and put the body into the middle of its start states, at rest.

        Args:
            plant: what is simulated; friction is that of the model.
            robot: the robot; must describe the model.
            rng: source of the sensor noise.

        Raises:
            ConfigError: model, robot and plant do not fit.
        """
        super().__init__(plant, robot, rng)
        if plant.friction_ratio or plant.armature:
            raise ConfigError('friction_ratio, armature: a benchmark body has those of its model; '
                              'give friction_ratio 0, and no armature')
        self._home = np.asarray(robot.home)
        # Where velocities stand among the states: a quaternion has one number more.
        self._moving = np.ones(robot.states, bool)
        for root in free_roots(self.model):
            self._moving[self.model.jnt_qposadr[root] + 3] = False
        self._gear = self.model.actuator_gear[:, 0].copy()
        self._dof = self.model.jnt_dofadr[self.model.actuator_trnid[:, 0]]
        self._standing = True
        self.reset(self.home)

    @property
    def home(self) -> np.ndarray:
        """The middle of the start states (2 * states,), at rest."""
        return np.concatenate([self._home, np.zeros(self.robot.states)])

    @property
    def position(self) -> np.ndarray:
        """True positions of the state joints, rad, m, or numbers of a quaternion."""
        return self.data.qpos.copy()

    @property
    def velocity(self) -> np.ndarray:
        """True velocities, rad/s or m/s."""
        return self._state_like(self.data.qvel)

    @property
    def effort(self) -> np.ndarray:
        """Efforts that the motors give, N m or N; 0 where there is none."""
        return self._state_like(self.data.qfrc_actuator)

    @property
    def holding(self) -> bool:
        """Whether it stands where it was put."""
        return self._standing

    def reset(self, start: np.ndarray) -> None:
        """Put the body into a state (2 * states,), positions then velocities, and keep it there."""
        states = self.robot.states
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = start[:states]
        self.data.qvel[:] = start[states:][self._moving]
        self.data.time = self.ticks * self.period_s
        mujoco.mj_forward(self.model, self.data)
        self._queue[:] = 0.0
        self._standing = True

    def step(self, command: np.ndarray | None) -> None:
        """Advance by one physics step.

        Args:
            command: what reaches the driver now (n,), finite, N m or N; it takes effect after the
                latency. None, where no command has come: a body that was just put somewhere stays
                there, any other goes on without effort.
        """
        if command is not None:
            self._standing = False
            self.data.ctrl[:] = self._in_force(command) / self._gear
        elif not self._standing:
            self.data.ctrl[:] = 0.0
        if not self._standing:
            mujoco.mj_step(self.model, self.data)
        self.ticks += 1

    def _state_like(self, values: np.ndarray) -> np.ndarray:
        found = np.zeros(self.robot.states)
        found[self._moving] = values
        return found


def make_physics(plant: PlantConfig, robot: RobotConfig, rng: np.random.Generator) -> Physics:
    """Build the plant of a robot, by its kind.

    Raises:
        ConfigError: model, robot and plant do not fit.
    """
    if isinstance(robot, BenchmarkConfig):
        return BenchmarkPhysics(plant, robot, rng)
    assert isinstance(robot, ArmConfig)
    return ArmPhysics(plant, robot, rng)
