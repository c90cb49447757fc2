"""The one list of the nodes of a run, for ``async-mbrl up`` and for the launch files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from async_mbrl.bringup.composition import Composition
from async_mbrl.control.settings import TELEOP
from async_mbrl.core.config import to_mapping
from async_mbrl.core.files import write_atomically

ROBOT = ('sim_bridge', 'guard', 'controller', 'robot_interface', TELEOP)
"""Nodes that belong to the arm, on the robot PC; sim_bridge only where the arm is simulated, teleop
only where a joystick may take over."""

LEARNERS = ('model_learner', 'policy_learner', 'planner')
"""Nodes that learn, or plan in what is learned; on a workstation, if there are two machines."""

NODES = (*ROBOT, *LEARNERS)
"""Names of all nodes that a run may have."""

ONE_THREAD = dict.fromkeys(
    ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMEXPR_NUM_THREADS'), '1')
"""Threads of numerical libraries would take the cores from the control loop."""

LEARNER_NICE = 5
"""A third of the weight of a node on which the arm depends, where both want a core."""

PROMPT_NODES = ('sim_bridge', 'guard', 'controller', TELEOP)
PROMPT = {**ONE_THREAD, 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}
"""For ``PROMPT_NODES``, between which the arm moves. Shared memory of Fast DDS makes a publisher
wait up to three times 333 ms where another process has died, or appears (its issue 6535): longer
than an arm may be left to itself. It is read when the library is loaded, so before a process
begins; with the discovery range LOCALHOST shared memory is used all the same. In simulation a
profile says so for the whole graph (``transport``)."""


@dataclass(frozen=True)
class NodeDescription:
    """A node of the graph: what runs, with which parameters, and what its death means.

    Attributes:
        executable: name of the console script and of the module in ``async_mbrl.nodes``.
        name: name of the node.
        parameters: nested mapping.
        required: its death ends the run.
        respawn: it is started again when it dies.
        heartbeats: it gives signs of life by ``learner_status``, and is killed when it ceases to,
            if it is one that is started again.
        stop_stage: nodes of a lower stage are stopped first.
        nice: of its session against others, where it is a session of its own.
        env: environment variables on top of the inherited ones.
    """

    executable: str
    name: str
    parameters: Mapping[str, Any]
    required: bool
    respawn: bool
    stop_stage: int
    heartbeats: bool = True
    nice: int = 0
    env: Mapping[str, str] = field(default_factory=lambda: dict(ONE_THREAD))


def describe(composition: Composition,
             names: Sequence[str] = NODES) -> tuple[NodeDescription, ...]:
    """List the nodes of a run, in the order in which they are started.

    The driver comes first and is stopped last, so that the arm is held from beginning to end. The
    learners lower the priority of their computing threads themselves; the threads that receive
    keep theirs, so that transitions are taken in at once.

    Args:
        composition: configuration of the run. A real arm has a driver of its own; a model is
            learned in a process of its own only where ``collection.learners`` says so; there is a
            planner only where one acts, and teleop only where a joystick may take over.
        names: those that run on this machine.
    """
    shared = {'run': to_mapping(composition.run), 'robot': to_mapping(composition.robot)}
    if composition.run.real_time_factor != 1.0:
        shared['use_sim_time'] = True  # type: ignore[assignment]
    parts = {section: mapping for section, mapping in composition.to_mapping().items()
             if section not in shared}

    def node(name: str, *sections: str, required: bool = True, stop_stage: int) -> NodeDescription:
        return NodeDescription(
            executable=name, name=name,
            parameters={**shared, **{section: parts[section] for section in sections}},
            required=required, respawn=not required, stop_stage=stop_stage,
            heartbeats=name in LEARNERS, nice=LEARNER_NICE if name in LEARNERS else 0,
            env=dict(PROMPT if name in PROMPT_NODES else ONE_THREAD))

    listed = [
        node('guard', 'guard', stop_stage=2),
        node('controller', 'task', 'network', 'controller', 'guard', 'takeover', stop_stage=1),
        node('robot_interface', 'task', 'collection', 'schedule', stop_stage=0),
        node('policy_learner', 'task', 'model', 'network', 'exploration', 'improvement', 'schedule',
             required=False, stop_stage=0),
    ]
    if 'model_learner' in composition.collection.learners:
        listed.insert(3, node('model_learner', 'task', 'model', required=False, stop_stage=0))
    if composition.improvement.PLANS and composition.run.mode == 'learn':
        listed.append(node('planner', 'task', 'model', 'improvement', required=False,
                           stop_stage=0))
    if composition.takeover.node == TELEOP:
        listed.append(node(TELEOP, 'task', 'takeover', required=False, stop_stage=0))
    if composition.where == 'sim':
        listed.insert(0, node('sim_bridge', 'plant', stop_stage=3))
    return tuple(item for item in listed if item.name in names)


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
