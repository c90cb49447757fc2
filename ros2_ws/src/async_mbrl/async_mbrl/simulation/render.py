"""Pictures of the arm at work, off-screen."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from async_mbrl.core.network import PolicyNetworkConfig
from async_mbrl.core.robot import RobotConfig
from async_mbrl.core.snapshot import Snapshot
from async_mbrl.simulation.config import PlantConfig
from async_mbrl.simulation.offline import OfflineArm, evaluation_commands, make_offline_arm
from async_mbrl.tasks import TaskConfig, make_task

BACKENDS = ('egl', 'osmesa')
"""Off-screen OpenGL that needs no display, in the order tried."""

_CAMERAS = ('overview', 'track')
"""Cameras used if the model has them, the first one first; otherwise all of it is looked at."""

_GOAL_RGBA = np.array([0.05, 0.66, 0.33, 0.75], np.float32)
_GOAL_RADIUS_M = 0.007
_MOST_GEOMS = 1000


class RenderError(RuntimeError):
    """Nothing can be drawn on this machine; the message names what is missing."""


@dataclass(frozen=True)
class View:
    """How pictures are taken."""

    width: int = 480
    height: int = 360
    frame_rate_hz: float = 12.5


class Renderer:
    """Draw the state of a plant; use as a context manager.

    The OpenGL back end is the one that the variable MUJOCO_GL names, otherwise the first of
    ``BACKENDS`` that works.
    """

    def __init__(self, model: mujoco.MjModel, view: View) -> None:
        """Create an off-screen context.

        Raises:
            RenderError: there is no usable OpenGL, or the picture is larger than the model's
                off-screen buffer.
        """
        buffer = model.vis.global_
        if view.width > buffer.offwidth or view.height > buffer.offheight:
            raise RenderError(
                f'{view.width} x {view.height} is larger than the off-screen buffer of the model, '
                f'{buffer.offwidth} x {buffer.offheight}')
        self._model = model
        self._context, self._drawing = _create(model, view)
        self._camera = _camera(model)
        self._options = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=_MOST_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_FOG] = 1
        self._viewport = mujoco.MjrRect(0, 0, view.width, view.height)
        self._picture = np.zeros((view.height, view.width, 3), np.uint8)

    def __enter__(self) -> Renderer:
        """Give itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Free the context."""
        self._drawing.free()
        self._context.free()

    def draw(self, data: mujoco.MjData, goal: np.ndarray | None = None) -> np.ndarray:
        """Draw the arm, and a goal (3 * points,), m, as markers joined by rods.

        Returns:
            (height, width, 3) uint8.
        """
        points = np.zeros((0, 3)) if goal is None else np.reshape(goal, (-1, 3)).astype(float)
        markers = min(len(points), len(data.mocap_pos))
        data.mocap_pos[:markers] = points[:markers]
        # Positions only: drawing must not touch what the next physics step starts from.
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_camlight(self._model, data)
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera,
                               mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
            _add_rod(self._scene, start, end)
        self._context.make_current()
        mujoco.mjr_render(self._viewport, self._scene, self._drawing)
        mujoco.mjr_readPixels(self._picture, None, self._viewport, self._drawing)
        return self._picture[::-1].copy()


def render_episodes(snapshot: Snapshot, robot: RobotConfig, plant: PlantConfig, task: TaskConfig,
                    network: PolicyNetworkConfig, *, episodes: int = 3, seed: int = 0,
                    view: View | None = None) -> np.ndarray:
    """Film evaluation episodes of a policy in real time.

    The same seed gives the same goals and start poses for every policy, so films of two policies
    can be shown side by side.

    Args:
        snapshot: the policy.
        robot: the robot.
        plant: the plant.
        task: the task.
        network: network of the policy.
        episodes: number of episodes.
        seed: seed of goals, start poses and sensor noise.
        view: size and frame rate of the pictures.

    Returns:
        (frames, height, width, 3) uint8, ``view.frame_rate_hz`` a second of robot time. Every
        episode gives the same number of frames, aborted or not.

    Raises:
        ConfigError: the parts do not fit.
        SnapshotError: the snapshot is no policy for this task and network.
        RenderError: nothing can be drawn on this machine.
    """
    view = view or View()
    built = make_task(task, robot)
    arm = make_offline_arm(snapshot, robot, plant, built, network, np.random.default_rng(seed))
    per_episode = round(task.episode_steps / task.policy_rate_hz * view.frame_rate_hz)
    frames: list[np.ndarray] = []
    with Renderer(arm.physics.model, view) as renderer:
        for command in evaluation_commands(built, snapshot, episodes, seed):
            film = _Film(renderer, arm, command.goal, view.frame_rate_hz)
            arm.run(command, teleport=True, observe=film)
            last = renderer.draw(arm.physics.data, command.goal)
            shot = film.frames[-per_episode:]
            frames += shot + [last] * (per_episode - len(shot))
    return np.stack(frames)


class _Film:
    """Takes a frame whenever one is due."""

    def __init__(self, renderer: Renderer, arm: OfflineArm, goal: np.ndarray,
                 frame_rate_hz: float) -> None:
        self.frames: list[np.ndarray] = []
        self._renderer = renderer
        self._arm = arm
        self._goal = goal
        self._period_s = 1.0 / frame_rate_hz
        self._next_s: float | None = None

    def __call__(self, time_s: float) -> None:
        if self._next_s is None:
            self._next_s = time_s
        if time_s >= self._next_s - 1e-9:
            self._next_s += self._period_s
            self.frames.append(self._renderer.draw(self._arm.physics.data, self._goal))


def _camera(model: mujoco.MjModel) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    for name in _CAMERAS:
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if index >= 0:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = index
            break
    return camera


def _create(model: mujoco.MjModel, view: View) -> tuple[Any, mujoco.MjrContext]:
    """Create an OpenGL context on the first back end that works, and MuJoCo's drawing on it.

    The contexts are taken from MuJoCo's modules by name: its own choice is made once, when mujoco
    is imported, and cannot fall back.
    """
    chosen = os.environ.get('MUJOCO_GL', '').lower()
    if chosen and chosen not in BACKENDS:
        raise RenderError(f'MUJOCO_GL={chosen} cannot draw without a display; unset it, or use '
                          f'one of {", ".join(BACKENDS)}')
    failures = []
    for backend in (chosen,) if chosen else BACKENDS:
        try:
            context = importlib.import_module(f'mujoco.{backend}').GLContext(
                view.width, view.height)
            context.make_current()
            drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
        # Each back end fails in its own way: no library, no device, no context.
        except Exception as error:
            failures.append(f'{backend}: {error}')
            _forget_backend(backend)
        else:
            return context, drawing
    raise RenderError(
        f'no off-screen OpenGL works here ({"; ".join(failures)}); install EGL or OSMesa (Debian, '
        'Ubuntu: libegl1 libgl1-mesa-dri, or libosmesa6)')


def _forget_backend(name: str) -> None:
    """Undo the import of a back end: PyOpenGL binds to the first one and refuses the next."""
    os.environ.pop('PYOPENGL_PLATFORM', None)
    for module in list(sys.modules):
        if module.split('.')[0] == 'OpenGL' or module.startswith(f'mujoco.{name}'):
            del sys.modules[module]


def _add_rod(scene: mujoco.MjvScene, start: np.ndarray, end: np.ndarray) -> None:
    if scene.ngeom >= scene.maxgeom:
        return
    rod = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(rod, mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), np.zeros(3),
                        np.eye(3).ravel(), _GOAL_RGBA)
    mujoco.mjv_connector(rod, mujoco.mjtGeom.mjGEOM_CAPSULE, _GOAL_RADIUS_M, start, end)
    scene.ngeom += 1
