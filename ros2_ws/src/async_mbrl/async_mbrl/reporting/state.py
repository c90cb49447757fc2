"""What is known of a running graph, put together from its status messages. No ROS, no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from async_mbrl.core.snapshot import NO_VERSION, Version


@dataclass(frozen=True)
class RunProgress:
    """Progress of the run, from robot_interface; units as in ``RunStatus``."""

    phase: str
    run_id: str = ''
    task: str = ''
    robot: str = ''
    algorithm: str = ''
    reason: str = ''
    in_motion: bool = False
    motion_time_s: float = 0.0
    motion_time_limit_s: float = 0.0
    robot_time_s: float = 0.0
    wall_time_s: float = 0.0
    episodes: int = 0
    evaluation_episodes: int = 0
    recent_return: float = 0.0
    recent_success_rate: float | None = None
    last_distance_m: float | None = None
    transitions: int = 0


@dataclass(frozen=True)
class ControllerHealth:
    """State and punctuality of the controller; units as in ``ControllerStatus``."""

    state: str
    fault: str = ''
    rate_hz: float = 0.0
    scheduler: str = ''
    ticks: int = 0
    late_ticks: int = 0
    jitter_p50_ms: float = 0.0
    jitter_p99_ms: float = 0.0
    jitter_max_ms: float = 0.0
    policy_version: Version = NO_VERSION
    policies_applied: int = 0
    policies_rejected: int = 0
    last_rejection: str = ''
    policy_age_s: float = 0.0
    interventions: int = 0
    stale_holds: int = 0


@dataclass(frozen=True)
class LearnerHealth:
    """Heartbeat and progress of a learner; units as in ``LearnerStatus``."""

    name: str
    state: str
    reason: str = ''
    version: Version = NO_VERSION
    next_transition: int = 0
    transitions_recovered: int = 0
    updates: int = 0
    epochs: float = 0.0
    transition_latency_p99_ms: float = 0.0
    waiting_share: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BridgeHealth:
    """What the simulated driver saw; units as in ``BridgeStatus``."""

    real_time_factor: float = 1.0
    paused: bool = False
    holding: bool = False
    commands_received: int = 0
    commands_refused: int = 0
    limit_violations: int = 0
    command_gap_p99_ms: float = 0.0


@dataclass(frozen=True)
class GuardHealth:
    """State of the guard: idle, armed, acting (it sends the safe command) or disarmed."""

    state: str
    reason: str = ''


Update = RunProgress | ControllerHealth | LearnerHealth | BridgeHealth | GuardHealth


@dataclass(frozen=True)
class Node:
    """A row of the table of nodes."""

    name: str
    state: str
    rate: str
    age_s: float | None
    note: str
    alarming: bool


class _Rate:
    """Rate of a counter between its last two readings."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self.value: float | None = None

    def take(self, count: float, now: float) -> None:
        if self._last is not None and now > self._last[0] and count >= self._last[1]:
            self.value = (count - self._last[1]) / (now - self._last[0])
        self._last = (now, count)

    def text(self, unit: str) -> str:
        if self.value is None:
            return '-'
        return f'{self.value:.{0 if self.value >= 10 else 1}f} {unit}'


SILENT_S = 3.0
"""Age of a status at which its node is shown as silent."""

LOSSES = ('validation_loss', 'training_loss')
"""Metrics of a model learner that are shown as its loss, best first."""


