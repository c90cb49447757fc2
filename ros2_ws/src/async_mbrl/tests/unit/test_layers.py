"""The layers of the package import in one direction only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'async_mbrl'
WITHOUT_ROS = ('core', 'tasks', 'learning', 'control', 'simulation', 'collection', 'datasets')
ROS = {'rclpy', 'rcl_interfaces', 'builtin_interfaces', 'std_msgs', 'std_srvs', 'sensor_msgs',
       'diagnostic_msgs', 'rosgraph_msgs', 'async_mbrl_interfaces', 'launch', 'launch_ros',
       'async_mbrl.ros', 'async_mbrl.nodes'}
FORBIDDEN = {
    **dict.fromkeys(WITHOUT_ROS, ROS),
    'core': ROS | {'torch', 'mujoco', 'async_mbrl.tasks', 'async_mbrl.control',
                   'async_mbrl.learning', 'async_mbrl.simulation', 'async_mbrl.collection',
                   'async_mbrl.datasets'},
    'tasks': ROS | {'torch', 'mujoco', 'async_mbrl.control', 'async_mbrl.learning',
                    'async_mbrl.simulation', 'async_mbrl.collection', 'async_mbrl.datasets'},
    'control': ROS | {'torch', 'mujoco', 'async_mbrl.learning', 'async_mbrl.simulation',
                      'async_mbrl.collection', 'async_mbrl.datasets'},
    'collection': ROS | {'torch', 'mujoco', 'async_mbrl.learning', 'async_mbrl.datasets'},
    'datasets': ROS | {'torch', 'mujoco', 'async_mbrl.learning', 'async_mbrl.control',
                       'async_mbrl.simulation'},
    'learning': ROS | {'mujoco', 'async_mbrl.control', 'async_mbrl.simulation',
                       'async_mbrl.collection', *(
                           f'async_mbrl.datasets.{path.stem}'
                           for path in (PACKAGE / 'datasets').glob('*.py')
                           if path.stem not in ('__init__', 'columns', 'identity', 'store'))},
    'simulation': ROS | {'torch', 'async_mbrl.learning'},
    'emulation': ROS,
    'ros': {'torch', 'mujoco', 'async_mbrl.nodes'},
    'nodes': {'mujoco'},
}
"""What the modules of a layer must not import, whether at the top or within a function."""


def modules(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob('*.py'))


def imports(tree: ast.AST) -> Iterator[str]:
    """Give the dotted names of all that is imported, `from a import b` as both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'relative import'
            assert node.module
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def offences(path: Path, forbidden: set[str]) -> list[str]:
    return sorted({
        f'{path.relative_to(PACKAGE)} imports {name}'
        for name in imports(ast.parse(path.read_text()))
        if any(name == other or name.startswith(f'{other}.') for other in forbidden)})


@pytest.mark.parametrize('layer', FORBIDDEN)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    assert modules(layer)
    assert [offence for path in modules(layer)
            for offence in offences(path, FORBIDDEN[layer])] == []


@pytest.mark.parametrize(('layers', 'absent'), [
    (('core', 'tasks', 'control', 'collection', 'datasets'), ('rclpy', 'torch', 'mujoco')),
    (('learning',), ('rclpy', 'mujoco')),
    (('simulation',), ('rclpy', 'torch')),
])
def test_what_is_imported_imports_no_more(layers: tuple[str, ...], absent: tuple[str, ...]) -> None:
    names = ['.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix(
        '.__init__') for layer in layers for path in modules(layer)]
    script = (f'import importlib, sys\nfor name in {names}: importlib.import_module(name)\n'
              f'print([name for name in {list(absent)} if name in sys.modules])')
    ended = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                           check=True)
    assert ended.stdout.strip() == '[]'


def test_nodes_do_no_mathematics() -> None:
    """What nodes may do with torch is to say how many threads it has."""
    allowed = {'torch.set_num_threads', 'torch.set_num_interop_threads', 'torch.manual_seed'}
    for path in modules('nodes'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith('torch.'):
                assert ast.unparse(node) in allowed, f'{path.name} uses {ast.unparse(node)}'
