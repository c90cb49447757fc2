"""What ``async-mbrl settings`` lists can be set, and is all that can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_mbrl.bringup.arguments import RunRequest
from async_mbrl.bringup.compose import compose
from async_mbrl.bringup.composition import Composition
from async_mbrl.bringup.resources import algorithms, share_folder
from async_mbrl.bringup.settings_list import settings_list
from async_mbrl.cli import main


def composed(**given: object) -> Composition:
    return compose(RunRequest(**given), share_folder(), Path('run'))  # type: ignore[arg-type]


def assignments(composition: Composition, *patterns: str) -> list[str]:
    return [line.partition('    (')[0] for line in settings_list(composition, patterns)
            if not line.startswith(' ')]


@pytest.mark.parametrize(('robot', 'algorithm'), [
    *(('arm7', name) for name in algorithms(share_folder())), ('ur5e_jtc', 'svg'),
    ('half_cheetah', 'sac')])
def test_what_is_listed_is_accepted_and_changes_nothing(robot: str, algorithm: str) -> None:
    composition = composed(robot=robot, algorithm=algorithm)
    again = composed(robot=robot, algorithm=algorithm, set=tuple(assignments(composition)))
    assert again == composition


def test_all_that_stands_in_the_configuration_of_a_run_is_listed() -> None:
    composition = composed(algorithm='mbpo')
    listed = {each.partition('=')[0] for each in assignments(composition)}

    def names(mapping: dict[str, object], prefix: str) -> set[str]:
        found: set[str] = set()
        for name, value in mapping.items():
            found |= names(value, f'{prefix}{name}.') if isinstance(value, dict) else {
                f'{prefix}{name}'}
        return found

    wanted = names({name: value for name, value in composition.to_mapping().items()
                    if isinstance(value, dict) and name != 'run'}, '')
    assert listed == {name for name in wanted if not name.startswith('robot.kinematics.')}


def test_a_changed_value_stands_beside_its_default() -> None:
    line, meaning = settings_list(composed(set=('exploration.end_std=0.02',)), ['end_std'])
    assert line == 'exploration.end_std=0.02    (default 0.08; 0 to 1)'
    assert meaning.startswith('    ')


def test_a_pattern_is_looked_for_in_names_and_meanings() -> None:
    found = assignments(composed(), 'JOYSTICK')
    assert 'takeover.axes=[1, 0, 4]' in found
    assert all(each.startswith('takeover.') for each in found)


def test_a_pattern_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['settings', 'no-such-thing']) == 2
    assert "'no-such-thing'" in capsys.readouterr().err
