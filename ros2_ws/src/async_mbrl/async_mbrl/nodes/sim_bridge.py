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
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger

from async_mbrl.core.clock import RobotClock
from async_mbrl.core.config import param
from async_mbrl.core.realtime import use_fifo
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.ros import qos
from async_mbrl.ros.convert import to_time
from async_mbrl.ros.driver import DRIVER_COMMAND, JointStatePublisher, PolledGroup
from async_mbrl.ros.params import config_from_parameters
from async_mbrl.ros.run import note_stops, run_node
from async_mbrl.simulation.driver import Pacer, SimulatedDriver
from async_mbrl.simulation.physics import ArmPhysics, PlantConfig

FIFO_PRIORITY = 45
"""Below the control loop, above everything that does not drive the arm."""

CATCH_UP_S = 0.5
"""Simulated time that is caught up at once after the machine stood still, s."""

MOST_STEPS = 100_000
"""Physics steps of one ~/step_simulation at most."""

_TRUTH_RATE_HZ = 50.0
_CLOCK_RATE_HZ = 100.0
_STATUS_PERIOD_S = 0.5


@dataclass(frozen=True)
class SimBridgeConfig:
    """Parameters of the node."""

    run: RunSettings = param('settings of the run')
    robot: RobotConfig = param('the robot')
    plant: PlantConfig = param('what is simulated')


