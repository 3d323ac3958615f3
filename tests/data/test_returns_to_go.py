"""Returns of real episodes, by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from recipe_fixtures import configure, sha256, stopped_copy, tiny, train
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall import BufferState
from torchrl_recall.data.multi_step import MultiStep
from torchrl_recall.data.returns_to_go import BoundedTD0, ReturnsToGo
from torchrl_recall.trainers.schema import ConfigError

GAMMA = 0.5


def stream(n: int = 60) -> TensorDict:
    torch.manual_seed(0)
    done = torch.rand(n, 1) < 0.2
    return TensorDict(
        {
            "observation": torch.arange(float(n)).unsqueeze(-1),
            "next": {
                "observation": torch.arange(1.0, n + 1).unsqueeze(-1),
                "reward": torch.rand(n, 1),
                "done": done,
                "terminated": done & (torch.rand(n, 1) < 0.6),
            },
        },
        [n],
    )


def by_hand(data: TensorDict) -> list[float]:
    done, terminated = data["next", "done"].flatten(), data["next", "terminated"].flatten()
    returns = []
    for t in range(len(data)):
        end = next((k for k in range(t, len(data)) if done[k]), None)
        if end is None or not terminated[end]:
            returns.append(-math.inf)
        else:
            rewards = data["next", "reward"].flatten()[t : end + 1].tolist()
            returns.append(sum(GAMMA**k * r for k, r in enumerate(rewards)))
    return returns


@pytest.mark.parametrize("portion", [1, 7, 60])
@pytest.mark.parametrize("n_step", [1, 3])
def test_by_hand(n_step, portion):
    data, replay_buffer = stream(), ReplayBuffer(storage=LazyTensorStorage(100))
    if n_step > 1:
        replay_buffer.append_transform(MultiStep(n_step, GAMMA))
    returns = ReturnsToGo(replay_buffer, GAMMA)
    for part in data.split(portion):
        returns.extend(part)
    rows = replay_buffer[:]
    expected = torch.tensor(by_hand(data))[rows["observation"].flatten().long()]
    assert expected.isfinite().any()
    torch.testing.assert_close(rows["return_to_go"].flatten(), expected)


def test_the_oldest_rows_are_overwritten():
    data, replay_buffer = stream(), ReplayBuffer(storage=LazyTensorStorage(16))
    returns = ReturnsToGo(replay_buffer, GAMMA)
    for part in data.split(1):
        returns.extend(part)
    rows = replay_buffer[:]
    expected = torch.tensor(by_hand(data))[rows["observation"].flatten().long()]
    torch.testing.assert_close(rows["return_to_go"].flatten(), expected)


def test_rows_written_twice_keep_the_last_return():
    """Episodes longer than the buffer, and open ones over the rows of those that have ended."""
    n, size = 200_000, 30_000
    done = torch.zeros(n, 1, dtype=torch.bool)
    done[150_000] = done[160_000] = True
    data = TensorDict(
        {
            "observation": torch.arange(n).unsqueeze(-1),
            "next": {"reward": torch.rand(n, 1), "done": done, "terminated": done.clone()},
        },
        [n],
    )
    expected = torch.full((n,), -math.inf, dtype=torch.float64)
    total = 0.0
    rewards = data["next", "reward"].flatten().double()
    for t in range(160_000, -1, -1):
        total = rewards[t].item() + (0.0 if done[t] else GAMMA * total)
        expected[t] = total
    for portion in (25_000, 7_000):
        replay_buffer = ReplayBuffer(storage=LazyTensorStorage(size))
        returns = ReturnsToGo(replay_buffer, GAMMA)
        for part in data[:170_000].split(portion):
            returns.extend(part)
        rows = replay_buffer[:]
        found = rows["return_to_go"].flatten().double()
        true = expected[rows["observation"].flatten()]
        assert 0 < true.isfinite().sum() < size  # of ended episodes, and of one that is open
        torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)


def test_what_waits_is_saved():
    data = stream()
    whole, first, again = (ReplayBuffer(storage=LazyTensorStorage(100)) for _ in range(3))
    ReturnsToGo(whole, GAMMA).extend(data)
    saved, other = ReturnsToGo(first, GAMMA), ReturnsToGo(again, GAMMA)
    saved.extend(data[:23])
    BufferState(again).load_state_dict(copy.deepcopy(BufferState(first).state_dict()))
    other.load_state_dict(copy.deepcopy(saved.state_dict()))
    other.extend(data[23:])
    assert torch.equal(whole[:]["return_to_go"], again[:]["return_to_go"])


def test_an_interrupted_episode_stays_unknown():
    data, replay_buffer = stream(), ReplayBuffer(storage=LazyTensorStorage(100))
    data["next", "done"][:8] = False
    returns = ReturnsToGo(replay_buffer, GAMMA)
    returns.extend(data[:8])
    returns.drop_unfinished()
    returns.extend(data[20:])
    assert replay_buffer[:8]["return_to_go"].isinf().all()
    torch.testing.assert_close(
        replay_buffer[:]["return_to_go"].flatten()[8:], torch.tensor(by_hand(data[20:]))
    )


@pytest.mark.parametrize("recall", ["none", pytest.param("backtracking", marks=pytest.mark.slow)])
def test_runs_with_the_bound_differ_and_go_on_bitwise(recall, tmp_path):
    words = tiny(
        recall,
        env__name="point_umaze",
        sac__n_step=2,
        seed=5,
        recall__reward="sparse",
        collector__random_until_reward=True,
        collector__total_frames=480,
        eval__interval=240,
        checkpoint__interval=240,
    )
    bounded = [*words, "sac.return_bound=true"]
    assert train(tmp_path / "plain", words) == 0
    assert train(tmp_path / "whole", bounded) == 0
    assert sha256(tmp_path / "plain") != sha256(tmp_path / "whole")
    stopped_copy(tmp_path / "whole", tmp_path / "again", 240)
    assert train(tmp_path / "again", [*bounded, "resume=auto"]) == 0
    assert sha256(tmp_path / "again") == sha256(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sac__return_bound": "true", "collector__num_envs": 2}, "return_bound"),
        ({"sac__n_step": 3, "collector__num_envs": 2}, "n_step"),
        ({"sac__n_step": 60}, "init_random_frames"),
        ({"collector__random_until_reward": "true", "collector__num_envs": 2}, "num_envs=1"),
        ({"recall__end_states": "value"}, "recall.end_states=return"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, match):
    with pytest.raises(ConfigError, match=match):
        configure(tiny(**({"collector__frames_per_batch": 2} | change)))


def test_a_bound_of_the_batchs_shape_bounds_each_row():
    flag = torch.zeros(2, 1, dtype=torch.bool)
    following = {"reward": torch.zeros(2, 1), "done": flag, "terminated": flag}
    data = TensorDict({"return_to_go": torch.tensor([0.5, -math.inf]), "next": following}, [2])
    target = BoundedTD0(gamma=0.9, value_network=None)
    found = target.value_estimate(data, next_value=torch.full((2, 1), 0.1))
    assert found.tolist() == [[0.5], [pytest.approx(0.09)]]
