"""Streams deliver in order, each once and completely, whatever the way does to the messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from async_mbrl.core.sequence import History, InOrder

arrivals = st.lists(st.integers(0, 30), max_size=120)


@given(arrivals, st.integers(0, 31), st.integers(0, 5), st.integers(1, 40))
def test_any_loss_duplication_and_reordering_is_made_good(numbers: list[int], announced: int,
                                                          first: int, capacity: int) -> None:
    order: InOrder[int] = InOrder(first, capacity)
    delivered: list[int] = []
    for number in numbers:
        delivered += order.offer(number, number)
        assert order.waiting <= capacity
    order.announce(announced)
    end = max([announced, *(number + 1 for number in numbers), first])
    for _ in range(200):
        gap = order.missing()
        if gap is None:
            break
        number, count = gap
        assert number == order.next_number and count >= 1
        # An answer may hold fewer than were asked for.
        for again in range(number, number + min(count, 3)):
            delivered += order.offer(again, again)
    assert delivered == list(range(first, end))
    assert order.next_number == end and order.waiting == 0


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 60), st.integers(1, 70))
def test_history_gives_what_it_keeps(sent: int, capacity: int, first: int, count: int) -> None:
    history = History(capacity)
    for number in range(sent):
        history.append(number, b'%d' % number)
    payloads = history.fetch(first, count)
    if first < sent - capacity:
        assert payloads is None
    else:
        assert payloads == [b'%d' % number for number in range(first, min(first + count, sent))]


def test_history_begins_again_at_a_jump() -> None:
    history = History(10)
    history.append(0, b'old')
    history.append(7, b'new')
    assert history.fetch(0, 10) is None
    assert history.fetch(7, 10) == [b'new']
