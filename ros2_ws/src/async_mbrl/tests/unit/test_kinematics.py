"""Kinematics of a table: against a joint-by-joint calculation, and the same on numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.config import ConfigError
from async_mbrl.core.kinematics import KinematicChain, ToolKinematics


def random_chain(rng: np.random.Generator, joints: int, points: int) -> KinematicChain:
    def unit(size: int) -> np.ndarray:
        rows = rng.normal(size=(joints, size))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return KinematicChain(
        joint_positions=tuple(rng.uniform(-0.5, 0.5, 3 * joints)),
        joint_quaternions=tuple(unit(4).ravel()), joint_axes=tuple(unit(3).ravel()),
        tool_points=tuple(rng.uniform(-0.2, 0.2, 3 * points)))


def turned(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate a vector by a unit quaternion, without a matrix."""
    w, v = quaternion[0], quaternion[1:]
    return vector + 2.0 * np.cross(v, np.cross(v, vector) + w * vector)


def tool_by_quaternions(chain: KinematicChain, position: np.ndarray) -> np.ndarray:
    """Carry each tool point through the joints, from the last to the first."""
    rows = zip(np.reshape(chain.joint_positions, (-1, 3)),
               np.reshape(chain.joint_quaternions, (-1, 4)),
               np.reshape(chain.joint_axes, (-1, 3)), position, strict=True)
    links = list(rows)[::-1]
    result = []
    for point in np.reshape(chain.tool_points, (-1, 3)):
        for origin, orientation, axis, angle in links:
            turn = np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * axis])
            point = origin + turned(orientation, turned(turn, point))
        result.append(point)
    return np.concatenate(result)


cases = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))


@given(cases)
def test_points_are_those_of_a_joint_by_joint_calculation(case: tuple[int, int, int]) -> None:
    seed, joints, points = case
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, joints, points)
    positions = rng.uniform(-np.pi, np.pi, (2, 3, joints))
    found = ToolKinematics(chain).points(positions)
    assert found.shape == (2, 3, 3 * points)
    for index in np.ndindex(2, 3):
        expected = tool_by_quaternions(chain, positions[index])
        np.testing.assert_allclose(found[index], expected, atol=1e-12)
        alone = ToolKinematics(chain).points(positions[index])
        assert alone.shape == (3 * points,)
        np.testing.assert_allclose(alone, expected, atol=1e-12)


@given(cases)
def test_numpy_and_torch_agree(case: tuple[int, int, int]) -> None:
    seed, joints, points = case
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, joints, points)
    position = rng.uniform(-np.pi, np.pi, (5, joints)).astype(np.float32)
    found = ToolKinematics(chain, torch).points(torch.from_numpy(position))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), ToolKinematics(chain).points(position), atol=2e-6)


def test_gradients_flow_through_torch() -> None:
    rng = np.random.default_rng(0)
    kinematics = ToolKinematics(random_chain(rng, 7, 3), torch)
    position = torch.tensor(rng.uniform(-1, 1, 7), dtype=torch.float32)
    jacobian = torch.autograd.functional.jacobian(kinematics.points, position).numpy()
    step = 1e-2
    for joint in range(7):
        offset = torch.zeros(7)
        offset[joint] = step
        slope = (kinematics.points(position + offset) - kinematics.points(position - offset))
        np.testing.assert_allclose(jacobian[:, joint], slope.numpy() / (2 * step), atol=1e-3)


@pytest.mark.parametrize(('change', 'says'), [
    ({'joint_axes': (0.0, 0.0)}, 'joint_axes'),
    ({'joint_axes': ()}, 'joint_axes'),
    ({'joint_positions': (0.0,) * 6}, 'joint_positions'),
    ({'joint_quaternions': (1.0, 0.0, 0.0)}, 'joint_quaternions'),
    ({'tool_points': ()}, 'tool_points'),
    ({'tool_points': (0.0, 1.0)}, 'tool_points'),
])
def test_tables_of_the_wrong_shape_are_refused(change: dict, says: str) -> None:
    good = {'joint_positions': (0.0,) * 3, 'joint_quaternions': (1.0, 0.0, 0.0, 0.0),
            'joint_axes': (0.0, 0.0, 1.0), 'tool_points': (0.1, 0.0, 0.0)}
    KinematicChain(**good)
    with pytest.raises(ConfigError, match=says):
        KinematicChain(**(good | change))
