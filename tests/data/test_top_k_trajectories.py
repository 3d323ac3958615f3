"""The best trajectories of the agent (Alg. 1, line 5)."""

from __future__ import annotations

import copy
import math
import random
import warnings
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, SerialEnv, StepCounter, TransformedEnv

from torchrl_recall import TopKTrajectories


def make_buffer(k: int, *, size: int = 1000, kind=TensorDictReplayBuffer, **kwargs):
    buffer = kind(storage=LazyTensorStorage(size), batch_size=8)
    buffer.append_transform(keep := TopKTrajectories(k, replay_buffer=buffer, **kwargs))
    return buffer, keep


def trajectory(rewards: list[float], *, done: bool = True, tag: float = 0.0) -> TensorDict:
    n = len(rewards)
    ends = torch.zeros(n, 1, dtype=torch.bool)
    ends[-1] = done
    return TensorDict(
        {
            "tag": torch.full((n,), tag),
            "next": {"reward": torch.tensor(rewards).unsqueeze(-1), "done": ends},
        },
        [n],
    )


def stored(buffer: ReplayBuffer, key="tag") -> list[float]:
    return sorted(buffer[:][key].flatten().tolist()) if len(buffer) else []


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize(
    "order", [(1.0, 5.0, 3.0, 0.5), (5.0, 3.0, 1.0, 0.5), (0.5, 1.0, 3.0, 5.0)]
)
def test_the_best_two_of_four_remain(order, kind):
    buffer, keep = make_buffer(2, kind=kind)
    for value in order:
        buffer.extend(trajectory([value / 2, value / 2], tag=value))
    assert stored(buffer) == [3.0, 3.0, 5.0, 5.0]
    assert sorted(keep.returns.tolist()) == [3.0, 5.0]
    assert (keep.best_return, keep.lowest_return, keep.trajectories_seen) == (5.0, 0.5, 4)


def test_nothing_is_stored_before_the_end():
    buffer, keep = make_buffer(2)
    buffer.extend(trajectory([1.0, 1.0], done=False))
    buffer.extend(trajectory([1.0], done=False))
    assert (len(buffer), keep.trajectories_seen, keep.best_return) == (0, 0, -math.inf)
    buffer.extend(trajectory([1.0]))
    assert (len(buffer), keep.returns.tolist()) == (4, [4.0])


def test_timeouts_count_as_ends():
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(DoubleToFloat(), StepCounter(5)))
    buffer, keep = make_buffer(3)
    data = env.rollout(20, break_when_any_done=False)
    assert not data["next", "terminated"].any()
    buffer.extend(data)
    assert (keep.trajectories_seen, len(buffer)) == (4, 15)


@pytest.mark.parametrize("together", [True, False])
def test_ties_keep_the_newer(together):
    buffer, keep = make_buffer(2)
    data = [trajectory([1.0], tag=float(tag)) for tag in range(4)]
    for write in [torch.cat(data)] if together else data:
        buffer.extend(write)
    assert stored(buffer) == [2.0, 3.0]
    assert keep.returns.tolist() == [1.0, 1.0]


def test_in_a_batch_the_newer_is_the_one_that_ended_later():
    data = trajectory([0.0, 0.0, 1.0], done=False).expand(2, 3).clone()
    data["tag"] = torch.tensor([[0.0] * 3, [1.0] * 3])
    data["next", "done"][0, 2] = True  # row 0 ends last,
    data["next", "done"][1, 1] = True  # row 1 before it
    data["next", "reward"][1, 1] = 1.0
    buffer, _ = make_buffer(1)
    buffer.extend(data)
    assert stored(buffer) == [0.0, 0.0, 0.0]


def test_threshold_keeps_the_most_recent_above_it():
    buffer, keep = make_buffer(2, return_threshold=1.0)
    for tag, value in enumerate([9.0, 1.0, 2.0, 0.0, 3.0, 1.0]):
        buffer.extend(trajectory([value], tag=float(tag)))
    assert stored(buffer) == [2.0, 4.0]
    assert keep.returns.tolist() == [2.0, 3.0]  # oldest first
    assert keep.lowest_return == 0.0


def test_more_wanted_than_seen():
    buffer, keep = make_buffer(10)
    for tag in range(3):
        buffer.extend(trajectory([1.0, float(tag)], tag=float(tag)))
    assert stored(buffer) == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert len(keep.returns) == 3


