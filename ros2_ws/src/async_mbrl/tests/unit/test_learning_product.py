"""The matrix products of an ensemble against 64-bit arithmetic, and how one is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import learning_rig
import pytest
import torch
from torch import nn

from async_mbrl.core.config import ConfigError
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.learning import product
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.learning.dynamics import StructuredDynamics, make_dynamics, make_imagined
from async_mbrl.learning.ensemble import Ensemble
from async_mbrl.learning.model_learner import ModelLearner
from async_mbrl.learning.policy_learner import PolicyLearner
from async_mbrl.learning.product import choose_numbers, choose_product
from async_mbrl.learning.settings import MePpoConfig

ACTIVATIONS = {'tanh': torch.tanh, 'silu': nn.functional.silu, 'relu': torch.relu}
PRODUCTS = [
    'batched', 'members',
    pytest.param('onednn', marks=pytest.mark.skipif(
        not product.onednn_works(), reason='this torch has no product of oneDNN'))]
onednn = pytest.mark.skipif(not product.onednn_works(),
                            reason='this torch has no product of oneDNN')
SMALL = {'members': 3, 'hidden': (32, 32), 'batch': 32}


@pytest.fixture
def no_memory() -> Iterator[None]:
    """Forget what was found out about this torch, before and after."""
    caches = (product.onednn_works, product._faster, product._faster_numbers)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def member_by_member(ensemble: Ensemble, activation: str, x: torch.Tensor) -> torch.Tensor:
    """The same in 64 bits with ordinary layers."""
    outputs = []
    for member in range(x.shape[0]):
        h = x[member]
        for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases,
                                                   strict=True)):
            if layer:
                h = ACTIVATIONS[activation](h)
            h = h @ weight[member].double() + bias[member, 0].double()
        outputs.append(h)
    return torch.stack(outputs)


def ensemble_and_inputs(kind: str, activation: str, rows: int) -> tuple[Ensemble, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ensemble = Ensemble(3, (9, 40, 33, 5), activation, generator, initial='uniform', product=kind)
    with torch.no_grad():
        for bias in ensemble.biases:
            bias.normal_(generator=generator)
    return ensemble, torch.randn(3, rows, 9, generator=generator)


def test_layers_begin_as_those_of_torch_do() -> None:
    ensemble = Ensemble(2, (400, 900, 30), 'relu', torch.Generator().manual_seed(1),
                        initial='uniform')
    with torch.random.fork_rng():
        torch.manual_seed(1)
        linear = [torch.nn.Linear(400, 900), torch.nn.Linear(900, 30)]
    for layer, weight, bias in zip(linear, ensemble.weights, ensemble.biases, strict=True):
        for ours, theirs in ((weight, layer.weight), (bias, layer.bias)):
            bound = layer.in_features ** -0.5
            assert ours.abs().max() <= bound
            # Of 60 numbers the standard deviation is known to within a few percent.
            torch.testing.assert_close(ours.std(), torch.tensor(bound / 3 ** 0.5), rtol=0.2, atol=0)
            torch.testing.assert_close(theirs.std(), torch.tensor(bound / 3 ** 0.5), rtol=0.3,
                                       atol=0)
        assert not torch.equal(weight[0], weight[1])


@pytest.mark.parametrize('rows', [1, 7, 64])
@pytest.mark.parametrize('activation', sorted(ACTIVATIONS))
@pytest.mark.parametrize('kind', PRODUCTS)
def test_values_and_gradients_are_those_of_64_bits(kind: str, activation: str, rows: int) -> None:
    ensemble, x = ensemble_and_inputs(kind, activation, rows)
    x.requires_grad_()
    leaves = [x, *ensemble.parameters()]
    weights = torch.randn(3, rows, 5, generator=torch.Generator().manual_seed(4))
    outputs = ensemble(x)
    expected = member_by_member(ensemble, activation, x.double())
    torch.testing.assert_close(outputs, expected.float(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ensemble(x), expected.float(), rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad((outputs * weights).sum(), leaves)
    wanted = torch.autograd.grad((expected * weights.double()).sum(), leaves)
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('activation', sorted(ACTIVATIONS))
@pytest.mark.parametrize('kind', PRODUCTS)
def test_many_rows_without_gradients_give_the_same(kind: str, activation: str) -> None:
    ensemble, x = ensemble_and_inputs(kind, activation, 3000)
    before = x.clone()
    with torch.inference_mode():
        found = ensemble(x)
    assert torch.equal(x, before)
    expected = member_by_member(ensemble, activation, x.double())
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('activation', sorted(ACTIVATIONS))
def test_members_in_bfloat16_give_what_the_batched_product_gives(activation: str) -> None:
    leaves, found = [], []
    for kind in ('batched', 'members'):
        ensemble, x = ensemble_and_inputs(kind, activation, 64)
        ensemble.numbers = torch.bfloat16
        x.requires_grad_()
        outputs = ensemble(x)
        leaves = [x, *ensemble.parameters()]
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        # Sums are rounded in another order: to 8 bits of their greatest parts.
        greatest = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * greatest)


@pytest.mark.parametrize('kind', PRODUCTS[1:])
def test_only_gradients_that_are_wanted_are_computed(kind: str) -> None:
    ensemble, x = ensemble_and_inputs(kind, 'silu', 6)
    ensemble.requires_grad_(False)
    x.requires_grad_()
    of_input, = torch.autograd.grad(ensemble(x).sum(), x)
    expected, = torch.autograd.grad(
        member_by_member(ensemble, 'silu', x.double()).sum(), x)
    torch.testing.assert_close(of_input, expected, rtol=1e-4, atol=1e-4)
    assert not ensemble(x.detach()).requires_grad
    ensemble.weights[1].requires_grad_()
    of_weight, = torch.autograd.grad(ensemble(x.detach()).sum(), ensemble.weights[1])
    wanted, = torch.autograd.grad(
        member_by_member(ensemble, 'silu', x.detach().double()).sum(), ensemble.weights[1])
    torch.testing.assert_close(of_weight, wanted, rtol=1e-4, atol=1e-4)


@onednn
def test_strided_inputs_and_an_unrolled_model_are_right() -> None:
    ensemble, x = ensemble_and_inputs('onednn', 'tanh', 8)
    wide = torch.cat([x, x], -1)
    for view in (x[:1].expand(3, -1, -1), wide[..., 9:], x.transpose(0, 1).contiguous()
                 .transpose(0, 1), x[:, :0]):
        torch.testing.assert_close(
            ensemble(view), member_by_member(ensemble, 'tanh', view.double()).float(),
            rtol=1e-5, atol=1e-5)
    x.requires_grad_()
    unrolled, expected = x, x.double()
    for _ in range(3):
        unrolled = torch.cat([ensemble(unrolled), unrolled[..., 5:]], -1)
        expected = torch.cat([member_by_member(ensemble, 'tanh', expected), expected[..., 5:]], -1)
    for leaf in (x, ensemble.weights[0]):
        found, = torch.autograd.grad(unrolled.square().sum(), leaf, retain_graph=True)
        wanted, = torch.autograd.grad(expected.square().sum(), leaf, retain_graph=True)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('kind', PRODUCTS[1:])
def test_a_weight_changed_between_the_passes_is_noticed(kind: str) -> None:
    ensemble, x = ensemble_and_inputs(kind, 'silu', 4)
    result = ensemble(x).sum()
    with torch.no_grad():
        ensemble.weights[1].add_(1.0)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        torch.autograd.grad(result, ensemble.weights[0])


@onednn
def test_other_precisions_take_the_batched_product() -> None:
    ensemble, x = ensemble_and_inputs('onednn', 'silu', 4)
    ensemble.double()
    torch.testing.assert_close(ensemble(x.double()),
                               member_by_member(ensemble, 'silu', x.double()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_an_ensemble_on_cuda_is_right() -> None:
    ensemble, x = ensemble_and_inputs('onednn', 'silu', 64)
    expected = member_by_member(ensemble, 'silu', x.double()).float()
    torch.testing.assert_close(ensemble.to('cuda')(x.to('cuda')).cpu(), expected,
                               rtol=1e-3, atol=1e-3)


@onednn
def test_learners_with_either_product_learn_the_same() -> None:
    task = learning_rig.make_task()
    transitions = learning_rig.Plant(task).explore(6)
    losses = []
    for kind in ('batched', 'onednn'):
        learner = ModelLearner(ModelConfig(**SMALL, product=kind), task, seed=5)
        assert learner.product == kind
        learner.take(transitions)
        for _ in range(5):
            learner.step()
        losses.append(learner.metrics()['training_loss'])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_without_onednn_auto_is_batched_and_onednn_refused(
        monkeypatch: pytest.MonkeyPatch, no_memory: None) -> None:
    def missing(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no such attribute")

    monkeypatch.setattr(product, '_linear', missing)
    task = learning_rig.make_task()
    generator = torch.Generator().manual_seed(0)
    dynamics = StructuredDynamics(ModelConfig(**SMALL), task, generator)
    assert dynamics.network.product == 'batched'
    with pytest.raises(ConfigError, match="model.product: 'onednn' is not possible.*'batched'"):
        StructuredDynamics(ModelConfig(**SMALL, product='onednn'), task, generator)


def test_a_product_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch,
                                             no_memory: None) -> None:
    right = product._linear
    monkeypatch.setattr(product, '_linear', lambda x, *rest: right(x, *rest) + 0.01)
    assert not product.onednn_works()


@pytest.mark.parametrize(('seconds', 'faster'), [(2.0, 'batched'), (0.95, 'batched'),
                                                 (0.5, 'onednn')])
def test_auto_takes_onednn_only_if_clearly_faster(
        seconds: float, faster: str, monkeypatch: pytest.MonkeyPatch, no_memory: None) -> None:
    """The clock is stepped by what each pass is said to last."""
    now = [0.0]
    monkeypatch.setattr(product, 'onednn_works', lambda: True)
    monkeypatch.setattr(product.time, 'thread_time', lambda: now[0])
    compute = product.batched_perceptrons

    def takes(duration: float) -> object:
        def function(*arguments: object) -> torch.Tensor:
            now[0] += duration
            return compute(*arguments)  # type: ignore[arg-type]
        return function

    monkeypatch.setattr(product, 'batched_perceptrons', takes(1.0))
    monkeypatch.setattr(product, 'onednn_perceptrons', takes(seconds))
    assert choose_product('auto', 3, (4, 8, 2), 'silu', 16) == faster
    assert choose_product('batched', 3, (4, 8, 2), 'silu', 16) == 'batched'


def test_imagination_in_bfloat16_is_that_of_the_model_but_for_rounding() -> None:
    task = learning_rig.make_task()
    config = ModelConfig(numbers='bfloat16', kind='plain', hidden=(64, 64), members=3)
    model = make_dynamics(replace(config, numbers='float32'), task,
                          torch.Generator().manual_seed(1))
    imagined = make_imagined(config, task, torch.Generator().manual_seed(2))
    imagined.load_tensors(model.tensors())
    assert [weight.dtype for weight in imagined.network.weights] == [
        torch.bfloat16, torch.bfloat16, torch.float32]
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(3, 50, task.state_size, generator=generator)
    action = torch.rand(3, 50, task.action_size, generator=generator) - 0.5
    with torch.no_grad():
        wanted, found = (each.predict(state, action) for each in (model, imagined))
    assert found.dtype == torch.float32
    change = (wanted - state).std()
    assert 0.0 < (found - wanted).std() < 0.02 * change
    assert imagined.learned_bytes == sum(value.nbytes for value in model.tensors().values())


def test_numbers_are_those_asked_for_and_auto_takes_the_faster_ones(
        no_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(numbers: str) -> torch.dtype:
        return choose_numbers(numbers, 3, (5, 8, 2), 'relu', 20)

    assert (chosen('float32'), chosen('bfloat16')) == (torch.float32, torch.bfloat16)
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.95}
    now = 0.0

    def take_time(activation: str, x: torch.Tensor, weights: object, biases: object,
                  numbers: torch.dtype) -> None:
        nonlocal now
        now += seconds[numbers]

    monkeypatch.setattr(product, 'batched_perceptrons', take_time)
    monkeypatch.setattr(product.time, 'thread_time', lambda: now)
    assert chosen('auto') == torch.float32      # hardly faster is not worth the rounding
    product._faster_numbers.cache_clear()
    seconds[torch.bfloat16] = 0.5
    assert chosen('auto') == torch.bfloat16


def test_a_policy_learner_that_imagines_in_bfloat16_resumes_to_the_bit(tmp_path: Path) -> None:
    task = learning_rig.make_task()
    config = ModelConfig(numbers='bfloat16', hidden=(16, 16), members=2)
    settings = MePpoConfig(rollouts=8, horizon=5, value_hidden=(8,))
    network = PolicyNetworkConfig((8,), 'tanh', 'clip')

    def learner(incarnation: int) -> PolicyLearner:
        return PolicyLearner(settings, config, network, ExplorationConfig(), task, seed=0,
                             incarnation=incarnation)

    transitions = learning_rig.Plant(task).explore(4)
    model = ModelLearner(config, task, seed=0)
    first = learner(1)
    for worker in (model, first):
        worker.take(transitions)
    model.step()
    first.take_snapshot(model.snapshot())
    while not first.updates:
        first.step()
    first.save(tmp_path)
    again = learner(2)
    again.restore(tmp_path)
    for worker in (first, again):
        while worker.updates < 3:
            worker.step()
    for one, other in zip(first.snapshot().tensors.values(), again.snapshot().tensors.values(),
                          strict=True):
        assert (one == other).all()


def test_a_model_is_learned_as_well_in_bfloat16() -> None:
    task = learning_rig.make_task()
    errors = {}
    for numbers in ('float32', 'bfloat16'):
        learner = ModelLearner(ModelConfig(**SMALL, numbers=numbers, learning_rate=3e-3), task,
                               seed=0)
        plant = learning_rig.Plant(task)
        learner.take(plant.explore(30))
        while learner.updates < 400:
            learner.step()
        learner.take(plant.explore(1))
        errors[numbers] = learner.metrics()['validation_loss']
        assert {each.dtype for each in learner.dynamics.parameters()} == {torch.float32}
    assert errors['bfloat16'] < 1.2 * errors['float32'] + 1e-3
    assert errors['bfloat16'] != errors['float32']
