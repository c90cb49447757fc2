"""Which snapshots are let in: only newer ones, and only from one living publisher."""

from __future__ import annotations

import enum

from async_mbrl.core.snapshot import NO_VERSION, Version

PUBLISHER_TIMEOUT_S = 2.0
"""A publisher that was silent for so long gives way to one of a higher incarnation."""


class Verdict(enum.Enum):
    """What is to be done with a snapshot."""

    ACCEPT = 'accept'
    REFUSE = 'refuse'
    WAIT = 'wait'
    """Refused while the present publisher lives; to be asked again later."""


class SnapshotAcceptance:
    """Decide on complete, verified snapshots by who sent them and how new they are."""

    def __init__(self) -> None:
        """Accept nobody's snapshots yet, and anybody's."""
        self.version = NO_VERSION
        """Newest version accepted."""
        self.refused = 0
        """Snapshots refused, for whatever reason."""
        self.last_reason = ''
        """Why the last refused one was refused."""
        self._publisher = ''
        self._last_heard_s = 0.0

    def heard(self, publisher: str, now_s: float) -> None:
        """Take note of a snapshot or a heartbeat of a publisher at a steady time."""
        if publisher == self._publisher:
            self._last_heard_s = now_s

    def refuse(self, reason: str) -> None:
        """Count a snapshot that was refused."""
        self.refused += 1
        self.last_reason = reason

    def consider(self, version: Version, publisher: str, now_s: float) -> Verdict:
        """Decide on a snapshot.

        Args:
            version: of the snapshot.
            publisher: identifies one start of the learner that published it.
            now_s: steady time.

        Returns:
            The verdict; whatever is not accepted has been counted with its reason.
        """
        if self._publisher and version <= self.version:
            self.refuse(f'version {version} is not newer than {self.version}')
            return Verdict.REFUSE
        if self._publisher and publisher != self._publisher:
            if version.incarnation <= self.version.incarnation:
                self.refuse(f'{publisher} publishes {version} in the incarnation of '
                            f'{self._publisher}')
                return Verdict.REFUSE
            if not self.would_accept(publisher, now_s):
                self.refuse(f'{publisher} publishes {version} while {self._publisher} still lives')
                return Verdict.WAIT
        self._publisher = publisher
        self._last_heard_s = now_s
        self.version = version
        return Verdict.ACCEPT

    def would_accept(self, publisher: str, now_s: float) -> bool:
        """Say whether a publisher holds the topic or would be let in as its next holder.

        Only silence tells that the present one is gone: who publishes beside it may leave first.
        """
        return (publisher == self._publisher
                or now_s - self._last_heard_s >= PUBLISHER_TIMEOUT_S)
