"""Pictures: either they show something, or the error says what the machine lacks."""

from __future__ import annotations

import arm7
import numpy as np
import pytest

from async_mbrl.simulation.physics import ArmPhysics
from async_mbrl.simulation.render import Renderer, RenderError, View, render_episodes
from async_mbrl.tasks import make_task


def test_films_of_episodes():
    robot, task = arm7.robot(), arm7.task(episode_steps=3)
    built = make_task(task, robot)
    view = View(width=96, height=72, frame_rate_hz=10.0)
    try:
        frames = render_episodes(arm7.constant_policy(built, np.full(7, 0.8)), robot,
                                 arm7.plant(), task, arm7.NETWORK, episodes=2, view=view)
    except RenderError as error:
        # A machine without off-screen OpenGL is fine, as long as it is told what to install.
        assert 'libegl1' in str(error)
        return
    assert frames.shape == (6, 72, 96, 3)
    assert frames.dtype == np.uint8
    assert frames[0].std() > 10.0
    assert (frames[0] != frames[2]).any()


def test_what_cannot_be_drawn_is_said(monkeypatch):
    model = ArmPhysics(arm7.plant(), arm7.robot(), np.random.default_rng(0)).model
    with pytest.raises(RenderError, match='larger than the off-screen buffer'):
        Renderer(model, View(width=10000))
    monkeypatch.setenv('MUJOCO_GL', 'glfw')
    with pytest.raises(RenderError, match='MUJOCO_GL=glfw'):
        Renderer(model, View())