class SimBridge(Node):
    """Simulate the arm on the clock, in the thread that calls :meth:`run`.

    Services are served by an executor in a thread of its own; what they ask for is done between
    two physics steps.
    """

    def __init__(self, scheduler: str) -> None:
        """Read the parameters and set everything up.

        Args:
            scheduler: what the process runs under, for the log.

        Raises:
            ConfigError: parameters are missing or do not fit each other or the model.
        """
        super().__init__('sim_bridge')
        config = config_from_parameters(self, SimBridgeConfig)
        robot, plant = config.robot, config.plant
        self._factor = config.run.real_time_factor
        self._physics = ArmPhysics(plant, robot, np.random.default_rng([config.run.seed, 1]))
        self._neutral = self._physics.neutral_command()
        self._driver = SimulatedDriver(robot, plant)
        self._robot_clock = RobotClock(self._factor)
        self._start_s = self._robot_clock.now()
        self._paused = False
        self._stops: list[int] = []
        self._requests: queue.SimpleQueue[tuple[Callable[[], object], Future]] = (
            queue.SimpleQueue())
        self._limit = round(CATCH_UP_S * plant.physics_rate_hz)
        self._steps_of_state = round(plant.physics_rate_hz / plant.state_rate_hz)
        self._steps_of_truth = max(1, round(plant.physics_rate_hz / _TRUTH_RATE_HZ))
        self._steps_of_clock = max(1, round(self._factor * plant.physics_rate_hz / _CLOCK_RATE_HZ))
        self._given_up = 0
        self._real_time_factor = 0.0
        self._violations_reported = 0
        self._last_fault = ''

        self._states = JointStatePublisher(self, robot.joint_states_topic, robot.joint_names)
        self._truth = JointStatePublisher(self, 'ground_truth/joint_states', robot.joint_names)
        self._status = self.create_publisher(BridgeStatus, 'bridge_status', qos.STATUS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._clock_publisher = None if self._factor == 1.0 else self.create_publisher(
            Clock, '/clock', QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self._commands = self.create_subscription(
            Float64MultiArray, robot.commands_topic, lambda _message: None, DRIVER_COMMAND,
            callback_group=PolledGroup())
        self.create_service(SetBool, '~/set_pause', self._on_set_pause)
        self.create_service(Trigger, '~/reset_world', self._on_reset_world)
        self.create_service(StepSimulation, '~/step_simulation', self._on_step_simulation)
        self.get_logger().info(
            f'{robot.name}: physics {plant.physics_rate_hz:g} Hz, states {plant.state_rate_hz:g} '
            f'Hz, {robot.command_interface} commands, latency '
            f'{1e3 * self._physics.latency_ticks * self._physics.period_s:g} ms, driver timeout '
            f'{plant.driver_timeout}, real-time factor {self._factor:g}, {scheduler}')

    def run(self) -> None:
        """Simulate until the process is asked to stop."""
        self._stops = note_stops()
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        serving = threading.Thread(target=_serve, args=(executor,), name='services', daemon=True)
        serving.start()
        gc.collect()
        gc.freeze()
        try:
            self._loop()
        finally:
            self._serve_requests()      # so that nobody waits for an answer
            executor.shutdown(timeout_sec=1.0)
            serving.join(timeout=1.0)

    def _loop(self) -> None:
        pacer = Pacer(self._robot_clock, self._physics.period_s, self._limit)
        status_at_s, wall_s, ticks = time.monotonic() + _STATUS_PERIOD_S, time.monotonic(), 0
        reports = 0
        while not self._stops:
            due = pacer.wait()
            self._take_commands()
            self._serve_requests()
            if not self._paused:
                self._advance(due)
            now_s = time.monotonic()
            if now_s >= status_at_s:
                self._given_up = pacer.given_up
                self._real_time_factor = ((self._physics.ticks - ticks) * self._physics.period_s
                                          / (now_s - wall_s))
                wall_s, ticks = now_s, self._physics.ticks
                status_at_s = max(status_at_s + _STATUS_PERIOD_S, now_s)
                self._publish_status()
                reports += 1
                if reports % 2 == 0:
                    self._publish_diagnostics()

    def _take_commands(self) -> None:
        while (taken := self._commands.handle.take_message(Float64MultiArray, False)) is not None:
            message, info = taken
            receipt_ns = info['received_timestamp'] or time.time_ns()
            fault = self._driver.receive(message.data, self._robot_clock.now(), receipt_ns)
            if fault is not None:
                self._last_fault = fault
                self.get_logger().error(f'command {fault}', throttle_duration_sec=1.0)

    def _serve_requests(self) -> None:
        while not self._requests.empty():
            action, future = self._requests.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

    def _advance(self, steps: int) -> None:
        """Take physics steps; publish what fell due in them, once."""
        physics = self._physics
        first = physics.ticks
        command = self._driver.command(self._robot_clock.now(), self._neutral)
        for _ in range(steps):
            physics.step(command)
        last = physics.ticks
        if self._factor == 1.0:
            stamp_ns = time.time_ns()
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

    def _in_loop(self, action: Callable[[], object], response: Any, done: str) -> Any:
        """Have the physics loop do something, wait until it is done, and answer how that went."""
        future: Future = Future()
        self._requests.put((action, future))
        try:
            future.result(timeout=30.0)
        except Exception as error:      # whatever it is, the services must go on
            future.cancel()
            response.success = False
            response.message = f'{type(error).__name__}: {error}'
            return response
        response.success = True
        response.message = done
        return response

    def _on_set_pause(self, request: SetBool.Request,
                      response: SetBool.Response) -> SetBool.Response:
        def set_pause() -> None:
            self._paused = bool(request.data)
        return self._in_loop(set_pause, response, 'paused' if request.data else 'running')

    def _on_reset_world(self, _request: Trigger.Request,
                        response: Trigger.Response) -> Trigger.Response:
        def reset() -> None:
            self._physics.reset(np.asarray(self._physics.robot.home))
            self._neutral = self._physics.neutral_command()
            # Otherwise the arm would snap back to the command from before.
            self._driver.forget()
        return self._in_loop(reset, response,
                             'the arm is at its home pose; the last command is forgotten')

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
            self._take_commands()
            self._advance(chunk)
            steps -= chunk

    def _publish_status(self) -> None:
        driver = self._driver
        p50, p99, p999 = driver.gaps.quantiles_s((0.5, 0.99, 0.999))
        message = BridgeStatus(
            simulation_time_s=self._physics.ticks * self._physics.period_s,
            real_time_factor=self._real_time_factor, paused=self._paused,
            holding=self._physics.holding, commands_received=driver.received,
            commands_refused=driver.refused, limit_violations=driver.violations,
            command_gap_p50_ms=1e3 * p50, command_gap_p99_ms=1e3 * p99,
            command_gap_p999_ms=1e3 * p999, command_gap_max_ms=1e3 * driver.gaps.maximum_s)
        message.header.stamp = self._stamp()
        self._status.publish(message)

    def _publish_diagnostics(self) -> None:
        driver = self._driver
        bad = driver.violations + driver.refused
        behind = not self._paused and abs(self._real_time_factor / self._factor - 1.0) > 0.02
        if bad > self._violations_reported:
            level, text = DiagnosticStatus.ERROR, f'command {self._last_fault}'
        elif behind:
            level, text = DiagnosticStatus.WARN, 'simulated time is not on the clock'
        elif self._physics.holding:
            level, text = DiagnosticStatus.WARN, 'no commands: the driver holds the arm'
        else:
            level, text = DiagnosticStatus.OK, 'paused' if self._paused else 'running'
        self._violations_reported = bad
        gaps = driver.gaps.quantiles_s((0.5, 0.99, 0.999)) + [driver.gaps.maximum_s]
        values = {
            'real-time factor': f'{self._real_time_factor:.4f}',
            'steps given up': str(self._given_up),
            'commands received': str(driver.received),
            'commands refused': str(driver.refused),
            'limit violations': str(driver.violations),
            'command gap p50/p99/p99.9/max (ms)': ' / '.join(f'{1e3 * gap:.2f}' for gap in gaps),
        }
        message = DiagnosticArray(status=[DiagnosticStatus(
            level=level, name='sim_bridge: simulation', message=text,
            hardware_id=self._physics.robot.name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()])])
        message.header.stamp = self._stamp()
        self._diagnostics.publish(message)

    def _stamp(self) -> Time:
        if self._factor == 1.0:
            return to_time(time.time())
        return to_time(self._start_s + self._physics.ticks * self._physics.period_s)


def _serve(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        return


def main() -> None:
    """Run the node."""
    # Before any other thread exists, so that those of the middleware inherit the priority.
    scheduler = use_fifo(FIFO_PRIORITY)

    def spin(node: Node) -> None:
        assert isinstance(node, SimBridge)
        node.run()

    sys.exit(run_node(lambda: SimBridge(scheduler), spin))


if __name__ == '__main__':
    main()
