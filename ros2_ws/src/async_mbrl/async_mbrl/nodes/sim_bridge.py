"""The simulated arm as a ROS node: speaks what the driver of a real arm speaks."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from async_mbrl_interfaces.msg import BridgeStatus
from async_mbrl_interfaces.srv import StepSimulation
from builtin_interfaces.msg import Time
from controller_manager_msgs.srv import SwitchController
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger

from async_mbrl.core.clock import RobotClock
from async_mbrl.core.config import param
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import BenchmarkConfig, RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros import qos
from async_mbrl.ros.convert import to_time
from async_mbrl.ros.diagnostics import Diagnostics, Growth, Part
from async_mbrl.ros.driver import JointStatePublisher
from async_mbrl.ros.lifecycle import ManagedNode, run_managed
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.played_control import CommandIntake, ControllerManagerServices
from async_mbrl.ros.run import note_stops
from async_mbrl.ros.state_reset import ResetIntake
from async_mbrl.simulation.body import make_physics
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.controllers import ControllerStates
from async_mbrl.simulation.driver import CatchUpPacer, SimulatedDriver

FIFO_PRIORITY = 45
"""Below the control loop, above everything that does not drive the arm."""

CATCH_UP_S = 0.5
"""Simulated time that is caught up at once after the machine stood still, s."""

MOST_STEPS = 100_000
"""Physics steps of one ~/step_simulation at most."""

_TRUTH_RATE_HZ = 50.0
_CLOCK_RATE_HZ = 100.0
_STATUS_PERIOD_S = 0.5
_IDLE_S = 0.02


@dataclass(frozen=True)
class SimBridgeConfig:
    """Parameters of the node."""

    run: RunSettings = param('settings of the run')
    robot: RobotConfig = param('the robot')
    plant: PlantConfig = param('what is simulated')


class SimBridge(ManagedNode):
    """Simulate the arm on the clock, in the thread that calls :meth:`run`.

    Inactive, it publishes joint states and holds the arm, as a driver does whose commands are shut
    off. So it does while not all controllers are active that the robot names, if it names a
    controller_manager: that is played then. Services, transitions among them, are served by an
    executor in a thread of its own; what they ask for is done between two physics steps.
    """

    def __init__(self, scheduler: str) -> None:
        """Read the parameters.

        Args:
            scheduler: what the process runs under, for the log.

        Raises:
            ConfigError: parameters are missing or do not fit each other.
        """
        super().__init__('sim_bridge')
        self._config = config_from_parameters(self, SimBridgeConfig)
        self._scheduler = scheduler
        self._factor = self._config.run.real_time_factor
        self._stops: list[int] = []
        self._requests: queue.SimpleQueue[tuple[Callable[[], object], Future]] = (
            queue.SimpleQueue())
        self._service_error: Exception | None = None
        self._looping = self._simulating = self._enabled = self._following = False

    # ---- hooks ----

    def configure(self) -> None:
        """Put the arm at its home pose; it is held, and joint states are published.

        Raises:
            ConfigError: robot, plant and model do not fit.
        """
        robot, plant, seed = self._config.robot, self._config.plant, self._config.run.seed
        self._physics = make_physics(plant, robot, np.random.default_rng([seed, 1]))
        self._neutral = self._physics.neutral_command()
        # An arm follows what was set before; a body that was put somewhere waits for a command.
        self._body = isinstance(robot, BenchmarkConfig)
        self._driver = SimulatedDriver(robot, plant)
        self._controllers = ControllerStates(robot)
        self._robot_clock = RobotClock(self._factor)
        self._start_s = self._robot_clock.now()
        self._pacer = CatchUpPacer(self._robot_clock, self._physics.period_s,
                                   round(CATCH_UP_S * plant.physics_rate_hz), between=self._body)
        self._paused = self._enabled = self._following = False
        self._steps_of_state = round(plant.physics_rate_hz / plant.state_rate_hz)
        self._steps_of_truth = max(1, round(plant.physics_rate_hz / _TRUTH_RATE_HZ))
        self._steps_of_clock = max(1, round(self._factor * plant.physics_rate_hz / _CLOCK_RATE_HZ))
        self._real_time_factor = 0.0
        self._growth = Growth()
        self._last_fault = ''
        self._ticks_reported = 0
        self._reported_s = time.monotonic()
        self._status_at_s = self._reported_s + _STATUS_PERIOD_S
        self._open()
        self.get_logger().info(
            f'{robot.name}: physics {plant.physics_rate_hz:g} Hz, states {plant.state_rate_hz:g} '
            f'Hz, {robot.command_interface} commands, latency '
            f'{1e3 * self._physics.latency_ticks * self._physics.period_s:g} ms, driver timeout '
            f'{plant.driver_timeout}, real-time factor {self._factor:g}, {self._scheduler}')
        self._simulating = True

    def _open(self) -> None:
        """Create publishers, subscription and services."""
        robot = self._config.robot
        self._states = JointStatePublisher(self, robot.joint_states_topic, robot.state_names)
        self._truth = JointStatePublisher(self, 'ground_truth/joint_states', robot.state_names)
        self._status = self.create_publisher(BridgeStatus, 'bridge_status', qos.STATUS)
        self._clock_publisher = None if self._factor == 1.0 else self.create_publisher(
            Clock, '/clock', QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self._commands = CommandIntake(self, robot)
        self._resets = ResetIntake(self, robot) if isinstance(robot, BenchmarkConfig) else None
        self.create_service(SetBool, '~/set_pause', self._on_set_pause)
        self.create_service(Trigger, '~/reset_world', self._on_reset_world)
        self.create_service(StepSimulation, '~/step_simulation', self._on_step_simulation)
        if robot.controller_manager:
            ControllerManagerServices(self, robot, self._controllers, self._on_switch)
        Diagnostics(self, self._part, self.events.part, hardware=robot.name)

    def activate(self) -> None:
        """Follow commands."""
        self._do(self._enable, True)

    def deactivate(self) -> None:
        """Hold the arm, whatever is commanded."""
        self._do(self._enable, False)

    def cleanup(self) -> None:
        """Stop simulating; nothing is published any more."""
        self._do(self._close)

    def _enable(self, on: bool) -> None:
        self._enabled = on
        self._hand_over()

    def _close(self) -> None:
        self._simulating = False

    def _hand_over(self) -> None:
        """Begin or end to follow commands; those from before count no more."""
        following = self._enabled and self._controllers.following
        if following and not self._following:
            self._neutral = self._physics.neutral_command()
            self._driver.forget()
        self._following = following

    def run(self) -> None:
        """Simulate until the process is asked to stop, or the node is shut down."""
        self._stops = note_stops()
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        serving = threading.Thread(target=self._serve, args=(executor,), name='services',
                                   daemon=True)
        self._looping = True
        serving.start()
        gc.collect()
        gc.freeze()
        try:
            self._loop()
        finally:
            self._looping = False
            self._serve_requests()      # so that nobody waits for an answer
            executor.shutdown(timeout_sec=1.0)
            serving.join(timeout=1.0)

    def _serve(self, executor: SingleThreadedExecutor) -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except Exception as error:
            self._service_error = error

    def _loop(self) -> None:
        while not self._stops:
            if self._service_error is not None:
                raise self._service_error
            if not self._simulating:
                if self.finalized:
                    return
                time.sleep(_IDLE_S)
                self._serve_requests()
                continue
            due = self._pacer.wait()
            if self._following:
                fault = self._commands.hand(self._driver, self._setpoint(),
                                            self._robot_clock.now())
                if fault is not None:
                    self._last_fault = fault
                    self.get_logger().error(f'command {fault}', throttle_duration_sec=1.0)
            else:
                self._commands.drop()
            self._serve_requests()
            if not self._simulating:
                continue
            if self._resets is not None and (state := self._resets.poll()) is not None:
                self._reset(state)
            if not self._paused:
                # After a stop of this process a state is published long after it was due, and the
                # next one follows at once, with all that has moved meanwhile: stamped with the time
                # of publishing it would have jumped.
                self._advance(due, time.time_ns() - round(1e9 * self._pacer.late_s))
            now_s = time.monotonic()
            if now_s >= self._status_at_s:
                self._report(now_s)

    def _setpoint(self) -> np.ndarray:
        """Give the setpoint before the first command, and of an arm that is held."""
        return self._physics.position if self._physics.holding else self._neutral

    def _report(self, now_s: float) -> None:
        ticks = self._physics.ticks
        self._real_time_factor = ((ticks - self._ticks_reported) * self._physics.period_s
                                  / (now_s - self._reported_s))
        self._reported_s, self._ticks_reported = now_s, ticks
        self._status_at_s = now_s + _STATUS_PERIOD_S
        self._publish_status()

    def _serve_requests(self) -> None:
        while not self._requests.empty():
            action, future = self._requests.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

    def _advance(self, steps: int, due_ns: int) -> None:
        """Take physics steps; publish what fell due in them, once.

        Args:
            steps: how many.
            due_ns: system clock, ns, at which the last of them was due.
        """
        physics = self._physics
        first = physics.ticks
        command = None
        if self._following:
            command = self._driver.command(self._robot_clock.now(),
                                           None if self._body else self._neutral)
        for _ in range(steps):
            physics.step(command)
        last = physics.ticks
        if self._factor == 1.0:
            stamp_ns = due_ns
        else:
            stamp_ns = round((self._start_s + last * physics.period_s) * 1e9)
            if first // self._steps_of_clock != last // self._steps_of_clock:
                self._publish_clock(stamp_ns)
        if first // self._steps_of_state != last // self._steps_of_state:
            self._states.publish(stamp_ns, *physics.measured(), physics.effort)
        if first // self._steps_of_truth != last // self._steps_of_truth:
            self._truth.publish(stamp_ns, physics.position, physics.velocity, physics.effort)

    def _publish_clock(self, stamp_ns: int) -> None:
        assert self._clock_publisher is not None
        self._clock_publisher.publish(Clock(clock=to_time(stamp_ns * 1e-9)))

    # ---- services ----

    def _do(self, action: Callable[..., object], *arguments: object) -> object:
        """Have the physics loop do something, if it runs, and wait until it is done.

        Raises:
            Exception: what the action raised, or that the loop did not answer in time.
        """
        if not self._looping:
            return action(*arguments)
        future: Future = Future()
        self._requests.put((lambda: action(*arguments), future))
        try:
            return future.result(timeout=30.0)
        finally:
            future.cancel()

    def _in_loop(self, action: Callable[[], object], response: Any, done: str) -> Any:
        """Have the physics loop do something, and answer how that went."""
        try:
            self._do(action)
        except Exception as error:      # whatever it is, the services must go on
            response.success = False
            response.message = f'{type(error).__name__}: {error}'
            return response
        response.success = True
        response.message = done
        return response

    def _on_switch(self, request: SwitchController.Request) -> str:
        def switch() -> str:
            flaw = self._controllers.switch(
                request.activate_controllers, request.deactivate_controllers,
                request.strictness != SwitchController.Request.BEST_EFFORT)
            self._hand_over()
            return flaw
        return str(self._do(switch))

    def _on_set_pause(self, request: SetBool.Request,
                      response: SetBool.Response) -> SetBool.Response:
        def set_pause() -> None:
            self._paused = bool(request.data)
        return self._in_loop(set_pause, response, 'paused' if request.data else 'running')

    def _on_reset_world(self, _request: Trigger.Request,
                        response: Trigger.Response) -> Trigger.Response:
        return self._in_loop(lambda: self._reset(self._physics.home), response,
                             'the robot is at its home pose; the last command is forgotten')

    def _reset(self, start: np.ndarray) -> None:
        self._physics.reset(start)
        self._neutral = self._physics.neutral_command()
        # Otherwise the robot would snap back to the command from before.
        self._driver.forget()

    def _on_step_simulation(self, request: StepSimulation.Request,
                            response: StepSimulation.Response) -> StepSimulation.Response:
        if not self._paused:
            response.message = 'not paused; call ~/set_pause first'
        elif not 1 <= request.steps <= MOST_STEPS:
            response.message = f'{request.steps} steps are outside 1 to {MOST_STEPS}'
        else:
            self._in_loop(lambda: self._step_paused(request.steps), response,
                          f'{request.steps} steps done')
        return response

    def _step_paused(self, steps: int) -> None:
        while steps > 0:
            if self._stops:
                raise RuntimeError(f'the simulation ends; {steps} steps were not taken')
            chunk = min(steps, self._steps_of_state)
            if self._following:
                self._commands.hand(self._driver, self._setpoint(), self._robot_clock.now())
            self._advance(chunk, time.time_ns())
            steps -= chunk

    def _publish_status(self) -> None:
        driver = self._driver
        p50, p99, p999 = driver.gaps.percentiles_s((0.5, 0.99, 0.999))
        message = BridgeStatus(
            simulation_time_s=self._physics.ticks * self._physics.period_s,
            real_time_factor=self._real_time_factor, paused=self._paused,
            holding=self._physics.holding, commands_received=driver.received,
            commands_refused=driver.refused, limit_violations=driver.violations,
            command_gap_p50_ms=1e3 * p50, command_gap_p99_ms=1e3 * p99,
            command_gap_p999_ms=1e3 * p999, command_gap_max_ms=1e3 * driver.gaps.maximum_s)
        message.header.stamp = self._stamp()
        self._status.publish(message)

    def _part(self) -> Part:
        """Say how the simulation does, for /diagnostics."""
        driver = self._driver
        bad = self._growth.of('bad', driver.violations + driver.refused)
        behind = not self._paused and abs(self._real_time_factor / self._factor - 1.0) > 0.02
        held = '' if not self._physics.holding else (
            'no commands: ' if self._following else
            'no controller that takes commands is active: ' if self._enabled else 'inactive: ')
        gaps = driver.gaps.percentiles_s((0.5, 0.99, 0.999)) + [driver.gaps.maximum_s]
        return Part('simulation', 'paused' if self._paused else 'running', {
            'real-time factor': self._real_time_factor, 'steps given up': self._pacer.given_up,
            'commands received': driver.received, 'commands refused': driver.refused,
            'limit violations': driver.violations,
            'command gap p50/p99/p99.9/max (ms)': ' / '.join(f'{1e3 * gap:.2f}' for gap in gaps),
        }, warnings=('simulated time is not on the clock' if behind else '',
                     held and f'{held}the driver holds the arm'),
            errors=(f'command {self._last_fault}' if bad else '',))

    def _stamp(self) -> Time:
        if self._factor == 1.0:
            return to_time(time.time())
        return to_time(self._start_s + self._physics.ticks * self._physics.period_s)


def main() -> None:
    """Run the node."""
    # Before any other thread exists, so that those of the middleware inherit the priority.
    scheduler = use_fifo(FIFO_PRIORITY)

    def spin(node: ManagedNode) -> None:
        assert isinstance(node, SimBridge)
        node.run()

    sys.exit(run_managed(lambda: SimBridge(scheduler), spin))


if __name__ == '__main__':
    main()
