"""The gains of moves to a start pose, on the plant they are for."""

from __future__ import annotations

import arm7
import numpy as np
import pytest

from async_mbrl.core.transition import CommandKind, EpisodeCommand, Mode, StepKind
from async_mbrl.simulation.offline import make_offline_arm
from async_mbrl.tasks import make_task


@pytest.mark.parametrize('latency_s', [0.0, 0.02, 0.04])
def test_a_move_settles_at_the_start_pose_although_commands_are_late(latency_s: float) -> None:
    robot = arm7.robot()
    task = make_task(arm7.task(), robot)
    home = np.array(robot.home)
    rng = np.random.default_rng(3)
    for seed in range(3):
        arm = make_offline_arm(arm7.constant_policy(task, np.zeros(7)), robot,
                               arm7.plant(command_latency_s=latency_s), task, arm7.NETWORK,
                               np.random.default_rng(seed))
        arm.physics.reset(np.clip(home + rng.uniform(-0.8, 0.8, 7),
                                  np.array(robot.limits.position_lower) + 0.1,
                                  np.array(robot.limits.position_upper) - 0.1))
        events = arm.run(EpisodeCommand(
            CommandKind.RUN_EPISODE, mode=Mode.EVALUATION, start_pose=home, move_duration_s=4.0,
            goal=task.tool_points(home).astype(np.float32), steps=1))
        assert events[0].kind == StepKind.MOVE_DONE, events[0].reason
        assert np.abs(events[1].observation[task.position] - home).max() < 0.02