class ViewState:
    """The newest status of every node, rates between them, and the course of the run."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.run: RunProgress | None = None
        self.controller: ControllerHealth | None = None
        self.learners: dict[str, LearnerHealth] = {}
        self.bridge: BridgeHealth | None = None
        self.guard: GuardHealth | None = None
        self.distances_m: list[float] = []
        self.returns: list[float] = []
        self.model_losses: list[float] = []
        self.messages: deque[str] = deque(maxlen=6)
        self._loss_name = ''
        self._seen_s: dict[str, float] = {}
        self._rates: dict[str, _Rate] = {}

    def take(self, update: Update, now: float) -> None:
        """Take one status, received at ``now``, s."""
        if isinstance(update, RunProgress):
            self._take_run(update, now)
        elif isinstance(update, ControllerHealth):
            self._take_controller(update, now)
        elif isinstance(update, LearnerHealth):
            self._take_learner(update, now)
        elif isinstance(update, BridgeHealth):
            self._count('sim_bridge', update.commands_received, now)
            self.bridge = update
        else:
            if self.guard is not None and update.state != self.guard.state and update.reason:
                self.messages.append(f'guard: {update.state}, {update.reason}')
            self._seen_s['guard'] = now
            self.guard = update

    def say(self, message: str) -> None:
        """Keep a message to be shown among the last ones."""
        self.messages.append(message)

    def loss(self) -> tuple[str, float] | None:
        """Give name and value of the loss of the model, None if it has none yet."""
        learner = self.learners.get('model_learner')
        if learner is None:
            return None
        for name in LOSSES:
            value = learner.metrics.get(name)
            if value is not None and value == value:
                return name, value
        return None

    def nodes(self, now: float) -> list[Node]:
        """Give a row for each node that has been heard of, at ``now``, s."""
        rows = []
        if self.bridge is not None:
            bridge = self.bridge
            state = 'paused' if bridge.paused else 'holding' if bridge.holding else 'running'
            note = f'x{bridge.real_time_factor:.2f} real time'
            if bridge.limit_violations:
                note += f', {bridge.limit_violations} commands beyond limits'
            rows.append(self._row('sim_bridge', state, 'commands/s', note,
                                  bridge.limit_violations > 0, now))
        if self.controller is not None:
            controller = self.controller
            note = controller.fault or controller.scheduler
            rows.append(self._row('controller', controller.state, 'ticks/s', note,
                                  bool(controller.fault), now))
        if self.guard is not None:
            rows.append(self._row('guard', self.guard.state, '', self.guard.reason,
                                  self.guard.state == 'acting', now))
        if self.run is not None:
            rows.append(self._row('robot_interface', self.run.phase, 'transitions/s',
                                  self.run.reason, self.run.phase == 'failed', now))
        for name, learner in self.learners.items():
            note = learner.reason or f'{learner.next_transition} transitions'
            if learner.transitions_recovered:
                note += f', {learner.transitions_recovered} asked for again'
            rows.append(self._row(name, learner.state, 'updates/s', note,
                                  learner.state == 'failed', now))
        return rows

    def _take_run(self, update: RunProgress, now: float) -> None:
        before = self.run
        if update.episodes > (0 if before is None else before.episodes):
            if update.last_distance_m is not None:
                self.distances_m.append(update.last_distance_m)
            self.returns.append(update.recent_return)
        if before is not None and before.phase != update.phase:
            self.messages.append(f'run: {update.phase}' + (f', {update.reason}' if update.reason
                                                          else ''))
        self._count('robot_interface', update.transitions, now)
        self.run = update

    def _take_controller(self, update: ControllerHealth, now: float) -> None:
        before = self.controller
        if before is not None:
            if update.fault and update.fault != before.fault:
                self.messages.append(f'controller: fault, {update.fault}')
            if update.policies_rejected > before.policies_rejected:
                self.messages.append(f'controller: policy refused, {update.last_rejection}')
            if update.stale_holds > before.stale_holds:
                self.messages.append('controller: joint states were stale, arm held')
        self._count('controller', update.ticks, now)
        self.controller = update

    def _take_learner(self, update: LearnerHealth, now: float) -> None:
        before = self.learners.get(update.name)
        if before is not None and update.version.incarnation > before.version.incarnation > 0:
            self.messages.append(f'{update.name}: back, incarnation '
                                 f'{update.version.incarnation}, '
                                 f'{update.transitions_recovered} transitions asked for again')
        self._count(update.name, update.updates, now)
        self.learners[update.name] = update
        loss = self.loss()
        if update.name == 'model_learner' and loss is not None:
            if loss[0] != self._loss_name:
                self._loss_name = loss[0]
                self.model_losses.clear()
            if loss[1] not in self.model_losses[-1:]:
                self.model_losses.append(loss[1])

    def _count(self, name: str, count: float, now: float) -> None:
        self._seen_s[name] = now
        self._rates.setdefault(name, _Rate()).take(count, now)

    def _row(self, name: str, state: str, unit: str, note: str, alarming: bool,
             now: float) -> Node:
        age = now - self._seen_s[name]
        rate = self._rates[name].text(unit) if name in self._rates else ''
        ended = self.run is not None and self.run.phase in ('done', 'failed')
        if age > SILENT_S and not ended:
            return Node(name, 'silent', '', age, note, True)
        return Node(name, state, rate, age, note, alarming)
