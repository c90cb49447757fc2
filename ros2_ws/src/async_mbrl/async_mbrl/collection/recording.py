"""From the journal of a run to a rosbag2 folder (MCAP) that ROS tools and Foxglove open.

Needs no ROS: messages stay as they were serialised, and their definitions are read from the
``.msg`` files of async_mbrl_interfaces.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from async_mbrl.collection.journal import RecordKind, read_meta, read_records
from async_mbrl.core.config import ConfigError
from async_mbrl.core.run import RunFolder

INTERFACES = 'async_mbrl_interfaces'
BAG_VERSION: Final = 8
"""Format of metadata.yaml: the oldest the library writes, which the most tools read."""

TOPICS = {
    RecordKind.EPISODE_COMMAND: ('/episode_commands', 'EpisodeCommand'),
    RecordKind.CONTROL_STEP: ('/control_steps', 'ControlStep'),
    RecordKind.TRANSITION: ('/transitions', 'Transition'),
    RecordKind.RUN_STATUS: ('/run_status', 'RunStatus'),
    RecordKind.CONTROLLER_STATUS: ('/controller_status', 'ControllerStatus'),
    RecordKind.LEARNER_STATUS: ('/learner_status', 'LearnerStatus'),
    RecordKind.GUARD_STATUS: ('/guard_status', 'SafetyStatus'),
    RecordKind.BRIDGE_STATUS: ('/bridge_status', 'BridgeStatus'),
}
JOINT_STATES = '/control_steps/joint_states'
"""Joint states at the policy steps, taken from the observations; not the driver's own stream."""


class RecordingStopped(Exception):
    """The recording was given up, as asked; what was there before still is."""


def typestore() -> Typestore:
    """Give the message definitions of ROS and of this project.

    Raises:
        ConfigError: the message definitions of this project are not installed.
    """
    try:
        share = Path(get_package_share_directory(INTERFACES))
    except PackageNotFoundError:
        raise ConfigError(f'{INTERFACES}: not found; build the workspace and source it') from None
    store = get_typestore(Stores.ROS2_JAZZY)
    definitions: dict[str, Any] = {}
    for path in sorted((share / 'msg').glob('*.msg')):
        definitions.update(get_types_from_msg(path.read_text(), f'{INTERFACES}/msg/{path.stem}'))
    store.register(definitions)
    return store


def write_recording(folder: RunFolder, stop: Callable[[], bool] = lambda: False) -> int:
    """Make the recording of a run from its journal; an older recording is replaced.

    May be used on a run that died, or that is still going on.

    Args:
        folder: of the run.
        stop: asked now and then; when it gives True the recording is given up.

    Returns:
        The number of messages recorded.

    Raises:
        ConfigError: the run has no journal, or the message definitions are missing.
        RecordingStopped: ``stop`` gave True.
    """
    meta = read_meta(folder.journal)
    if meta is None:
        raise ConfigError(f'{folder.journal}: no journal; there is nothing to record')
    unfinished = folder.recording.with_name(f'.{folder.recording.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        count = _write(folder, unfinished, meta, stop)
        # rosbag2 names the file after the folder it was written into.
        _rename(unfinished, folder.recording.name)
        shutil.rmtree(folder.recording, ignore_errors=True)
        unfinished.rename(folder.recording)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _write(folder: RunFolder, path: Path, meta: dict[str, Any], stop: Callable[[], bool]) -> int:
    store = typestore()
    joint_state = store.types['sensor_msgs/msg/JointState']
    header_type = store.types['std_msgs/msg/Header']
    step_type = f'{INTERFACES}/msg/ControlStep'
    names, layout = meta['joint_names'], meta['observation']
    # Only of an arm, all joint positions and velocities are observed as they are.
    jointed = 'position' in layout
    position, velocity = (slice(*layout[name]) if jointed else slice(0)
                          for name in ('position', 'velocity'))
    effort = np.zeros(0)
    count = 0
    with Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data('async_mbrl', json.dumps(meta))
        connections = {
            kind: writer.add_connection(topic, f'{INTERFACES}/msg/{name}', typestore=store)
            for kind, (topic, name) in TOPICS.items()}
        joints = (writer.add_connection(JOINT_STATES, 'sensor_msgs/msg/JointState',
                                        typestore=store) if jointed else None)
        for record in read_records(folder.journal):
            if stop():
                raise RecordingStopped
            if record.kind not in connections:
                continue
            writer.write(connections[record.kind], record.stamp_ns, record.payload)
            count += 1
            if joints is None or record.kind != RecordKind.CONTROL_STEP:
                continue
            step: Any = store.deserialize_cdr(record.payload, step_type)
            if len(step.observation) != layout['size']:
                continue
            observation = step.observation.astype(np.float64)
            state = joint_state(
                header=header_type(stamp=step.header.stamp, frame_id=''), name=names,
                position=observation[position], velocity=observation[velocity], effort=effort)
            writer.write(joints, record.stamp_ns,
                         store.serialize_cdr(state, 'sensor_msgs/msg/JointState'))
            count += 1
    return count


def _rename(folder: Path, name: str) -> None:
    """Name the MCAP file in a bag, and where its metadata speaks of it, after the final folder."""
    (file,) = folder.glob('*.mcap')
    final = f'{name}.mcap'
    metadata = folder / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace(file.name, final))
    file.rename(folder / final)