def test_rows_of_one_trajectory_stay_together_and_in_order():
    buffer, _ = make_buffer(3)
    for tag in range(6):
        data = trajectory([float(tag)] * (tag + 1), tag=float(tag))
        data["step"] = torch.arange(tag + 1)
        buffer.extend(data)
    rows = buffer[:]
    assert rows["tag"].tolist() == [3.0] * 4 + [4.0] * 5 + [5.0] * 6
    assert rows["step"].tolist() == [*range(4), *range(5), *range(6)]


def streams(rows: int, length: int, seed: int) -> TensorDict:
    """Small integer rewards, so that ties are frequent and exact."""
    generator = torch.Generator().manual_seed(seed)
    data = TensorDict({}, batch_size=[rows, length])
    data["id"] = torch.arange(rows * length).reshape(rows, length)
    reward = torch.randint(0, 3, (rows, length, 1), generator=generator).float()
    done = torch.rand(rows, length, 1, generator=generator) < 0.2
    return data.set("next", TensorDict({"reward": reward, "done": done}, [rows, length]))


def oracle(data: TensorDict, k: int, threshold: float | None) -> list[int]:
    """Every step of the k best trajectories, by brute force."""
    found = []
    for row in range(data.shape[0]):
        start = 0
        for t in range(data.shape[1]):
            if data["next", "done"][row, t]:
                steps = data[row, start : t + 1]
                value = steps["next", "reward"].sum().item()
                found.append((value, t, row, steps["id"].tolist()))
                start = t + 1
    if threshold is None:
        found.sort(key=lambda f: f[:3])
    else:
        found = sorted((f for f in found if f[0] > threshold), key=lambda f: f[1:3])
    return sorted(i for *_, ids in found[-k:] for i in ids)


@pytest.mark.parametrize("threshold", [None, 4.0])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force_however_it_is_cut(seed, rows, k, threshold):
    data = streams(rows or 1, 120, seed)
    buffer, keep = make_buffer(k, return_threshold=threshold)
    choose, start = random.Random(seed), 0
    while start < 120:
        stop = min(120, start + choose.choice([1, 2, 7, 30]))
        write = data[:, start:stop]
        buffer.extend(write[0].clone() if rows is None else write.clone())
        start = stop
        assert stored(buffer, "id") == oracle(data[:, :stop], k, threshold)
    assert keep.trajectories_seen == int(data["next", "done"].sum())
    assert len(buffer) == int(keep._lengths.sum())


def test_more_than_one_batch_dimension():
    data = streams(6, 40, 0)
    flat, _ = make_buffer(3)
    flat.extend(data.clone())
    deep, _ = make_buffer(3)
    deep.extend(data.clone().reshape(2, 3, 40))
    assert stored(deep, "id") == stored(flat, "id") == oracle(data, 3, None)


def padded(lengths: list[int], values: list[float], *, trailing: bool = False) -> TensorDict:
    rows = []
    for tag, (length, value) in enumerate(zip(lengths, values, strict=True)):
        row = trajectory([value / length] * length, tag=float(tag + 1))
        row["collector", "mask"] = torch.ones(length, *[1] * trailing, dtype=torch.bool)
        rows.append(torch.cat([row, row.new_zeros(max(lengths) - length)]))
    return torch.stack(rows)


@pytest.mark.parametrize("trailing", [False, True])
def test_padded_whole_trajectories(trailing):
    buffer, keep = make_buffer(2)
    buffer.extend(padded([2, 4, 1], [1.0, 8.0, 5.0], trailing=trailing))
    assert stored(buffer) == [2.0, 2.0, 2.0, 2.0, 3.0]
    assert sorted(keep.returns.tolist()) == [5.0, 8.0]
    assert ("collector", "mask") not in buffer[:].keys(True)
    buffer.extend(padded([3, 3], [9.0, 0.0], trailing=trailing))
    assert sorted(keep.returns.tolist()) == [8.0, 9.0]
    assert stored(buffer) == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


def hopper() -> TransformedEnv:
    return TransformedEnv(GymEnv("Hopper-v5"), Compose(DoubleToFloat(), StepCounter(13)))


def returns_of(data: TensorDict) -> list[float]:
    """Returns of the complete trajectories of one stream."""
    found, total = [], 0.0
    for reward, done in zip(data["next", "reward"], data["next", "done"], strict=True):
        total += reward.item()
        if done:
            found.append(total)
            total = 0.0
    return found


