"""The buffer of the best trajectories, written some frames at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from experience import episode, episodes, padded

from torchrl_recall.data.top_trajectories import TopTrajectories, valid_steps


def test_the_best_are_kept():
    trajectories = TopTrajectories(2)
    for value in (1.0, 4.0, 2.0, 3.0):
        assert trajectories.extend(episode(value)) == 5
    assert trajectories.filter.returns.tolist() == [4.0, 3.0]
    assert trajectories.transitions().shape == (10,)
    assert trajectories.pairs()["next", "reward"].sum() == pytest.approx(7.0)


def test_frames_are_gathered_until_there_are_enough():
    writes = []
    trajectories = TopTrajectories(3, write_every=10, on_write=[lambda d: writes.append(len(d))])
    data = episodes(1.0, 2.0, 3.0)
    for frame in data[:9].split(1):
        assert trajectories.extend(frame) == 1
    assert writes == []
    assert not len(trajectories.buffer)
    trajectories.extend(data[9:10])
    assert writes == [10]
    trajectories.extend(data[10:])
    assert writes == [10]
    trajectories.flush()
    trajectories.flush()  # nothing is left
    assert writes == [10, 5]
    assert torch.equal(trajectories.transitions()["observation"], data["observation"])


def test_functions_are_given_each_write_first_and_in_order():
    seen = []
    trajectories = TopTrajectories(1)
    trajectories.on_write = [
        lambda data: seen.append(("first", len(trajectories.buffer))),
        lambda data: seen.append(("second", len(trajectories.buffer))),
    ]
    trajectories.extend(episode(1.0))
    trajectories.extend(episode(2.0))
    assert seen == [("first", 0), ("second", 0), ("first", 5), ("second", 5)]


def test_all_experience_is_offered_to_them():
    seen = []
    trajectories = TopTrajectories(1, on_write=[lambda data: seen.append(data.clone())])
    for value in (5.0, 1.0, 2.0):
        trajectories.extend(episode(value))
    assert len(trajectories.buffer) == 5
    assert sum(map(len, seen)) == 15


@pytest.mark.parametrize(
    ("values", "ready"), [((), False), ((1.0, 1.0), False), ((1.0, 2.0), True), ((2.0, 1.0), True)]
)
def test_something_must_be_better_than_something(values, ready):
    trajectories = TopTrajectories(1)
    for value in values:
        trajectories.extend(episode(value))
    assert trajectories.ready is ready


def test_rows_of_several_environments_are_joined_in_time():
    trajectories = TopTrajectories(5, write_every=12)
    rows = torch.stack([episode(1.0, length=6), episode(2.0, length=6)])
    for part in rows.split(2, dim=1):
        assert trajectories.extend(part) == 4
    assert trajectories.filter.returns.tolist() == [1.0, 2.0]


def test_padded_trajectories_are_written_as_they_are():
    writes = []
    trajectories = TopTrajectories(9, write_every=99, on_write=[lambda d: writes.append(d.shape)])
    data = padded(episode(2.0, length=3), episode(1.0, length=5))
    assert valid_steps(data).shape == (8,)
    for _ in range(2):
        assert trajectories.extend(data) == 8
    trajectories.flush()
    assert writes == [(2, 5), (2, 5)]
    assert len(trajectories.buffer) == 16


def test_what_was_offered_is_a_copy():
    trajectories = TopTrajectories(1, write_every=99)
    data = episode(1.0)
    expected = data["observation"].clone()
    trajectories.extend(data)
    data["observation"].zero_()
    trajectories.flush()
    assert torch.equal(trajectories.transitions()["observation"], expected)


def test_unfinished_trajectories_are_dropped():
    trajectories = TopTrajectories(5, write_every=99)
    trajectories.extend(episode(1.0)[:3])
    trajectories.drop_unfinished()
    trajectories.extend(episode(2.0))
    trajectories.flush()
    assert trajectories.filter.returns.tolist() == [2.0]


@pytest.mark.parametrize("write_every", [1, 4])
def test_state_goes_on_in_the_middle_of_an_episode(write_every):
    data = episodes(3.0, 1.0, 2.0)
    whole, first, second = (TopTrajectories(2, write_every=write_every) for _ in range(3))
    for part in data.split(1):
        whole.extend(part)
    for part in data[:7].split(1):
        first.extend(part)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for part in data[7:].split(1):
        second.extend(part)
    for each in (whole, second):
        each.flush()
    assert second.filter.returns.tolist() == whole.filter.returns.tolist() == [3.0, 2.0]
    assert (second.transitions() == whole.transitions()).all()


@pytest.mark.parametrize(
    ("name", "value"), [("num_trajectories", 0), ("buffer_size", 0), ("write_every", 0)]
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        TopTrajectories(**{name: value})


@pytest.mark.parametrize("key", ["reward", "done"])
def test_a_missing_entry_is_named(key):
    with pytest.raises(KeyError, match=f"{key}_key="):
        TopTrajectories(1).extend(episode(1.0).exclude(("next", key)))


def test_a_list_of_batches_is_no_experience():
    with pytest.raises(TypeError, match=r"comes in a TensorDict.*not in a list"):
        TopTrajectories(2).extend([episode(1.0)])


def test_demonstrations_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="there is no demonstration"):
        TopTrajectories(2).demonstrate([])
    with pytest.raises(ValueError, match="a demonstration of 3 steps does not end"):
        TopTrajectories(2).demonstrate([episode(1.0)[:3]])
