"""Listen to the status topics of a graph, for the terminal view and the supervisor."""

from __future__ import annotations

import math
import queue
import threading
import time

import rclpy
from async_mbrl_interfaces import msg
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from async_mbrl.core.robot import RobotConfig
from async_mbrl.reporting.state import (
    BridgeHealth,
    ControllerHealth,
    GuardHealth,
    LearnerHealth,
    RunProgress,
    Update,
)
from async_mbrl.ros.convert import version_from_message
from async_mbrl.ros.qos import STATUS

PHASES = {
    msg.RunStatus.WAITING: 'waiting', msg.RunStatus.LEARNING: 'learning',
    msg.RunStatus.FINISHING: 'finishing', msg.RunStatus.EVALUATING: 'evaluating',
    msg.RunStatus.DONE: 'done', msg.RunStatus.FAILED: 'failed',
}
LEARNER_STATES = {
    msg.LearnerStatus.STARTING: 'starting', msg.LearnerStatus.LEARNING: 'learning',
    msg.LearnerStatus.WAITING: 'waiting', msg.LearnerStatus.FINISHED: 'finished',
    msg.LearnerStatus.FAILED: 'failed',
}
GUARD_STATES = {
    msg.SafetyStatus.IDLE: 'idle', msg.SafetyStatus.ACTIVE: 'armed',
    msg.SafetyStatus.FAULT: 'acting', msg.SafetyStatus.SHUTDOWN: 'disarmed',
}


def run_progress(message: msg.RunStatus) -> RunProgress:
    """Give what a run status says."""
    return RunProgress(
        phase=PHASES.get(message.phase, 'unknown'), run_id=message.run_id, task=message.task,
        robot=message.robot, algorithm=message.algorithm, reason=message.reason,
        in_motion=message.in_motion, motion_time_s=message.motion_time_s,
        motion_time_limit_s=message.motion_time_limit_s, robot_time_s=message.robot_time_s,
        wall_time_s=message.wall_time_s, episodes=message.episodes,
        evaluation_episodes=message.evaluation_episodes, recent_return=message.recent_return,
        recent_success_rate=_defined(message.recent_success_rate),
        last_distance_m=_defined(message.last_distance_m), transitions=message.next_transition)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def controller_health(message: msg.ControllerStatus) -> ControllerHealth:
    """Give what a controller status says."""
    return ControllerHealth(
        state=message.state, fault=message.fault, rate_hz=message.rate_hz,
        scheduler=message.scheduler, ticks=message.ticks, late_ticks=message.late_ticks,
        jitter_p50_ms=message.jitter_p50_ms, jitter_p99_ms=message.jitter_p99_ms,
        jitter_max_ms=message.jitter_max_ms,
        policy_version=version_from_message(message.policy_version),
        policies_applied=message.policies_applied, policies_rejected=message.policies_rejected,
        last_rejection=message.last_rejection, policy_age_s=message.policy_age_s,
        interventions=message.interventions, stale_holds=message.stale_holds)


def learner_health(message: msg.LearnerStatus) -> LearnerHealth:
    """Give what a learner status says."""
    return LearnerHealth(
        name=message.name, state=LEARNER_STATES.get(message.state, 'unknown'),
        reason=message.reason, version=version_from_message(message.version),
        next_transition=message.next_transition,
        transitions_recovered=message.transitions_recovered, updates=message.updates,
        epochs=message.epochs, transition_latency_p99_ms=message.transition_latency_p99_ms,
        waiting_share=message.waiting_s / message.running_s if message.running_s > 0 else 0.0,
        metrics=dict(zip(message.metric_names, message.metric_values, strict=False)))


def bridge_health(message: msg.BridgeStatus) -> BridgeHealth:
    """Give what a bridge status says."""
    return BridgeHealth(
        real_time_factor=message.real_time_factor, paused=message.paused,
        holding=message.holding, commands_received=message.commands_received,
        commands_refused=message.commands_refused, limit_violations=message.limit_violations,
        command_gap_p99_ms=message.command_gap_p99_ms)


def guard_health(message: msg.SafetyStatus) -> GuardHealth:
    """Give what a guard status says."""
    return GuardHealth(state=GUARD_STATES.get(message.state, 'unknown'), reason=message.reason)


class Monitor:
    """A node of its own that puts the status of a graph into a queue, from its own thread."""

    def __init__(self, name: str = 'async_mbrl_monitor') -> None:
        """Subscribe; :meth:`start` begins to listen."""
        self._context = rclpy.Context()
        # Not the arguments of this process: `robot:=fr3` of `ros2 launch` would rename things.
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(name, context=self._context, start_parameter_services=False,
                          enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name='monitor', daemon=True)
        self.updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        for kind, topic, convert in (
                (msg.RunStatus, 'run_status', run_progress),
                (msg.ControllerStatus, 'controller_status', controller_health),
                (msg.LearnerStatus, 'learner_status', learner_health),
                (msg.BridgeStatus, 'bridge_status', bridge_health),
                (msg.SafetyStatus, 'guard_status', guard_health)):
            self._node.create_subscription(
                kind, topic, lambda message, convert=convert: self.updates.put(convert(message)),
                STATUS)

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def present(self, names: tuple[str, ...], timeout_s: float) -> list[str]:
        """Give which nodes of these names are seen within ``timeout_s``; before :meth:`start`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            seen = sorted(set(self._node.get_node_names()) & set(names))
            if seen:
                return seen
            time.sleep(0.05)
        return []

    def driver(self, robot: RobotConfig) -> list[str]:
        """Say which ends of a driver of this robot are there; after :meth:`present`."""
        node = self._node
        found = []
        for topic, how, ends in (
                (robot.joint_states_topic, 'published',
                 node.get_publishers_info_by_topic(robot.joint_states_topic)),
                (robot.commands_topic, 'subscribed to',
                 node.get_subscriptions_info_by_topic(robot.commands_topic))):
            if ends:
                by = ', '.join(sorted({end.node_name for end in ends}))
                found.append(f'topic {topic} is {how} by {by}')
        if robot.controller_manager:
            service = node.resolve_service_name(f'{robot.controller_manager}/switch_controller')
            if service in dict(node.get_service_names_and_types()):
                found.append(f'service {service} is served')
        return found

    def drain(self) -> list[Update]:
        """Give what arrived since the last call."""
        arrived = []
        while not self.updates.empty():
            arrived.append(self.updates.get_nowait())
        return arrived

    def close(self) -> None:
        """Stop listening."""
        self._context.try_shutdown()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._node.destroy_node()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
