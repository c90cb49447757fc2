"""What learners have to do on any device; each check raises where they do not.

They are plain functions of a device, so that a process of its own can run them on a stand-in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import learning_rig
import numpy as np
import torch
from point_mass import PointMass, Robot

from async_mbrl.core import snapshot as snapshots
from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.core.transition import ControlStep, Mode, StepKind, Transition
from async_mbrl.learning.buffer import TransitionBuffer
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.device import CPU, Generators
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.predictive_control import PredictiveControl
from async_mbrl.learning.pretraining import OfflineData, Pretraining
from async_mbrl.learning.product import choose_numbers, choose_product
from async_mbrl.learning.settings import (
    AwacConfig,
    ImprovementConfig,
    MbMpoConfig,
    MbpoConfig,
    MePpoConfig,
    MeTrpoConfig,
    PetsConfig,
    PpoConfig,
    SacConfig,
    SamplingConfig,
    SvgConfig,
)
from async_mbrl.learning.settings.trust_region import TrustRegionConfig

ARM, MASS = learning_rig.make_task(), PointMass(ends=True)
CLIPPED = PolicyNetworkConfig((8,), 'tanh', 'clip')
BOUNDED = PolicyNetworkConfig((8,), 'tanh', 'tanh')
DRAWN = PolicyNetworkConfig((8,), 'tanh', 'clip', 'state_independent')
SPREAD = PolicyNetworkConfig((8,), 'silu', 'tanh_mean', 'state_independent')
SQUASHED = PolicyNetworkConfig((8,), 'silu', 'tanh', 'state_dependent')
DAMPED = TrustRegionConfig(damping=1.0)     # so that steps do not hang on how sums are rounded
OF_ARM = ModelConfig(members=2, hidden=(8,), batch=8, product='batched', updates_per_step=2)
STOPPING = dataclasses.replace(OF_ARM, early_stopping=True, persistence=0.0, learning_rate=0.01)
OF_MASS = dataclasses.replace(OF_ARM, kind='plain')


@dataclass(frozen=True)
class Case:
    """An algorithm, and what it learns with."""

    improvement: ImprovementConfig
    network: PolicyNetworkConfig = CLIPPED
    task: Any = ARM
    model: ModelConfig = OF_ARM
    parameter_noise: float = 0.0


CASES = {
    'me_ppo': Case(MePpoConfig(rollouts=4, horizon=4, epochs=2, value_hidden=(8,),
                               mix_members=True), parameter_noise=0.2),
    'me_trpo': Case(MeTrpoConfig(rollouts=4, horizon=4, value_hidden=(8,), trust_region=DAMPED),
                    model=STOPPING),
    'me_trpo_linear': Case(MeTrpoConfig(
        rollouts=4, horizon=4, baseline='linear',
        trust_region=dataclasses.replace(DAMPED, curvature_stride=2))),
    'mb_mpo': Case(MbMpoConfig(rollouts=2, tasks=2, horizon=4, disagreement_weight=0.1,
                              trust_region=DAMPED)),
    'svg': Case(SvgConfig(rollouts=4, horizon=4, value_hidden=(8,), disagreement_weight=0.1)),
    'mbpo': Case(MbpoConfig(batch=20, critic_hidden=(8,), rollouts=8, rollout_interval=2,
                            first_length=3, last_length=3, imagined_capacity=30, real_share=0.3,
                            disagreement_weight=0.1,
                            sampling=SamplingConfig(kind='prioritised')),
                 SQUASHED, MASS, OF_MASS),
    'pets': Case(PetsConfig(horizon=6, candidates=8, iterations=2, elites=4, batch=8),
                 BOUNDED, MASS, OF_MASS),
    'pets_mppi': Case(PetsConfig(planner='mppi', horizon=6, candidates=8, iterations=2, elites=4,
                                 batch=8), BOUNDED),
    'sac': Case(SacConfig(batch=8, critic_hidden=(8,), curiosity_weight=0.1,
                          sampling=SamplingConfig(kind='recent', recent_minimum=10)),
                SQUASHED, MASS),
    'awac': Case(AwacConfig(batch=8, critic_hidden=(8,), offline_updates=2, curiosity_weight=0.1,
                            sampling=SamplingConfig(kind='prioritised')),
                 SPREAD, MASS),
    'ppo': Case(PpoConfig(iteration_transitions=20, value_hidden=(8,), epochs=2, minibatches=2),
                DRAWN, MASS),
}


class Life:
    """Both learners of a case, and a robot that acts for them."""

    def __init__(self, case: Case, device: torch.device, seed: int = 0,
                 incarnation: int = 1) -> None:
        self.case = case
        exploration = ExplorationConfig(correlation=0.0, parameter_noise=case.parameter_noise)
        self.policy = PolicyLearner(case.improvement, case.model, case.network, exploration,
                                    case.task, seed=seed, device=device,
                                    incarnation=incarnation)
        self.model = (ModelLearner(case.model, case.task, seed=seed, device=device,
                                   incarnation=incarnation)
                      if case.improvement.NEEDS_MODEL else None)
        self._device, self._incarnation = device, incarnation
        self._plant, self._robot = learning_rig.Plant(ARM), Robot(MASS, case.network)

    @property
    def learners(self) -> dict[str, PolicyLearner | ModelLearner]:
        """The learners by name."""
        model = {} if self.model is None else {'model_learner': self.model}
        return {**model, 'policy_learner': self.policy}

    def pretrain(self) -> None:
        """Learn from offline data, where the algorithm can."""
        try:
            self.case.improvement.check_offline()
        except ConfigError:
            return
        task, other = self.case.task, Life(self.case, CPU, seed=5)
        offline = TransitionBuffer(1000, task.state_size, task.action_size, task.goal_size,
                                   self._device)
        for _ in range(3):
            offline.append(other.episode())
        training = Pretraining(OfflineData(offline, 'digest'), self.policy, self.model)
        for _ in training.run(min(2, self.case.improvement.offline_updates), 4):
            pass

    def update(self, times: int) -> None:
        """Learn the model, and the policy in it, with an episode before each time."""
        for _ in range(times):
            self.collect(1)
            if self.model is not None:
                assert self.model.step(), 'the model does not learn'
                self.policy.take_snapshot(self.model.snapshot())
            before = self.policy.updates
            while self.policy.updates == before:
                assert self.policy.step(), 'the policy does not learn'

    def collect(self, episodes: int) -> None:
        """Let the robot act by the newest policy, and the learners take what it did."""
        for _ in range(episodes):
            found = self.episode()
            for learner in self.learners.values():
                learner.take([each for each in found if each.number >= learner.next_transition])

    def episode(self) -> list[Transition]:
        """Give the transitions of an episode."""
        if self.case.task is ARM:
            return self._plant.explore(1)
        self._robot.act_by(self.policy.snapshot())
        return self._robot.episode()

    def check(self) -> dict[str, Snapshot]:
        """See to it that all is finite and where it should be; give what is published."""
        published = {}
        for name, learner in self.learners.items():
            figures = learner.metrics()
            assert all(np.isfinite(value) for value in figures.values()), f'{name}: {figures}'
            snapshot = learner.snapshot()
            assert {type(value) for value in snapshot.tensors.values()} == {np.ndarray}
            published[name] = snapshots.decode(
                snapshots.encode(snapshot), expected_architecture=snapshot.architecture)
        places = {each.device.type for each in parts(self) if each.dim()}
        assert places == {self._device.type}, places
        return published

    def live_in(self, folder: Path) -> None:
        """Go on from what a folder holds, with transitions in a file there."""
        for name, learner in self.learners.items():
            learner.restore(folder / name)

    def move(self, device: torch.device, folder: Path) -> Life:
        """Go on from checkpoints on a device, with nothing but these."""
        for name, learner in self.learners.items():
            learner.save(folder / name)
            learner.close()
        there = Life(self.case, device, seed=3, incarnation=self._incarnation + 1)
        there.live_in(folder)
        there._plant, there._robot = self._plant, self._robot
        return there


def parts(life: Life) -> list[torch.Tensor]:
    """Give what is learned, and what optimisers remember of it."""
    algorithm, model = life.policy.algorithm, life.model
    optimizers = [*algorithm.optimizers().values()]
    found = [*algorithm.state_dict().values()]
    if model is not None:
        optimizers.append(model._optimizer)
        found += [*model.dynamics.state_dict().values(), *model.average.state_dict().values()]
    for optimizer in optimizers:
        found += [*optimizer.parameters, *(each for kind in optimizer.moments for each in kind)]
    return found


def assert_alike(found: Mapping[str, Snapshot], wanted: Mapping[str, Snapshot],
                 tolerance: float) -> None:
    """Compare what was published."""
    for name, snapshot in wanted.items():
        assert found[name].tensors.keys() == snapshot.tensors.keys()
        for part, value in snapshot.tensors.items():
            np.testing.assert_allclose(found[name].tensors[part], value, tolerance, tolerance,
                                       err_msg=f'{name}: {part}')


def learns(name: str, device: torch.device) -> dict[str, Snapshot]:
    """Begin with offline data, go on with the robot; give what is published."""
    life = Life(CASES[name], device)
    life.pretrain()
    life.collect(3)
    life.update(3)
    return life.check()


def learns_the_same(name: str, device: torch.device) -> None:
    """Learn what is learned on the CPU, if the same is drawn there."""
    found = learns(name, device)

    def apart(device: torch.device, seed: int) -> Generators:
        return Generators(torch.Generator().manual_seed(seed),
                          torch.Generator(device).manual_seed(seed))

    with mock.patch.object(Generators, 'on', apart):
        wanted = learns(name, CPU)
    assert_alike(found, wanted, 1e-3)


def moves(name: str, folder: Path, device: torch.device) -> None:
    """Go on with what was learned on the other device, there and back, with equal policies."""
    life = Life(CASES[name], device)
    life.collect(3)
    life.update(1)
    for where in (CPU, device, device):
        before = life.check()
        moved = life.move(where, folder)
        assert_alike(moved.check(), before, 0.0)
        life = moved
        life.update(1)
    fresh = Life(CASES[name], CPU)      # as another run that begins from this one
    for learner, path in ((each, folder / kind) for kind, each in fresh.learners.items()):
        learner.begin_from(path)
    fresh.check()


def resumes(name: str, folder: Path, device: torch.device) -> None:
    """Learn after a restart on the same device what is learned without one."""
    found = []
    for begun in ('whole', 'restarted'):
        life = Life(CASES[name], device)
        life.live_in(folder / begun)
        life.collect(3)
        life.update(1)
        life = life.move(device, folder / begun) if begun == 'restarted' else life
        life.update(1)
        found.append(life.check())
    assert_alike(found[0], found[1], 1e-6)


def stops_members(device: torch.device) -> None:
    """Stop one member of an ensemble early, and learn the other one on."""
    model = ModelLearner(STOPPING, ARM, seed=0, device=device)
    model.take(learning_rig.Plant(ARM).explore(6))
    assert model.step() and model._stopping is not None
    active = [True, False]      # which one stops first depends on what a device draws
    model._stopping.active[:] = active
    before = model.dynamics.tensors()
    assert model.step()
    change = np.max([np.abs(value - before[name]).reshape(2, -1).max(1)
                     for name, value in model.dynamics.tensors().items()
                     if name.startswith('network')], 0)
    assert ((change > 0.0) == active).all(), f'changed by {change}, active: {active}'


def plans(name: str, device: torch.device) -> None:
    """Plan in a model that was learned there, and in one that comes from the CPU."""
    case = CASES[name]
    assert isinstance(case.improvement, PetsConfig)
    for where in (device, CPU):
        life = Life(case, where)
        life.collect(3)
        life.update(1)
        assert life.model is not None
        control = PredictiveControl(case.improvement, case.model, case.task, seed=0, device=device)
        control.take_snapshot(life.model.snapshot())
        observation = life.episode()[0].observation
        for step in range(2):
            plan = control.plan(ControlStep(
                StepKind.STEP, 0.0, 1, 1, step, Mode.LEARNING, observation,
                np.zeros(case.task.action_size)))
            assert plan is not None
            assert np.isfinite(plan.actions).all()
            assert np.abs(plan.actions).max() > 0.0


def chooses(device: torch.device) -> None:
    """Choose products and numbers that the device has."""
    sizes = (4, 8, 2)
    assert choose_product('auto', 3, sizes, 'silu', 16, device) == 'batched'
    assert choose_numbers('auto', 3, sizes, 'silu', 16, device) in (torch.float32, torch.bfloat16)
    try:
        choose_product('onednn', 3, sizes, 'silu', 16, device)
    except ConfigError as error:
        assert "use 'batched' or 'auto'" in str(error)
    else:
        raise AssertionError('oneDNN is for the CPU alone')


def refuses_to_be_mixed(device: torch.device) -> None:
    """Refuse what goes wrong where tensors or generators of the CPU are among its own."""
    here, there = torch.ones(3), torch.ones(3, device=device)
    assert torch.equal((2.0 * there + torch.tensor(1.0)).cpu(), 3.0 * here)
    wrong = {
        'mixed sum': lambda: here + there,
        'sum in place': lambda: here.add_(there),
        'mixed list': lambda: torch.cat([there, here]),
        'number in a list': lambda: torch._foreach_add([there], [torch.tensor(1.0)]),
        'index there': lambda: here[torch.tensor([0], device=device)],
        'seen by numpy': lambda: there.numpy(),
        'drawn there by the host': lambda: torch.randn(
            2, generator=torch.Generator(), device=device),
        'drawn here by the device': lambda: torch.randn(2, generator=torch.Generator(device))}
    for what, act in wrong.items():
        try:
            act()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError(f'not refused: {what}')
