"""Read a recording back, as any tool would."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader


def read_bag(folder: Path) -> dict[str, list[Any]]:
    """Messages of a bag by topic; definitions come from the bag itself."""
    messages: dict[str, list[Any]] = defaultdict(list)
    with AnyReader([folder]) as reader:
        for connection, _, data in reader.messages():
            messages[connection.topic].append(reader.deserialize(data, connection.msgtype))
    return messages
