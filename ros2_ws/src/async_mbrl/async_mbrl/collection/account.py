"""What is known of a run from the status messages of its nodes, and what follows from them.

Messages are those of async_mbrl_interfaces, or anything with the same fields. Times are ROS time,
s. Replaying a journal rebuilds an account.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from async_mbrl.collection.course import Phase
from async_mbrl.core.snapshot import NO_VERSION, Version

POLICY_LEARNER = 'policy_learner'
GUARD_ACTING = 2
"""State of a guard that sends the safe command: SafetyStatus.FAULT. ACTIVE only says armed."""

_CONTROLLER_TOTALS = ('ticks', 'late_ticks', 'interventions', 'policies_applied',
                      'policies_rejected', 'stale_holds')
_BRIDGE_TOTALS = ('commands_received', 'commands_refused', 'limit_violations')
_LOAD_TOTALS = ('ticks', 'late_ticks')
_LEARNER_TOTALS = ('transitions_recovered', 'updates_in_motion', 'running_s', 'waiting_s')


class Total:
    """Sum of a counter that begins again at 0 when its process is restarted."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._before = 0
        self._last = 0

    def update(self, value: int) -> None:
        """Take a reading."""
        if value < self._last:
            self._before += self._last
        self._last = value

    @property
    def value(self) -> int:
        """The sum."""
        return self._before + self._last


class PolicyLag:
    """How many versions the acting policy is behind the newest published, per learning step.

    The newest version is heard of twice a second only, so its counter at the time of a step is
    interpolated between the statuses around it.

    Attributes:
        last: lag of the newest step that is known; None before there is one.
    """

    def __init__(self) -> None:
        """Begin with no step."""
        self._lags: Counter[int] = Counter()
        self._newest: tuple[float, Version] | None = None
        self._steps: list[tuple[float, Version]] = []
        self.last: int | None = None

    def begin_session(self) -> None:
        """Drop steps of which nothing more will be heard; time may have a new zero."""
        self._newest, self._steps = None, []

    def published(self, time_s: float, version: Version) -> None:
        """Hear the newest version at a time."""
        waiting, self._steps = self._steps, []
        for step in waiting:
            if step[0] > time_s:
                self._steps.append(step)
            else:
                self.last = self._lag(*step, time_s, version)
                self._lags[self.last] += 1
        self._newest = time_s, version

    def acted(self, time_s: float, version: Version) -> None:
        """Take note of a learning step and the version that acted."""
        self._steps.append((time_s, version))

    def percentile(self, share: float) -> int | None:
        """Give the lag that a share of the steps does not exceed; None without steps."""
        return counted_percentile(self._lags, share)

    def _lag(self, time_s: float, acting: Version, next_s: float, newest: Version) -> int:
        counter = float(newest.counter)
        if self._newest is not None:
            begin_s, begin = self._newest
            if begin.incarnation == newest.incarnation and next_s > begin_s <= time_s < next_s:
                share = (time_s - begin_s) / (next_s - begin_s)
                counter = begin.counter + share * (newest.counter - begin.counter)
        if acting.incarnation == newest.incarnation:
            return max(0, int(counter) - acting.counter)
        # Versions of an incarnation that ended are not known; those of the newer one are.
        return int(counter) + 1 if acting < newest else 0


class Account:
    """Last statuses, totals over restarts, faults and policy lag of a run.

    Attributes:
        controller: last status heard, None before, as for bridge, guard and learners; percentiles
            in a status are those of the last start of its node.
        controller_under_load: last status heard while the run was learning, as for the bridge, so
            that figures which add up from the start of a node leave out what came after.
        totals: over all starts, by name of the field.
        totals_under_load: the same, as far as heard while the run was learning.
    """

    def __init__(self) -> None:
        """Begin knowing nothing."""
        self.controller: Any = None
        self.bridge: Any = None
        self.controller_under_load: Any = None
        self.bridge_under_load: Any = None
        self.guard: Any = None
        self.learners: dict[str, Any] = {}
        self.faults: list[str] = []
        self.lag = PolicyLag()
        self.totals = {name: Total() for name in (*_CONTROLLER_TOTALS, *_BRIDGE_TOTALS)}
        self.totals_under_load = {name: Total() for name in _LOAD_TOTALS}
        self._learning = False
        self._learner_totals: dict[tuple[str, str], dict[str, Any]] = {}
        self._published: dict[int, int] = {}

    @property
    def versions_published(self) -> int | None:
        """Policy snapshots published over all incarnations; None if none is known."""
        return sum(self._published.values()) if self._published else None

    def learner_total(self, name: str, field: str) -> Any:
        """Give a counter or a time of a learner over all its starts; None if it was not heard."""
        starts = self._learner_totals.get((name, field))
        return None if starts is None else sum(starts.values())

    def begin_session(self) -> None:
        """Begin to hear in a new process."""
        self._learning = False
        self.lag.begin_session()

    def heard_phase(self, phase: int) -> None:
        """Learn in which phase the run is from here on."""
        self._learning = phase == Phase.LEARNING

    def heard_controller(self, message: Any) -> None:
        """Take a controller status."""
        self.controller = message
        for name in _CONTROLLER_TOTALS:
            self.totals[name].update(getattr(message, name))
        if self._learning:
            self.controller_under_load = message
            for name in _LOAD_TOTALS:
                self.totals_under_load[name].update(getattr(message, name))
        if message.fault:
            self._fault(f'controller: {message.fault}')

    def heard_bridge(self, message: Any) -> None:
        """Take a bridge status."""
        self.bridge = message
        for name in _BRIDGE_TOTALS:
            self.totals[name].update(getattr(message, name))
        if self._learning:
            self.bridge_under_load = message

    def heard_guard(self, message: Any) -> None:
        """Take the status of the guard."""
        if message.state == GUARD_ACTING and (self.guard is None
                                              or self.guard.state != GUARD_ACTING):
            self._fault(f'guard: {message.reason or "acted"}')
        self.guard = message

    def heard_learner(self, message: Any, time_s: float) -> None:
        """Take a learner status."""
        self.learners[message.name] = message
        for field in _LEARNER_TOTALS:
            starts = self._learner_totals.setdefault((message.name, field), {})
            starts[message.session] = getattr(message, field)
        if message.reason:
            self._fault(f'{message.name}: {message.reason}')
        if message.name == POLICY_LEARNER:
            version = Version(message.version.incarnation, message.version.counter)
            if version != NO_VERSION:
                self._published[version.incarnation] = max(
                    version.counter + 1, self._published.get(version.incarnation, 0))
                self.lag.published(time_s, version)

    def _fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)


def counted_percentile(counts: Counter[int], share: float) -> int | None:
    """Give the least value that at least a share of the counted does not exceed."""
    total = sum(counts.values())
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return value
    return None
