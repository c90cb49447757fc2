"""A joystick, teleop and controller as processes: who moves the arm, and when nobody may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from async_mbrl_interfaces import msg
from diagnostic_msgs.msg import DiagnosticArray
from process_rig import ABORTED, STEP, TASK, Rig
from sensor_msgs.msg import Joy

from async_mbrl.control.takeover import LOST
from async_mbrl.core.config import to_mapping
from async_mbrl.ros import qos
from async_mbrl.ros.takeover_intake import TAKEOVER_TOPIC

pytestmark = pytest.mark.usefixtures('ros')

TAKEOVER = {'node': 'teleop', 'deadman_button': 0, 'mode': 'joints', 'axes': [0], 'scale': [0.1],
            'deadzone': 0.0}
ACTION = 0.05


class Stage(Rig):
    """The rig of the controller, with a joystick and somebody who reads diagnostics beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pressed = False
        self.plugged = True
        self.asked: list[msg.Takeover] = []
        self.told = ''
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_told, qos.STATUS)
        self.joystick = self.node.create_publisher(Joy, 'joy', 10)
        self.node.create_timer(0.02, self._joy)
        self.node.create_subscription(msg.Takeover, TAKEOVER_TOPIC, self.asked.append, qos.FRESH)

    def _on_told(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == 'controller: takeover':
                self.told = status.message

    def _joy(self) -> None:
        if self.plugged:
            self.joystick.publish(Joy(axes=[ACTION / 0.1], buttons=[int(self.pressed)]))

    def begin(self) -> None:
        """Start both nodes and an episode by the policy."""
        self.ready(bias=0.02, sections={'takeover': TAKEOVER})
        self.start('teleop', task=to_mapping(TASK.config), takeover=TAKEOVER)
        self.until(lambda: self.asked, 'the button was seen let go')
        assert not self.asked[-1].active
        self.run(STEP, steps=1000)

    def takes_over(self, yes: bool) -> None:
        """Wait until the steps show who acts."""
        self.until(lambda: self.last(STEP) and self.steps[-1].takeover == yes,
                   f'takeover: {yes}')


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_person_acts_while_they_hold_the_button(stage: Stage) -> None:
    stage.begin()
    assert not stage.steps[-1].takeover
    stage.pressed = True
    stage.takes_over(True)
    assert stage.asked[-1].active
    step = stage.steps[-1]
    assert list(step.action_requested) == pytest.approx([ACTION] + [0.0] * 6)
    assert step.log_probability == 0.0 and step.mode == msg.ControlStep.STEP
    stage.pressed = False
    stage.takes_over(False)
    assert list(stage.steps[-1].action_requested) == pytest.approx([0.02] * 7)
    assert not stage.asked[-1].active
    told = len(stage.asked)
    stage.until(lambda: len(stage.asked) > told, 'the end is said again: one may be lost')
    assert not any(ask.active for ask in stage.asked[told:])


def test_a_joystick_that_is_unplugged_holds_the_arm_until_it_was_let_go(stage: Stage) -> None:
    stage.begin()
    stage.pressed = True
    stage.takes_over(True)
    stage.plugged = False
    stage.until(lambda: stage.last(ABORTED), 'held')
    assert stage.steps[-1].reason == LOST
    stage.until(lambda: stage.told.startswith('held'), 'diagnostics tell that the arm is held')
    stage.plugged = True            # the button still held
    stage.spin(0.3)
    stage.ask(steps=1000)
    stage.until(lambda: stage.last(ABORTED) and stage.steps[-1].command_number == stage.number - 1,
                'refused')
    assert stage.steps[-1].reason == LOST
    stage.pressed = False
    stage.until(lambda: not stage.asked[-1].active)
    stage.spin(0.1)
    stage.run(STEP, steps=1000)
    assert not stage.steps[-1].takeover


def test_beside_a_second_publisher_nobody_is_believed(stage: Stage) -> None:
    stage.begin()
    stage.pressed = True
    stage.takes_over(True)
    intruder = rclpy.create_node('intruder')
    try:
        other = intruder.create_publisher(msg.Takeover, TAKEOVER_TOPIC, qos.TAKEOVER)
        stage.until(lambda: other.get_subscription_count() >= 2)
        stage.until(lambda: stage.last(ABORTED), 'held')
        assert stage.steps[-1].reason == LOST
    finally:
        intruder.destroy_node()


def test_a_takeover_that_is_refused_from_its_first_message_holds_the_arm(stage: Stage) -> None:
    stage.begin()
    intruder = rclpy.create_node('intruder')
    try:
        other = intruder.create_publisher(msg.Takeover, TAKEOVER_TOPIC, qos.TAKEOVER)
        stage.until(lambda: other.get_subscription_count() >= 2)
        stage.spin(0.3)
        assert not stage.last(ABORTED), 'one who says nothing holds no arm'
        stage.pressed = True
        stage.until(lambda: stage.last(ABORTED), 'held')
        assert stage.steps[-1].reason == LOST
    finally:
        intruder.destroy_node()


def test_an_end_that_was_refused_is_said_again(stage: Stage) -> None:
    stage.begin()
    stage.pressed = True
    stage.takes_over(True)

    def runs() -> bool:
        stage.spin(0.2)
        stage.ask(steps=1000)
        stage.until(lambda: stage.steps[-1].command_number == stage.number - 1)
        return not stage.last(ABORTED)

    twin = rclpy.create_node('teleop')      # as one that was killed, while it is still listed
    try:
        other = twin.create_publisher(msg.Takeover, TAKEOVER_TOPIC, qos.TAKEOVER)
        stage.until(lambda: other.get_subscription_count() >= 2)
        stage.until(lambda: stage.last(ABORTED), 'held')
        stage.pressed = False
        stage.until(lambda: not stage.asked[-1].active, 'the end is said')
        assert not runs() and stage.steps[-1].reason == LOST
    finally:
        twin.destroy_node()
    stage.until(runs, 'the arm is free without another push of the button')


def test_nobody_takes_over_a_controller_that_was_not_told_so(stage: Stage) -> None:
    stage.ready(bias=0.02)
    stage.start('teleop', task=to_mapping(TASK.config), takeover=TAKEOVER)
    stage.until(lambda: stage.asked, 'the button was seen let go')
    stage.pressed = True
    stage.until(lambda: stage.asked[-1].active)
    stage.run(STEP, steps=6)
    stage.until(lambda: stage.last(msg.ControlStep.END))
    assert not any(step.takeover for step in stage.steps)
    subscribers = {info.node_name for info in
                   stage.node.get_subscriptions_info_by_topic(TAKEOVER_TOPIC)}
    assert 'controller' not in subscribers