@pytest.mark.parametrize("num_envs", [1, 2])
def test_collector_that_cuts_trajectories(num_envs):
    env = hopper if num_envs == 1 else (lambda: SerialEnv(num_envs, hopper))
    collector = Collector(env, None, frames_per_batch=7 * num_envs, total_frames=140 * num_envs)
    collector.set_seed(0)
    buffer, keep = make_buffer(3)
    batches = []
    for data in collector:
        batches.append(data.clone())
        buffer.extend(data)
    collector.shutdown()
    whole = torch.cat(batches, -1).reshape(num_envs, -1)
    values = [value for row in whole for value in returns_of(row)]
    assert len(values) >= 5
    assert keep.trajectories_seen == len(values)
    assert sorted(keep.returns.tolist()) == pytest.approx(sorted(values)[-3:], rel=1e-5)
    assert int(buffer[:]["next", "done"].sum()) == 3
    assert sorted(returns_of(buffer[:])) == pytest.approx(sorted(values)[-3:], rel=1e-5)


@pytest.mark.parametrize("layout", ["padded", "cat"])
def test_collector_of_whole_trajectories(layout):
    collector = Collector(
        hopper, None, frames_per_batch=40, total_frames=160, trajs_per_batch=3, traj_format=layout
    )
    collector.set_seed(0)
    buffer, keep = make_buffer(2)
    values = []
    for data in collector:
        rows = [row[row["collector", "mask"]] for row in data] if layout == "padded" else [data]
        values += [value for row in rows for value in returns_of(row)]
        buffer.extend(data)
    collector.shutdown()
    assert len(values) >= 3
    assert keep.trajectories_seen == len(values)
    assert sorted(keep.returns.tolist()) == pytest.approx(sorted(values)[-2:], rel=1e-5)
    assert sorted(returns_of(buffer[:])) == pytest.approx(sorted(values)[-2:], rel=1e-5)


def test_collector_that_writes_whole_trajectories_itself():
    buffer, keep = make_buffer(2)
    collector = Collector(
        hopper,
        None,
        frames_per_batch=40,
        total_frames=160,
        trajs_per_batch=3,
        replay_buffer=buffer,
    )
    for _ in collector:
        pass
    collector.shutdown()
    assert keep.trajectories_seen >= 6
    assert sorted(returns_of(buffer[:])) == pytest.approx(sorted(keep.returns.tolist()), rel=1e-5)


# capacity and refusals


def test_too_small_a_buffer_warns_and_keeps_the_best_that_fit():
    buffer, keep = make_buffer(3, size=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.extend(trajectory([1.0, 1.0], tag=2.0))
        buffer.extend(trajectory([2.0, 2.0], tag=4.0))
    with pytest.warns(UserWarning, match="keeping the best 2"):
        buffer.extend(trajectory([3.0, 3.0], tag=6.0))
    assert stored(buffer) == [4.0, 4.0, 6.0, 6.0]
    assert sorted(keep.returns.tolist()) == [4.0, 6.0]


def test_trajectory_longer_than_the_buffer_is_dropped_with_one_warning():
    buffer, keep = make_buffer(2, size=5)
    buffer.extend(trajectory([1.0], tag=1.0))
    with pytest.warns(UserWarning, match="6 steps does not fit"):
        buffer.extend(trajectory([1.0] * 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.extend(trajectory([2.0] * 7))
    assert (keep.returns.tolist(), stored(buffer)) == ([1.0], [1.0])


def with_other_entries(kind: str) -> TensorDict:
    """A trajectory whose return would be the best, but for its entries."""
    data = trajectory([9.0, 9.0], tag=9.0)
    if kind == "missing":
        return data.exclude("tag")
    if kind == "new":
        return data.set("extra", torch.zeros(2))
    if kind == "shape":
        return data.set("tag", torch.zeros(2, 3))
    return data.set("tag", data["tag"].double())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (trajectory([1.0, math.nan], tag=0.0), "NaN"),
        (trajectory([1.0, math.inf], tag=0.0), "infinity"),
        (with_other_entries("missing"), "tag"),
        (with_other_entries("new"), "extra"),
        (with_other_entries("shape"), "tag"),
        (with_other_entries("dtype"), "tag"),
    ],
)
def test_after_an_error_everything_is_as_before(bad, words):
    buffer, keep = make_buffer(2, size=50)
    for value in (1.0, 2.0):
        buffer.extend(trajectory([value], tag=value))
    before = keep.returns.tolist(), stored(buffer)
    with pytest.raises(ValueError, match=words):
        buffer.extend(bad)
    assert (keep.returns.tolist(), stored(buffer)) == before
    buffer.extend(trajectory([3.0], tag=3.0))
    assert stored(buffer) == [2.0, 3.0]


@pytest.mark.parametrize("key", ["reward", "done"])
def test_missing_entries_are_named(key):
    buffer, _ = make_buffer(2)
    with pytest.raises(KeyError, match=f"{key}_key="):
        buffer.extend(trajectory([1.0]).exclude(("next", key)))


def test_keys_can_be_renamed():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50), batch_size=2)
    keep = TopKTrajectories(
        1, replay_buffer=buffer, reward_key=("agents", "reward"), done_key=("agents", "done")
    )
    buffer.append_transform(keep)
    for value in (2.0, 1.0):
        data = trajectory([value], tag=value)
        data["next", "agents"] = data["next"].clone()
        buffer.extend(data.exclude(("next", "reward"), ("next", "done")))
    assert stored(buffer) == [2.0]


