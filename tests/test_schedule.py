"""When rounds are due, and what annealing leaves of them."""

from __future__ import annotations

import warnings

import pytest

from torchrl_recall.schedule import Schedule


def rounds(schedule: Schedule, *frames: int) -> list[list[float]]:
    """Rounds after each number of frames."""
    out = []
    for num in frames:
        schedule.advance(num)
        out.append(list(schedule.rounds()))
    return out


@pytest.mark.parametrize(
    ("interval", "frames", "expected"),
    [
        (10, (10, 10, 10), [1, 1, 1]),
        (10, (5, 5, 5, 5), [0, 1, 0, 1]),
        (10, (25, 25), [2, 3]),
        (25, (10, 10, 10, 30), [0, 0, 1, 1]),
    ],
)
def test_rounds_by_hand(interval, frames, expected):
    found = rounds(Schedule(interval), *frames)
    assert [len(each) for each in found] == expected
    assert {share for each in found for share in each} == {1.0}


def test_the_start_leaves_no_backlog():
    assert rounds(Schedule(10, start_frames=25), 25, 5, 5, 20) == [[], [], [1.0], [1.0, 1.0]]


class NeverReady:
    ready, waits_for = False, "it never is."

    def flush(self):
        pass


def test_patience_begins_with_the_start():
    schedule = Schedule(10, start_frames=1000, patience=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for frames in (1000, 90):
            schedule.advance(frames)
            assert list(schedule.rounds(NeverReady())) == []
    schedule.advance(10)
    with pytest.warns(UserWarning, match=r"learned nothing after 1,100 frames: it never is"):
        list(schedule.rounds(NeverReady()))


def test_a_round_is_due_until_it_is_taken():
    schedule = Schedule(10)
    schedule.advance(9)
    assert not schedule.due
    schedule.advance(11)
    assert schedule.due
    first = schedule.rounds()
    next(first)
    assert schedule.due  # the second one
    next(first)
    assert not schedule.due
    assert list(first) == []


def test_annealing_by_hand():
    schedule = Schedule(10, anneal_frames=40)
    assert schedule.share == 1
    assert rounds(schedule, 10, 10, 10) == [[0.75], [0.5], [0.25]]
    assert rounds(schedule, 10, 100) == [[], []]
    assert schedule.share == 0
    assert not schedule.due  # rounds without strength are over too


def test_rounds_at_one_time_have_one_share():
    assert rounds(Schedule(10, anneal_frames=40), 30) == [[0.25] * 3]


def test_state_goes_on():
    schedule, other = (Schedule(10, start_frames=5, anneal_frames=100) for _ in range(2))
    rounds(schedule, 17)
    other.load_state_dict(schedule.state_dict())
    assert (other.frames, other.share) == (17, 0.83)
    assert rounds(other, 7, 1) == rounds(schedule, 7, 1) == [[], [0.75]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interval", 0),
        ("interval", 1.5),
        ("interval", True),
        ("start_frames", -1),
        ("anneal_frames", 0),
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Schedule(**{"interval": 10} | {name: value})


def test_experience_that_never_comes_is_soon_warned_of():
    schedule = Schedule(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            assert not list(schedule.rounds())
    with pytest.warns(UserWarning, match=r"extend\(\) was never called"):
        list(schedule.rounds())
