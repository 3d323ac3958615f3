"""Parts of trajectories that come in any order, or were cut."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, StepCounter, TransformedEnv

from torchrl_recall import TopKTrajectories
from torchrl_recall.data.streams import TrajectoryStreams

DONE = ("next", "done")
IDS = ("collector", "traj_ids")
COUNTS = ("step_count", ("next", "step_count"))


def walk(start: float, length: int, *, done: bool = True) -> TensorDict:
    """A line of states start, start + 1, ..."""
    states = start + torch.arange(length + 1.0).unsqueeze(1)
    flags = torch.zeros(length, 1, dtype=torch.bool)
    flags[-1] = done
    following = {"observation": states[1:], "reward": torch.ones(length, 1), "done": flags}
    return TensorDict({"observation": states[:-1], "next": following}, [length])


def firsts(finished: list) -> list[list[float]]:
    """First and last state of each trajectory."""
    return [[t["observation"][0].item(), t["next", "observation"][-1].item()] for t in finished]


def feed(streams: TrajectoryStreams, *writes: TensorDict, capacity: int = 100) -> list:
    return [whole for write in writes for whole in streams.finished(write, capacity)]


def test_two_workers_in_turns_are_told_apart_by_their_identifiers():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    kept = TopKTrajectories(5, replay_buffer=buffer)
    buffer.append_transform(kept)
    for start in (0, 3):  # episodes of six steps, rewards 1 and 10
        for worker in (1, 10):
            t = torch.arange(start, start + 3)
            reward = torch.full((3, 1), float(worker))
            data = {"worker": torch.full((3,), worker), "collector": {"traj_ids": t * 0 + worker}}
            data["next"] = {"reward": reward, "done": (t == 5).unsqueeze(1)}
            buffer.extend(TensorDict(data, [3]))
    assert kept.returns.tolist() == [6, 60]
    assert buffer[:]["worker"].tolist() == [1] * 6 + [10] * 6


def test_two_workers_in_turns_without_identifiers_are_never_spliced():
    streams, a, b = TrajectoryStreams(DONE), walk(0, 6), walk(100, 6)
    with pytest.warns(UserWarning, match="cut without a done flag"):
        finished = feed(streams, a[:3], b[:3], a[3:])
    assert finished == []
    assert streams.num_dropped == 9
    # Nothing tells that what follows a done flag is not a beginning; it is one episode's, though.
    assert firsts(feed(streams, b[3:])) == [[103, 106]]


def test_a_stream_that_goes_on_is_whole():
    streams, a, b = TrajectoryStreams(DONE), walk(0, 6), walk(100, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished = feed(streams, a[:2], a[2:], b[:1], b[1:])
    assert firsts(finished) == [[0, 6], [100, 104]]


def test_a_cut_at_a_reset_is_seen_without_any_mark():
    streams = TrajectoryStreams(DONE)
    with pytest.warns(UserWarning, match="drop_unfinished"):
        finished = feed(streams, walk(0, 3, done=False), walk(50, 4), walk(70, 2))
    assert firsts(finished) == [[70, 72]]  # the part after the cut may have begun in mid-episode


@pytest.mark.parametrize("mark", ["step_count", "is_init"])
def test_a_marked_beginning_after_a_cut_is_kept(mark):
    streams, writes = TrajectoryStreams(DONE), [walk(0, 3, done=False), walk(50, 4)]
    for write in writes:
        t = torch.arange(len(write)).unsqueeze(1)
        write[mark] = t if mark == "step_count" else t == 0
    with pytest.warns(UserWarning, match="3 steps"):
        assert firsts(feed(streams, *writes)) == [[50, 54]]


def test_a_fragment_that_does_not_begin_an_episode_is_dropped():
    streams, data = TrajectoryStreams(DONE), walk(0, 5)
    data["step_count"] = torch.arange(5).unsqueeze(1)
    with pytest.warns(UserWarning, match="3 steps"):
        assert feed(streams, data[2:]) == []


def test_after_drop_unfinished_nothing_is_cut():
    streams = TrajectoryStreams(DONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feed(streams, walk(0, 3, done=False))
        streams.drop_unfinished()
        assert firsts(feed(streams, walk(50, 4))) == [[50, 54]]


def pendulum() -> TransformedEnv:
    return TransformedEnv(GymEnv("Pendulum-v1"), Compose(DoubleToFloat(), StepCounter(10)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden", [(), COUNTS])
@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"reset_at_each_iter": True}, [10] * 5),
        ({"split_trajs": True}, [10] * 7),
        ({"set_truncated": True}, [10, 4, 6, 8, 2, 10, 2, 8, 6, 4, 10]),
        ({}, [10] * 7),
    ],
)
def test_every_way_to_collect_gives_the_episodes_that_there_were(options, lengths, hidden):
    collector = Collector(pendulum(), None, frames_per_batch=14, total_frames=70, **options)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200), batch_size=8)
    kept = TopKTrajectories(20, replay_buffer=buffer)
    buffer.append_transform(kept)
    for data in collector:
        buffer.extend(data.exclude(*hidden))
    collector.shutdown()
    assert kept.get_extra_state()["lengths"].tolist() == lengths
    assert kept.streams.num_dropped == 0


@pytest.mark.filterwarnings("ignore")
def test_resets_without_any_mark_keep_only_what_is_known_to_be_whole():
    options = {"frames_per_batch": 14, "total_frames": 70, "reset_at_each_iter": True}
    collector = Collector(pendulum(), None, **options)
    streams = TrajectoryStreams(DONE)
    finished = [
        whole for data in collector for whole in streams.finished(data.exclude(IDS, *COUNTS), 100)
    ]
    collector.shutdown()
    assert [len(whole) for whole in finished] == [10]
    assert streams.num_dropped == 56


def test_an_episode_without_end_is_not_held():
    streams = TrajectoryStreams(DONE)
    endless = walk(0, 1000, done=False)
    held = []
    with pytest.warns(UserWarning, match="longer than the 100 steps"):
        held += [(feed(streams, part), streams.num_open) for part in endless.split(10)]
    assert all(finished == [] and num_open <= 110 for finished, num_open in held)
    end = walk(1000, 5)
    assert feed(streams, end) == []  # the end of what was dropped
    assert firsts(feed(streams, walk(3, 4))) == [[3, 7]]


def test_identifiers_that_never_end_are_not_held():
    streams = TrajectoryStreams(DONE)
    writes = [walk(0, 10, done=False).set(IDS, torch.full((10,), n)) for n in range(50)]
    with pytest.warns(UserWarning, match="was not done, and has none of the last 100 steps"):
        feed(streams, *writes)
    assert streams.num_open <= 100


@pytest.mark.parametrize("with_ids", [False, True])
def test_state_goes_on_identically(with_ids):
    streams, data = TrajectoryStreams(DONE), walk(0, 9)
    if with_ids:
        data[IDS] = torch.full((9,), 7)
    feed(streams, data[:4])
    again = TrajectoryStreams(DONE)
    again.load_state_dict(streams.state_dict())
    for each in (streams, again):
        assert firsts(feed(each, data[4:])) == [[0, 9]]


def with_ids(write: TensorDict, number: int) -> TensorDict:
    return write.clone().set(IDS, torch.full(write.shape, number))


def test_identifiers_that_workers_share_are_told_apart_by_their_rows():
    streams, a, b = TrajectoryStreams(DONE), with_ids(walk(0, 6), 0), with_ids(walk(100, 6), 0)
    with warnings.catch_warnings():  # as of RayCollector(sync=True)
        warnings.simplefilter("error")
        finished = feed(streams, torch.stack([a[:3], b[:3]]))
        again = TrajectoryStreams(DONE)
        again.load_state_dict(streams.state_dict())
        for each in (streams, again):
            finished = feed(each, torch.stack([a[3:], b[3:]]))
            assert firsts(finished) == [[0, 6], [100, 106]]


@pytest.mark.parametrize("marked", [False, True])
def test_workers_in_turns_that_share_an_identifier_are_never_spliced(marked):
    streams, a, b = TrajectoryStreams(DONE), with_ids(walk(0, 6), 0), with_ids(walk(100, 6), 0)
    for each in (a, b) if marked else ():
        each["is_init"] = (torch.arange(6) == 0).unsqueeze(1)
    with pytest.warns(UserWarning, match="was cut"):  # RayCollector(sync=False)
        finished = feed(streams, a[:3], b[:3], a[3:5], torch.cat([a[5:], b[3:]]))
    # Without a mark nothing tells that what follows a done flag is not a beginning.
    assert firsts(finished) == ([] if marked else [[103, 106]])
    assert streams.num_dropped == (12 if marked else 9)


def test_an_identifier_that_changes_within_a_trajectory_makes_no_second_one():
    streams, a, b = TrajectoryStreams(DONE), walk(0, 6), walk(100, 12)
    writes = [  # as of DistributedCollector(sync=True), which adds to the second worker's numbers
        torch.stack([with_ids(a[:3], 0), with_ids(b[:3], 0)]),
        torch.stack([with_ids(a[3:], 0), with_ids(b[3:6], 1)]),
        torch.stack([with_ids(walk(50, 3), 1), with_ids(b[6:9], 2)]),
        torch.stack([with_ids(walk(60, 3), 2), with_ids(b[9:], 2)]),
    ]
    with pytest.warns(UserWarning, match="its beginning not seen"):
        assert firsts(feed(streams, *writes)) == [[0, 6], [50, 53], [60, 63]]


def step_of_workers(worker: int, step: int, num_steps: int) -> TensorDict:
    return with_ids(walk(1000.0 * worker + step, 1, done=step == num_steps - 1), worker)


@pytest.mark.parametrize(
    ("capacity", "num_workers", "num_steps", "found", "dropped"),
    [(10, 4, 5, 4, 0), (10, 1, 25, 0, 25), (25, 1, 25, 1, 0)],
)
@pytest.mark.filterwarnings("ignore:TopKTrajectories dropped")
def test_room_is_for_each_trajectory_and_a_part_of_a_dropped_one_is_not_whole(
    capacity, num_workers, num_steps, found, dropped
):
    streams = TrajectoryStreams(DONE)
    writes = [
        step_of_workers(worker, step, num_steps)
        for step in range(num_steps)
        for worker in range(num_workers)
    ]
    half = len(writes) // 2
    finished = feed(streams, *writes[:half], capacity=capacity)
    again = TrajectoryStreams(DONE)
    again.load_state_dict(streams.state_dict())
    for each in (streams, again):
        rest = feed(each, *writes[half:], capacity=capacity)
        assert len(finished + rest) == found
        assert all(len(whole) == num_steps for whole in finished + rest)
        assert each.num_dropped == dropped


@pytest.mark.filterwarnings("ignore:TopKTrajectories dropped")
def test_a_part_of_an_episode_after_a_done_flag_is_not_whole():
    def steps(start: float, first: int, length: int = 3) -> TensorDict:
        return walk(start, length).set("step_count", first + torch.arange(length).unsqueeze(1))

    streams = TrajectoryStreams(DONE)
    assert firsts(feed(streams, steps(0, 0))) == [[0, 3]]
    assert firsts(feed(streams, steps(3, 3))) == [[3, 6]]  # a task that goes on without a reset
    again = TrajectoryStreams(DONE)
    again.load_state_dict(streams.state_dict())
    for each in (streams, again):
        assert feed(each, steps(103, 3)) == []  # steps 0 to 2 were not written
        assert each.num_dropped == 3
        assert firsts(feed(each, steps(200, 0))) == [[200, 203]]


@pytest.mark.filterwarnings("ignore:TopKTrajectories dropped")
@pytest.mark.parametrize("offset", [0, 4000])
def test_categories_far_from_zero_are_told_apart(offset):
    def cells(*states: int) -> TensorDict:
        path = torch.tensor(states) + offset
        return TensorDict(
            {"observation": path[:-1], "next": {"observation": path[1:]}}, [len(states) - 1]
        )

    data = torch.cat([cells(50, 40), cells(43, 48, 49)])  # a gap between 40 and 43
    data["next", "done"] = torch.tensor([[False], [False], [True]])
    streams = TrajectoryStreams(DONE)
    assert feed(streams, data) == []
    assert streams.num_dropped == 3


def test_an_empty_write_is_nothing():
    streams = TrajectoryStreams(DONE)
    assert streams.finished(walk(0, 3)[:0], 10) == []
    assert firsts(feed(streams, walk(0, 3))) == [[0, 3]]


@pytest.mark.parametrize("with_identifiers", [False, True])
def test_what_precedes_a_gap_is_dropped_at_once(with_identifiers):
    """As of a rollout at a time: no done flag ever comes."""
    streams = TrajectoryStreams(DONE)
    parts = [walk(10.0 * start, 4, done=False) for start in range(3)]
    if with_identifiers:
        parts = [with_ids(part, 7) for part in parts]
    with pytest.warns(UserWarning, match="was cut without a done flag"):
        assert feed(streams, *parts) == []
    assert (streams.num_dropped, streams.num_open) == (8, 4)


@pytest.mark.parametrize("with_identifiers", [False, True])
def test_rows_that_are_not_in_order_of_time_are_refused(with_identifiers):
    data = torch.stack([walk(0, 5, done=False), walk(100, 5, done=False)])  # [batch, time]
    if with_identifiers:
        data[IDS] = torch.tensor([[0], [1]]).expand(2, 5).clone()
    with pytest.raises(ValueError, match=r"transpose\(0, 1\)"):
        TrajectoryStreams(DONE).finished(data.transpose(0, 1), 100)
    still = data.clone()  # several environments that never move
    for key in ("observation", ("next", "observation")):
        still[key] = torch.zeros_like(still[key])
    assert TrajectoryStreams(DONE).finished(still, 100) == []


def test_each_step_of_an_episode_without_room_is_counted():
    streams = TrajectoryStreams(DONE)
    with pytest.warns(UserWarning, match="longer than the 4 steps"):
        finished = feed(streams, walk(0, 5, done=False), walk(5, 3), capacity=4)
    assert finished == []
    assert streams.num_dropped == 8


def test_an_episode_that_goes_on_after_drop_unfinished_is_not_whole():
    streams = TrajectoryStreams(DONE)
    steps = torch.cat([walk(0, 2), walk(10, 6)])
    steps["step_count"] = torch.tensor([0, 1, 0, 1, 2, 3, 4, 5]).unsqueeze(1)
    assert len(feed(streams, steps[:4])) == 1
    streams.drop_unfinished()
    with pytest.warns(UserWarning, match="cut without a done flag"):
        assert feed(streams, steps[4:]) == []
