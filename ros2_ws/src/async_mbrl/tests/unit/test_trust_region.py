"""A step within a trust region, against dense matrices, torch.distributions and differences."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from async_mbrl.learning.conjugate_gradient import conjugate_gradient
from async_mbrl.learning.gaussian import divergence, log_density
from async_mbrl.learning.network import Mlp
from async_mbrl.learning.settings.trust_region import TrustRegionConfig
from async_mbrl.learning.trust_region import REJECTED, Curvature, Step, flat, improve

T = TypeVar('T')


def pause() -> Iterator[None]:
    yield


def finish(work: Generator[None, None, T]) -> T:
    """Give what a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return ended.value


class Problem:
    """Actions of a small Gaussian policy in double precision, with random advantages."""

    def __init__(self, seed: int = 0, rows: int = 200) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).double()

        self.network = Mlp((3, 6, 2), 'tanh', generator, output_scale=1.0).double()
        self.log_std = torch.nn.Parameter(torch.tensor([-0.5, 0.2]).double())
        self.parameters: list[Any] = [*self.network.parameters(), self.log_std]
        self.features, self.advantages = draw(rows, 3), draw(rows)
        with torch.no_grad():
            self.mean, self.std_then = self.network(self.features), self.log_std.clone()
            self.actions = self.mean + self.log_std.exp() * draw(rows, 2)
            self.then = log_density(self.actions, self.mean, self.log_std)

    def evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.network(self.features)
        ratio = (log_density(self.actions, mean, self.log_std) - self.then).exp()
        return (-(ratio * self.advantages).mean(),
                divergence(self.mean, self.std_then, mean, self.log_std).mean())

    def place(self, vector: torch.Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, vector.split(
                    [parameter.numel() for parameter in self.parameters]), strict=True):
                parameter.copy_(part.view_as(parameter))

    def dense_curvature(self) -> torch.Tensor:
        """The Fisher matrix: E[J^T S^-1 J] of the mean, and 2 for each log-std."""
        jacobian = torch.zeros(len(self.actions), 2, flat(self.parameters).numel()).double()
        mean = self.network(self.features)
        for row in range(len(mean)):
            for column in range(2):
                jacobian[row, column] = flat(torch.autograd.grad(
                    mean[row, column], self.parameters, retain_graph=True, allow_unused=True,
                    materialize_grads=True))
        precision = (-2.0 * self.log_std.detach()).exp()
        matrix = torch.einsum('rci,c,rcj->ij', jacobian, precision, jacobian) / len(mean)
        matrix[-2:, -2:] += 2.0 * torch.eye(2).double()
        return matrix


def test_density_and_divergence_are_those_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, other_mean, action = torch.randn(3, 50, 4, generator=generator).double()
    log_std, other_log_std = torch.randn(2, 4, generator=generator).double()
    one = Independent(Normal(mean, log_std.exp()), 1)
    other = Independent(Normal(other_mean, other_log_std.exp()), 1)
    torch.testing.assert_close(divergence(mean, log_std, other_mean, other_log_std),
                               kl_divergence(one, other))
    constant = 0.5 * 4 * torch.log(torch.tensor(2.0 * torch.pi).double())
    torch.testing.assert_close(log_density(action, mean, log_std) - constant,
                               one.log_prob(action))


def test_a_small_divergence_is_not_lost_in_single_precision() -> None:
    mean, log_std = torch.zeros(1, 1), torch.zeros(1)
    found = divergence(mean, log_std, mean, log_std + 1e-4)
    assert float(found) == pytest.approx(1e-8, rel=1e-2)


def test_conjugate_gradient_solves() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(12, 12, generator=generator).double()
    matrix, right = root @ root.T + torch.eye(12).double(), torch.randn(12, generator=generator)
    found = finish(conjugate_gradient(lambda v: matrix @ v, right.double(), 50, pause))
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right.double()), rtol=1e-3,
                               atol=1e-4)
    pauses = len(list(conjugate_gradient(lambda v: matrix @ v, right.double(), 3, pause)))
    assert pauses == 3


def test_curvature_is_the_fisher_matrix_and_the_difference_of_gradients() -> None:
    problem = Problem()
    curvature = Curvature(problem.evaluate()[1], problem.parameters)
    size = flat(problem.parameters).numel()
    products = torch.stack([curvature.times(unit) for unit in torch.eye(size).double()])
    torch.testing.assert_close(products, problem.dense_curvature())

    start = flat(problem.parameters).detach()
    vector = torch.randn(size, generator=torch.Generator().manual_seed(3)).double()
    product, gradients = curvature.times(vector), []
    for side in (1e-4, -1e-4):
        problem.place(start + side * vector)
        gradients.append(flat(torch.autograd.grad(problem.evaluate()[1], problem.parameters)))
    torch.testing.assert_close(product, (gradients[0] - gradients[1]) / 2e-4, rtol=1e-5, atol=1e-8)


