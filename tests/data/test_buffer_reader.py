"""New frames out of a buffer that a collector writes to."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import (
    LazyTensorStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)
from torchrl.envs import GymEnv, SerialEnv

from torchrl_recall import BufferReader, ImitationLoss, Recall, RewardStates
from torchrl_recall.data.top_trajectories import TopTrajectories


def pendulum() -> GymEnv:
    return GymEnv("Pendulum-v1")


def rows(*values: float) -> TensorDict:
    return TensorDict({"reward": torch.tensor(values)}, [len(values)])


@pytest.mark.parametrize(
    ("make_env", "ndim", "size"),
    [
        (pendulum, 1, 450),
        (lambda: SerialEnv(2, pendulum), 1, 14),
        (lambda: SerialEnv(2, pendulum), 2, 700),
    ],
    ids=["one", "rows of time", "two dimensions"],
)
def test_recall_sees_what_a_collector_wrote_itself(make_env, ndim, size):
    """Two episodes of 200 steps in each of eight hundred frames, around the buffer's end."""
    buffer = ReplayBuffer(storage=LazyTensorStorage(size, ndim=ndim), batch_size=4)
    collector = Collector(
        make_env(), None, frames_per_batch=100, total_frames=1_600, replay_buffer=buffer
    )
    reader, kept = BufferReader(buffer), TopTrajectories(8)
    frames = sum(kept.extend(reader.read()) for _ in collector)
    collector.shutdown()
    assert frames == 1_600
    assert kept.filter.trajectories_seen == 8
    assert kept.filter.streams.num_dropped == 0
    states = kept.transitions()
    for trajectory in states.split(200):
        torch.testing.assert_close(
            trajectory["observation"][1:], trajectory["next", "observation"][:-1]
        )


def test_recall_sees_what_worker_processes_wrote():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), batch_size=4, shared=True)
    collector = MultiSyncCollector(
        [pendulum, pendulum], None, frames_per_batch=200, total_frames=1_200, replay_buffer=buffer
    )
    reader, kept = BufferReader(buffer), TopTrajectories(8)
    frames = sum(kept.extend(reader.read()) for _ in collector)
    collector.shutdown()
    assert frames + kept.extend(reader.read()) == 1_200
    for trajectory in kept.transitions().split(200):
        torch.testing.assert_close(
            trajectory["observation"][1:], trajectory["next", "observation"][:-1]
        )
    assert kept.filter.trajectories_seen == 6


def test_each_row_is_read_once_in_order_around_the_end():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5), batch_size=1)
    reader = BufferReader(buffer)
    assert not len(reader.read())
    buffer.extend(rows(0, 1, 2))
    assert reader.read()["reward"].tolist() == [0, 1, 2]
    buffer.extend(rows(3, 4, 5, 6))
    buffer.add(rows(7)[0])
    assert reader.read()["reward"].tolist() == [3, 4, 5, 6, 7]
    assert not len(reader.read())
    buffer.empty()
    buffer.extend(rows(8, 9))
    assert reader.read()["reward"].tolist() == [8, 9]


def test_rows_that_are_gone_are_an_error():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5), batch_size=1)
    reader = BufferReader(buffer)
    buffer.extend(rows(0, 1, 2, 3))
    buffer.extend(rows(4, 5))
    with pytest.raises(RuntimeError, match=r"6 rows were written .* holds 5"):
        reader.read()


def test_it_goes_on_with_a_restored_buffer():
    buffer, other = (ReplayBuffer(storage=LazyTensorStorage(5), batch_size=1) for _ in range(2))
    reader = BufferReader(buffer)
    buffer.extend(rows(0, 1, 2))
    reader.read()
    buffer.extend(rows(3))
    state = reader.state_dict()
    other.load_state_dict(buffer.state_dict())
    again = BufferReader(other)
    again.load_state_dict(state)
    assert again.read()["reward"].tolist() == reader.read()["reward"].tolist() == [3]


def test_a_buffer_that_chooses_its_rows_is_refused():
    writer = TensorDictMaxValueWriter(rank_key="reward")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5), writer=writer)
    with pytest.raises(ValueError, match="RoundRobinWriter"):
        BufferReader(buffer)


def test_none_in_place_of_experience_names_the_cure(make_actor, make_model):
    recall = Recall(make_model(), ImitationLoss(make_actor()), RewardStates(4))
    with pytest.raises(TypeError, match="BufferReader"):
        recall.extend(None)


def test_a_storage_of_lists_is_refused():
    with pytest.raises(ValueError, match=r"not the ListStorage .* storage=LazyTensorStorage"):
        BufferReader(ReplayBuffer(batch_size=2))