@pytest.mark.parametrize("k", [0, -1, 1.5, None])
def test_bad_number_is_refused(k):
    with pytest.raises(ValueError, match="num_trajectories"):
        make_buffer(k)


def test_another_number_of_rows_in_mid_trajectory_is_refused():
    buffer, _ = make_buffer(2)
    buffer.extend(trajectory([1.0], done=False).expand(2, 1).clone())
    with pytest.raises(ValueError, match="3 rows"):
        buffer.extend(trajectory([1.0]).expand(3, 1).clone())


def test_add_is_refused():
    buffer, _ = make_buffer(2)
    with pytest.raises(ValueError, match=r"extend\(\)"):
        buffer.add(trajectory([1.0])[0])


def test_shared_buffer_is_refused():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50), batch_size=2, shared=True)
    with pytest.raises(RuntimeError, match="shared=False"):
        TopKTrajectories(2, replay_buffer=buffer)


@pytest.mark.parametrize(
    "use",
    [
        lambda env: env.reset(),
        lambda env: env.rollout(2),
        lambda env: env.observation_spec,
        lambda env: env.action_spec,
    ],
    ids=["reset", "rollout", "output_spec", "input_spec"],
)
def test_environment_is_refused(use):
    _, keep = make_buffer(2)

    def build():
        env = TransformedEnv(GymEnv("Pendulum-v1"))
        env.append_transform(keep)
        return env

    with pytest.raises(RuntimeError, match="not to an environment"):
        use(build())


def test_samples_pass_through():
    buffer, keep = make_buffer(2)
    data = trajectory([1.0, 2.0, 3.0], tag=7.0)
    buffer.extend(data.clone())
    sample = buffer.sample(64)
    assert set(sample["next", "reward"].unique().tolist()) == {1.0, 2.0, 3.0}
    assert (sample["tag"] == 7.0).all()
    assert keep(data) is data


def test_writes_leave_the_given_data_alone():
    buffer, _ = make_buffer(2)
    data = trajectory([1.0, 2.0])
    before = data.clone()
    buffer.extend(data)
    assert (data.select(*before.keys(True, True)) == before).all()
    data["tag"].fill_(9.0)
    assert stored(buffer) == [0.0, 0.0]


def test_unfinished_rows_may_change_after_they_were_written():
    buffer, _ = make_buffer(2)
    scratch = trajectory([1.0], done=False, tag=1.0)  # a collector reuses its memory
    buffer.extend(scratch)
    scratch["tag"].fill_(9.0)
    buffer.extend(trajectory([1.0], tag=2.0))
    assert stored(buffer) == [1.0, 2.0]


def test_memory_of_finished_trajectories_is_freed():
    _, keep = make_buffer(1)
    data = streams(2, 2000, 0)
    data["next", "done"][:, 9::10] = True
    held = 0
    for start in range(0, 2000, 25):
        keep._inv_call(data[:, start : start + 25])
        held = max(
            held,
            sum(
                v.untyped_storage().nbytes()
                for td in keep.streams._by_row._parts
                for v in td.values(True, True)
            ),
        )
    one_step = sum(v[0, :1].numel() * v.element_size() for v in data.values(True, True))
    assert held <= 2 * (10 + 25) * one_step


# state


def fill(buffer: ReplayBuffer, data: TensorDict) -> None:
    for start in range(0, data.shape[1], 7):
        buffer.extend(data[:, start : start + 7].clone())


def filled(seed: int = 0):
    data = streams(2, 140, seed)
    data["next", "done"][:, 62:72] = False  # both rows are open where the state is saved
    buffer, keep = make_buffer(3)
    fill(buffer, data[:, :70])
    assert keep.streams.num_open
    return buffer, keep, data