def test_the_step_is_the_natural_gradient_as_long_as_the_divergence_allows() -> None:
    problem = Problem()
    config = TrustRegionConfig(divergence=1e-4, damping=1e-6, iterations=100)
    start = flat(problem.parameters).detach()
    gradient = flat(torch.autograd.grad(problem.evaluate()[0], problem.parameters))
    matrix = problem.dense_curvature() + 1e-6 * torch.eye(len(start)).double()
    natural = -torch.linalg.solve(matrix, gradient)
    step = finish(improve(problem.parameters, problem.evaluate, config, lambda: None, pause))
    whole = natural * (2e-4 / (natural @ matrix @ natural)).sqrt()
    torch.testing.assert_close(flat(problem.parameters).detach() - start, step.share * whole,
                               rtol=1e-3, atol=1e-7)


def test_a_curvature_of_its_own_gives_the_direction_and_the_line_search_keeps_the_bound() -> None:
    problem = Problem()
    config = TrustRegionConfig(divergence=1e-4, damping=1e-6, iterations=100)
    start = flat(problem.parameters).detach()
    gradient = flat(torch.autograd.grad(problem.evaluate()[0], problem.parameters))

    def isotropic() -> torch.Tensor:
        """Half the squared distance: its curvature is 1 in each direction."""
        return 0.5 * (flat(problem.parameters) - start).square().sum()

    step = finish(improve(problem.parameters, problem.evaluate, config, lambda: None, pause,
                          isotropic))
    moved = flat(problem.parameters).detach() - start
    torch.testing.assert_close(moved / moved.norm(), -gradient / gradient.norm())
    assert step.share > 0.0 and step.divergence <= config.divergence


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('bound', [0.001, 0.01, 0.1])
def test_divergence_comes_close_below_its_bound(seed: int, bound: float) -> None:
    problem = Problem(seed)
    before = float(problem.evaluate()[0].detach())
    step = finish(improve(problem.parameters, problem.evaluate,
                          TrustRegionConfig(divergence=bound), lambda: None, pause))
    loss, found = (float(value.detach()) for value in problem.evaluate())
    assert 0.4 * bound < found <= bound
    assert step.divergence == pytest.approx(found)
    assert step.gain == pytest.approx(before - loss) and step.gain > 0


class Line:
    """One parameter that begins at 0; the divergence is x^2 / 2 within ``trusted``, else much."""

    def __init__(self, trusted: float, valley: float = 100.0) -> None:
        self.x = torch.zeros(1, requires_grad=True)
        self.trusted = trusted
        self.valley = valley
        self.tried: list[float] = []

    def evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.tried.append(float(self.x.detach()))
        loss = (self.x - self.valley).square().sum() / 100.0
        small = 0.5 * self.x.square().sum()
        return loss, small if float(self.x.detach()) <= self.trusted else small + 1.0

    def step(self, **changes: Any) -> Step:
        config = replace(TrustRegionConfig(divergence=0.5, damping=1e-6), **changes)
        return finish(improve([self.x], self.evaluate, config, lambda: None, pause))


def test_line_search_takes_the_whole_step() -> None:
    line = Line(trusted=1.01)
    assert line.step().share == 1.0
    assert float(line.x.detach()) == pytest.approx(1.0, abs=1e-3)


def test_line_search_shortens_the_step_until_divergence_and_loss_allow_it() -> None:
    line = Line(trusted=0.6)
    assert line.step().share == pytest.approx(0.8 ** 3)
    assert line.tried[1:] == pytest.approx([1.0, 0.8, 0.64, 0.512], rel=1e-4)
    overshooting = Line(trusted=10.0, valley=0.3)       # better only below 0.6
    assert overshooting.step().share == pytest.approx(0.8 ** 3)


def test_line_search_rejects_and_restores() -> None:
    line = Line(trusted=0.01)
    assert line.step(backtracks=5) == REJECTED
    assert len(line.tried) == 6 and float(line.x.detach()) == 0.0
    flat_line = Line(trusted=10.0, valley=0.0)
    assert flat_line.step() == REJECTED and float(flat_line.x.detach()) == 0.0


def test_a_loss_that_is_not_finite_is_rejected() -> None:
    line = Line(trusted=10.0, valley=float('inf'))
    assert line.step() == REJECTED and float(line.x.detach()) == 0.0


def test_the_step_is_judged_where_the_bounds_of_the_parameters_leave_it() -> None:
    line = Line(trusted=0.5)

    def bound() -> None:
        line.x.clamp_(max=0.4)

    step = finish(improve([line.x], line.evaluate,
                          TrustRegionConfig(divergence=0.5, damping=0.0), bound, pause))
    assert step.share == 1.0 and float(line.x.detach()) == pytest.approx(0.4)
