"""The one list of the nodes of a run, for ``async-mbrl up`` and for the launch files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from async_mbrl.bringup.compose import Composition
from async_mbrl.core.config import to_mapping
from async_mbrl.core.files import write_atomically

NODES = ('sim_bridge', 'guard', 'controller', 'robot_interface', 'model_learner', 'policy_learner')
"""Names of the nodes of a run in simulation."""

ONE_THREAD = dict.fromkeys(
    ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMEXPR_NUM_THREADS'), '1')
"""Threads of numerical libraries would take the cores from the control loop."""


@dataclass(frozen=True)
class NodeDescription:
    """A node of the graph: what runs, with which parameters, and what its death means.

    Attributes:
        executable: name of the console script and of the module in ``async_mbrl.nodes``.
        name: name of the node.
        parameters: nested mapping.
        required: its death ends the run.
        respawn: it is started again when it dies.
        stop_stage: nodes of a lower stage are stopped first.
        nice: added to the niceness of the process.
        env: environment variables on top of the inherited ones.
    """

    executable: str
    name: str
    parameters: Mapping[str, Any]
    required: bool
    respawn: bool
    stop_stage: int
    nice: int = 0
    env: Mapping[str, str] = field(default_factory=lambda: dict(ONE_THREAD))


def describe(composition: Composition) -> tuple[NodeDescription, ...]:
    """List the nodes of a run in simulation, in the order in which they are started.

    The driver comes first and is stopped last, so that the arm is held from beginning to end. The
    learners lower the priority of their computing threads themselves; the threads that receive
    keep theirs, so that transitions are taken in at once.
    """
    shared = {'run': to_mapping(composition.run), 'robot': to_mapping(composition.robot)}
    if composition.run.real_time_factor != 1.0:
        shared['use_sim_time'] = True  # type: ignore[assignment]
    parts = {name: to_mapping(getattr(composition, name)) for name in (
        'plant', 'task', 'collection', 'controller', 'guard', 'model', 'network', 'exploration',
        'improvement')}

    def node(name: str, *sections: str, required: bool = True, stop_stage: int) -> NodeDescription:
        return NodeDescription(
            executable=name, name=name,
            parameters={**shared, **{section: parts[section] for section in sections}},
            required=required, respawn=not required, stop_stage=stop_stage)

    return (
        node('sim_bridge', 'plant', stop_stage=3),
        node('guard', 'guard', stop_stage=2),
        node('controller', 'task', 'network', 'controller', stop_stage=1),
        node('robot_interface', 'task', 'collection', stop_stage=0),
        node('model_learner', 'task', 'model', required=False, stop_stage=0),
        node('policy_learner', 'task', 'model', 'network', 'exploration', 'improvement',
             required=False, stop_stage=0),
    )


def parameters_yaml(description: NodeDescription) -> str:
    """Give the text of a ROS parameter file for a node, in whatever namespace it runs."""
    content = {'/**': {'ros__parameters': dict(description.parameters)}}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def write_parameters(descriptions: tuple[NodeDescription, ...], folder: Path) -> dict[str, Path]:
    """Write a parameter file for each node; give the files by the names of the nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for description in descriptions:
        files[description.name] = folder / f'{description.name}.yaml'
        write_atomically(files[description.name], parameters_yaml(description))
    return files