def check_continuation(buffer, keep, other, again, data) -> None:
    assert stored(other, "id") == stored(buffer, "id")
    for both in (buffer, other):
        fill(both, data[:, 70:])
    assert stored(other, "id") == stored(buffer, "id") == oracle(data, 3, None)
    assert torch.equal(again.returns, keep.returns)
    assert again.lowest_return == keep.lowest_return
    assert again.trajectories_seen == keep.trajectories_seen


def test_state_dict_round_trip_in_mid_trajectory():
    buffer, keep, data = filled()
    other, again = make_buffer(3)
    other.load_state_dict(buffer.state_dict())
    check_continuation(buffer, keep, other, again, data)


def test_dump_round_trip_in_mid_trajectory(tmp_path: Path):
    buffer, keep, data = filled()
    buffer.dumps(tmp_path)
    other, again = make_buffer(3)
    other.loads(tmp_path)
    check_continuation(buffer, keep, other, again, data)


def test_dumped_state_is_plain(tmp_path: Path):
    _, keep, _ = filled()
    torch.save(keep.state_dict(), tmp_path / "transform.pt")
    state = torch.load(tmp_path / "transform.pt", weights_only=True)
    _, again = make_buffer(3)
    again.load_state_dict(state)
    assert torch.equal(again.returns, keep.returns)
    assert len(again.streams._by_row._parts) == 1
    assert (again.streams._by_row._parts[0] == torch.cat(keep.streams._by_row._parts, 1)).all()


def test_files_of_a_dump_are_plain(tmp_path: Path):
    buffer, _, _ = filled()
    buffer.dumps(tmp_path)
    files = [f for f in tmp_path.rglob("*") if f.is_file() and "transform" in f.name.lower()]
    assert files
    for file in files:
        torch.load(file, weights_only=True)


def test_state_before_any_data():
    _, keep = make_buffer(3)
    _, again = make_buffer(3)
    again.load_state_dict(keep.state_dict())
    assert (again.best_return, again.lowest_return) == (-math.inf, math.inf)


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("how", ["transform", "transform_factory", "compose", "append", "copy"])
def test_it_finds_the_buffer_that_it_is_in(how, kind):
    keep, size = TopKTrajectories(2), {"storage": LazyTensorStorage(100), "batch_size": 8}
    given = {
        "transform": {"transform": keep},
        "transform_factory": {"transform_factory": lambda: keep},
        "compose": {"transform": Compose(keep)},
    }
    buffer = kind(**size, **given.get(how, {}))
    if how in ("append", "copy"):
        buffer.append_transform(keep)
    if how == "copy":
        original, buffer = buffer, copy.deepcopy(buffer)
    for value in (1.0, 5.0, 3.0, 0.5):
        buffer.extend(trajectory([value], tag=value))
    assert stored(buffer) == [3.0, 5.0]
    if how == "copy":
        assert not len(original)


def test_in_no_buffer_it_says_so():
    with pytest.raises(RuntimeError, match=r"in no replay buffer.*transform="):
        TopKTrajectories(2).inv(trajectory([1.0]))


def test_an_emptied_buffer_begins_anew_and_rows_of_others_are_refused():
    buffer, keep = make_buffer(2)
    for value in (1.0, 5.0, 3.0):
        buffer.extend(trajectory([value], tag=value))
    buffer.empty()
    buffer.extend(trajectory([2.0, 0.0], tag=2.0))
    assert (stored(buffer), keep.returns.tolist()) == ([2.0, 2.0], [2.0])
    buffer.writer.extend(trajectory([9.0]))  # past the transform
    with pytest.raises(ValueError, match="holds 3 rows, but the best trajectories have 2 steps"):
        buffer.extend(trajectory([4.0]))


def test_returns_are_compared_in_double_precision():
    buffer, keep = make_buffer(1)
    for reward in (1e8 + 1, 1e8):
        data = trajectory([reward])
        data["next", "reward"] = torch.tensor([[reward]], dtype=torch.float64)
        buffer.extend(data)
    assert keep.returns.tolist() == [1e8 + 1]
    assert buffer[:]["next", "reward"].item() == 1e8 + 1


def test_a_storage_of_lists_is_refused():
    buffer = ReplayBuffer(batch_size=2, transform=TopKTrajectories(2))
    with pytest.raises(ValueError, match=r"from the ListStorage .* storage=LazyTensorStorage"):
        buffer.extend(trajectory([1.0]))
