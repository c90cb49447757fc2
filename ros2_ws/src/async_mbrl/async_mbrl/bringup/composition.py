"""The checked configuration of a whole run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from async_mbrl.collection.collector import CollectionConfig
from async_mbrl.control.settings import ControllerSettings, TakeoverSettings
from async_mbrl.control.watchdog import GuardSettings
from async_mbrl.core.config import to_mapping
from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.run import RunSettings
from async_mbrl.core.schedule import ScheduleConfig
from async_mbrl.learning.config import ExplorationConfig, ModelConfig
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.tasks import TaskConfig

SECTIONS = ('run', 'robot', 'plant', 'task', 'collection', 'controller', 'guard', 'model',
            'network', 'exploration', 'improvement', 'schedule', 'takeover')


@dataclass(frozen=True)
class Composition:
    """Configuration of every part of a run, each checked, and together found to fit.

    Without ``plant`` the robot cannot be simulated. ``robot_file`` is the path of the robot's file
    where the robot is not one of the package. ``notes`` are lines to be said at the start: what
    has tightened which limits.
    """

    run: RunSettings
    robot: RobotConfig
    plant: PlantConfig | None
    task: TaskConfig
    collection: CollectionConfig
    controller: ControllerSettings
    guard: GuardSettings
    model: ModelConfig
    network: PolicyNetworkConfig
    exploration: ExplorationConfig
    improvement: Any
    schedule: ScheduleConfig = ScheduleConfig()
    takeover: TakeoverSettings = TakeoverSettings()
    where: str = 'sim'
    robot_file: str = ''
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def to_mapping(self) -> dict[str, Any]:
        """Give nested dicts and lists, as they stand in the ``config.yaml`` of a run."""
        mapping: dict[str, Any] = {'where': self.where, 'robot_file': self.robot_file}
        for section in SECTIONS:
            part = getattr(self, section)
            mapping[section] = None if part is None else to_mapping(part)
        return mapping

    def to_yaml(self) -> str:
        """Give the text of ``config.yaml``."""
        return '# Configuration as used; a resumed run reads it again.\n' + yaml.safe_dump(
            self.to_mapping(), sort_keys=False, default_flow_style=None, width=100)


def with_takeover(composition: Composition, node: str) -> Composition:
    """Give the configuration with another node that may take over; empty: nobody may."""
    return dataclasses.replace(composition,
                               takeover=dataclasses.replace(composition.takeover, node=node))


def with_run(composition: Composition, run_dir: Path, motion_time_s: float) -> Composition:
    """Give the configuration with another folder and motion time."""
    return dataclasses.replace(
        composition,
        run=dataclasses.replace(composition.run, run_dir=str(run_dir)),
        collection=dataclasses.replace(composition.collection, motion_time_s=motion_time_s))


def noted(composition: Composition, line: str) -> Composition:
    """Give the configuration with one more line to be said at the start."""
    return dataclasses.replace(composition, notes=(*composition.notes, line))
