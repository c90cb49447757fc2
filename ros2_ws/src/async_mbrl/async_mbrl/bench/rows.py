"""The rows of the comparison of schedules: what is run, with which settings, and how long it takes.

Algorithms have the settings of Zhang et al. 2019 (``<algorithm>.benchmark.yaml``), ME-TRPO on the
half-cheetah with the step of its synchronous form in both (``me_trpo.half_cheetah.yaml``).
Synchronous rows have the numbers of the sequential baselines there (rollouts, model epochs and
policy updates of an iteration, persistence of early stopping), and on the real clock those of
:data:`PUBLISHED`; all else, such as the buffer and where imagined rollouts start, is as in the
asynchronous rows.
"""

from __future__ import annotations

from dataclasses import dataclass

ALGORITHMS = ('me_trpo', 'me_ppo', 'mb_mpo')
SEEDS = (1, 2)
EMULATED_SEEDS = (1, 2, 3, 4)
"""Returns after 10,000 samples scatter, and more seeds cost no time of a robot."""
BEST = {'half_cheetah': 'mbpo', 'hopper': 'me_trpo'}
"""What does best on a body in the time of its row. The hopper acts at 125 Hz, so that mbpo has time
for one or two updates for each transition only, and is behind me_trpo after five minutes."""
REAL_OVERHEAD_S = 90.0
"""Wall time of a run on the real clock besides collecting: start, end, report."""

ASYNC = ('model.early_stopping=true', 'model.persistence=0.99')
SYNC = ('model.early_stopping=true', 'model.persistence=0.4', 'schedule.rollouts=10',
        'schedule.model_epochs=200', 'schedule.policy_steps=50')
PUBLISHED = {
    'me_trpo': ('model.learning_rate=1e-3', 'improvement.trust_region.divergence=0.01'),
    'me_ppo': ('model.learning_rate=1e-3', 'improvement.clip=0.2'),
    'mb_mpo': ('model.learning_rate=1e-3',)}
"""What else the sequential baselines had, on the real clock: they take fewer, larger steps."""
SMALL = {('hopper', 'mb_mpo'): ('improvement.tasks=5',)}
"""Both schedules: with 20 tasks no iteration of the sequential one ends in time on two cores."""
PERSISTENCES = (0.1, 0.4, 0.9, 0.99)

SECONDS_PER_SAMPLE = {'me_trpo': 0.012, 'me_ppo': 0.013, 'mb_mpo': 0.12}
"""Computing time of an emulated sample while no row like it was measured; a guess for mb_mpo."""


@dataclass(frozen=True)
class Row:
    """A run of the comparison.

    Attributes:
        comparison: main (real clock, the whole graph), best (real clock), emulated, or ablation
            (emulated, too).
        environment: robot and task of that name.
        algorithm: how the policy is improved.
        schedule: async, sync or interleaved.
        seed: of the run.
        settings: changes of the configuration.
        variant: what an ablation varies and to what, e.g. ``persistence 0.4``; or empty.
        wall_s: real clock: wall time, s, at which learning ends; else 0.
        samples: emulated clock: transitions collected; else 0.
        as_much_as: identifier of the row whose updates for each transition are taken over.
        share: of those.
    """

    comparison: str
    environment: str
    algorithm: str
    schedule: str
    seed: int
    settings: tuple[str, ...]
    variant: str = ''
    wall_s: float = 0.0
    samples: int = 0
    as_much_as: str = ''
    share: float = 1.0

    @property
    def name(self) -> str:
        """Give the identifier: unique, and part of file names."""
        amount = f'{self.wall_s:g}s' if self.wall_s else f'{self.samples}'
        parts = (self.comparison, self.environment, self.algorithm, self.schedule,
                 self.variant.replace(' ', '_'), amount, f'seed{self.seed}')
        return '-'.join(part for part in parts if part)


def real(environment: str, algorithm: str, minutes: float, seed: int) -> list[Row]:
    """Give both schedules on the real clock, for the same wall time, each as it was published."""
    common = SMALL.get((environment, algorithm), ())
    return [Row('main', environment, algorithm, schedule, seed, (*settings, *common),
                wall_s=60.0 * minutes)
            for schedule, settings in (('async', ASYNC), ('sync', (*SYNC, *PUBLISHED[algorithm])))]


def emulated(environment: str, algorithm: str, samples: int, seed: int) -> list[Row]:
    """Give both schedules on the emulated clock.

    The asynchronous one has as many updates for each transition as the synchronous one used, which
    goes first.
    """
    sync = Row('emulated', environment, algorithm, 'sync', seed, SYNC, samples=samples)
    return [sync, Row('emulated', environment, algorithm, 'async', seed, ASYNC, samples=samples,
                      as_much_as=sync.name)]


def ablations(environment: str, algorithm: str, samples: int, seed: int) -> list[Row]:
    """Give what is varied one at a time; the rows that they are held against are the emulated ones.

    Interleaving: the same learning as the synchronous schedule, in another order. Persistence of
    early stopping: of the asynchronous schedule. Sampling speed: a robot that is half as fast, or
    twice as fast, leaves twice, or half, the computing for each sample.
    """
    def row(schedule: str, variant: str, *settings: str, like: str = '', share: float = 1.0) -> Row:
        return Row('ablation', environment, algorithm, schedule, seed, settings, variant,
                   samples=samples, as_much_as=like, share=share)

    sync = emulated(environment, algorithm, samples, seed)[0].name
    rows = [row('interleaved', f'interleave {form}', *SYNC, f'schedule.interleave={form}')
            for form in ('model_policy', 'data_policy')]
    rows += [row('async', f'persistence {value:g}', 'model.early_stopping=true',
                 f'model.persistence={value:g}', like=sync) for value in PERSISTENCES[:-1]]
    rows += [row('async', f'robot speed {speed:g}', *ASYNC, like=sync, share=1.0 / speed)
             for speed in (0.5, 2.0)]
    return rows


def best(environment: str, minutes: float, seed: int) -> Row:
    """Give the algorithm that should do best on bodies, on the real clock."""
    algorithm = BEST[environment]
    return Row('best', environment, algorithm, 'async', seed,
               ASYNC if algorithm in ALGORITHMS else (), wall_s=60.0 * minutes)


def full() -> list[Row]:
    """Give the whole comparison, what tells most first."""
    rows: list[Row] = []
    for seed in SEEDS:
        rows += real('half_cheetah', 'me_trpo', 15.0, seed)
        for algorithm in ALGORITHMS:
            rows += real('hopper', algorithm, 6.0, seed)
    rows += [best(environment, minutes, SEEDS[0])
             for environment, minutes in (('half_cheetah', 60.0), ('hopper', 25.0))]
    for seed in EMULATED_SEEDS:
        for algorithm in ALGORITHMS:
            rows += emulated('half_cheetah', algorithm, 10_000, seed)
    for seed in SEEDS:
        rows += ablations('half_cheetah', 'me_trpo', 10_000, seed)
    return rows


def quick() -> list[Row]:
    """Give a few short rows: whether everything works, not who wins."""
    what = ('half_cheetah', 'me_trpo')
    return [*real(*what, 2.5, 1), *emulated(*what, 2_000, 1), ablations(*what, 2_000, 1)[0]]
