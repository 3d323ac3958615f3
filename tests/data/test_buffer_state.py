"""State of a replay buffer without the room it has not used yet."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)

from torchrl_recall import TopKTrajectories
from torchrl_recall.data.buffer_state import BufferState


def rows(start: int, stop: int) -> TensorDict:
    n = stop - start
    return TensorDict(
        {"id": torch.arange(start, stop), "next": {"id": torch.arange(start, stop) + 1}}, [n]
    )


def make(kind=TensorDictReplayBuffer, size: int = 10) -> ReplayBuffer:
    return kind(storage=LazyTensorStorage(size), batch_size=4)


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("written", [0, 3, 10, 17])
def test_continues_identically(written, kind):
    buffer, other = make(kind), make(kind)
    if written:
        buffer.extend(rows(0, written))
    BufferState(other).load_state_dict(copy.deepcopy(BufferState(buffer).state_dict()))
    assert len(other) == len(buffer)
    for both in (buffer, other):
        both.extend(rows(100, 104))
    assert torch.equal(other[:]["id"], buffer[:]["id"])
    torch.manual_seed(0)
    expected = buffer.sample()
    torch.manual_seed(0)
    assert torch.equal(other.sample()["id"], expected["id"])


def test_priorities_go_on():
    def prioritized():
        buffer = TensorDictPrioritizedReplayBuffer(
            alpha=0.6, beta=0.4, storage=LazyTensorStorage(10), batch_size=64
        )
        buffer.set_rng(torch.default_generator)
        return buffer

    buffer, other = prioritized(), prioritized()
    buffer.extend(rows(0, 8))
    buffer.update_priority(torch.arange(8), torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 1.0, 0.0, 0.0]))
    state = copy.deepcopy(BufferState(buffer).state_dict())
    buffer.update_priority(torch.tensor([2]), torch.tensor([0.0]))  # the state is that of before
    BufferState(other).load_state_dict(state)
    found = other.sample()
    assert set(found["id"].tolist()) == {2, 5}
    assert (found["id"] == 2).float().mean() > 0.5
    other.extend(rows(8, 9))  # a new row has the highest priority so far
    drawn = torch.cat([other.sample()["id"] for _ in range(8)])
    shares = [(drawn == i).float().mean().item() for i in (2, 8)]
    assert shares[1] == pytest.approx(shares[0], abs=0.15)


def test_only_written_rows_are_saved():
    buffer = make(size=10_000)
    buffer.extend(rows(0, 3))
    state = BufferState(buffer).state_dict()
    assert len(state["rows"]) == 3
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 20_000  # the whole storage is 160 kB


def test_a_saved_state_does_not_change_with_the_buffer():
    buffer = make()
    buffer.extend(rows(0, 10))
    state = BufferState(buffer).state_dict()
    buffer.extend(rows(100, 110))
    other = make()
    BufferState(other).load_state_dict(state)
    assert other[:]["id"].tolist() == list(range(10))


def test_goes_back_in_the_same_buffer():
    buffer = make()
    buffer.extend(rows(0, 6))
    state = copy.deepcopy(BufferState(buffer).state_dict())
    buffer.extend(rows(6, 12))
    BufferState(buffer).load_state_dict(state)
    assert buffer[:]["id"].tolist() == list(range(6))
    buffer.extend(rows(50, 52))
    assert buffer[:]["id"].tolist() == [*range(6), 50, 51]


def test_an_empty_state_empties():
    buffer = make()
    buffer.extend(rows(0, 6))
    BufferState(buffer).load_state_dict(BufferState(make()).state_dict())
    assert len(buffer) == 0
    buffer.extend(rows(20, 22))
    assert buffer[:]["id"].tolist() == [20, 21]


def test_too_small_a_buffer_is_refused_and_left_alone():
    big, small = make(), make(size=4)
    big.extend(rows(0, 6))
    small.extend(rows(0, 2))
    with pytest.raises(ValueError, match="6 rows"):
        BufferState(small).load_state_dict(BufferState(big).state_dict())
    assert small[:]["id"].tolist() == [0, 1]


def test_transforms_are_part_of_it():
    def filtered():
        buffer = make()
        buffer.append_transform(keep := TopKTrajectories(2, replay_buffer=buffer))
        return buffer, keep

    def one(value: float, done: bool) -> TensorDict:
        return TensorDict(
            {"next": {"reward": torch.tensor([[value]]), "done": torch.tensor([[done]])}}, [1]
        )

    buffer, _ = filtered()
    for value in (1.0, 5.0):
        buffer.extend(one(value, True))
    buffer.extend(one(2.0, False))
    other, keep = filtered()
    BufferState(other).load_state_dict(copy.deepcopy(BufferState(buffer).state_dict()))
    other.extend(one(2.0, True))
    assert keep.returns.tolist() == [5.0, 4.0]
    assert sorted(other[:]["next", "reward"].flatten().tolist()) == [2.0, 2.0, 5.0]


def test_rows_in_a_list_are_refused():
    with pytest.raises(TypeError, match="LazyTensorStorage"):
        BufferState(ReplayBuffer(storage=ListStorage(10)))
