"""The animation of a run: the arm before and after learning, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from async_mbrl.bringup.composition import Composition
from async_mbrl.core.config import ConfigError, look_up
from async_mbrl.core.files import write_atomically
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import SnapshotError
from async_mbrl.reporting.outcome import EVALUATION_SEED, read_snapshot, read_summary
from async_mbrl.reporting.report import ANIMATION

FRAME_RATE_HZ = 12.5
SIZE = (400, 320)
EPISODES = 3
COLOURS = 96
_BAR = 24


class AnimationError(RuntimeError):
    """No animation can be made here; the message says what is missing."""


def film(folder: RunFolder, composition: Composition,
         episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Film the first and the last policy of a run on the same goals.

    Returns:
        Two films (frames, height, width, 3), uint8, of equal length.

    Raises:
        AnimationError: this machine cannot render, or the robot not be simulated.
        ConfigError: the run has not saved its policies, or they do not fit it.
    """
    from async_mbrl.simulation.render import RenderError, View, render_episodes

    plant = composition.plant
    if plant is None:
        raise AnimationError(f'robot {composition.robot.name} cannot be simulated, it has no '
                             f'{composition.robot.name}.sim.yaml')

    def shoot(path: Path) -> np.ndarray:
        try:
            return render_episodes(
                read_snapshot(path), composition.robot, plant, composition.task,
                composition.network, episodes=episodes, seed=EVALUATION_SEED,
                view=View(*SIZE, FRAME_RATE_HZ))
        except RenderError as error:
            raise AnimationError(str(error)) from None
        except SnapshotError as error:
            raise ConfigError(f'{path}: {error}') from None

    return shoot(folder.first_policy), shoot(folder.policy)


def titles(folder: RunFolder) -> tuple[str, str]:
    """Give what stands over the pictures of the first and of the last policy."""
    motion_s = look_up(read_summary(folder), 'motion_time_s')
    return 'before', 'after' if motion_s is None else f'after {motion_s:.0f} s of motion'


def stills(folder: RunFolder, composition: Composition) -> dict[str, np.ndarray]:
    """Give the last picture of an episode of the first and of the last policy, by title.

    Raises:
        AnimationError: this machine cannot render, or the robot not be simulated.
        ConfigError: the run has not saved its policies, or they do not fit it.
    """
    films = film(folder, composition, 1)
    return {title: one[-1] for title, one in zip(titles(folder), films, strict=True)}


def write_animation(folder: RunFolder, composition: Composition) -> Path:
    """Film the first and the last policy of a run on the same goals; give the path of the GIF.

    Raises:
        AnimationError: this machine cannot render, or the robot not be simulated.
        ConfigError: the run has not saved its policies, or they do not fit it.
    """
    films = film(folder, composition, EPISODES)
    path = folder.root / ANIMATION
    write_atomically(path, encode(side_by_side(*films, *titles(folder))))
    return path


def side_by_side(left: np.ndarray, right: np.ndarray, left_title: str,
                 right_title: str) -> list[Image.Image]:
    """Put two films (frames, height, width, 3), uint8, next to each other under their titles."""
    font = ImageFont.load_default(14)
    frames = []
    for one, other in zip(left, right, strict=True):
        height, width = one.shape[:2]
        frame = Image.new('RGB', (2 * width + 4, height + _BAR), 'white')
        frame.paste(Image.fromarray(one), (0, _BAR))
        frame.paste(Image.fromarray(other), (width + 4, _BAR))
        draw = ImageDraw.Draw(frame)
        draw.text((8, 4), left_title, fill='#1f2933', font=font)
        draw.text((width + 12, 4), right_title, fill='#1f2933', font=font)
        frames.append(frame)
    return frames


def encode(frames: list[Image.Image]) -> bytes:
    """Give a looping GIF; all frames share one palette: small, and without flicker."""
    palette = frames[len(frames) // 2].quantize(COLOURS, dither=Image.Dither.NONE)
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    reduced[0].save(buffer, 'GIF', save_all=True, append_images=reduced[1:], loop=0,
                    duration=round(1000 / FRAME_RATE_HZ), disposal=1)
    return buffer.getvalue()
