"""Transitions of several steps, against returns by hand."""

from __future__ import annotations

import copy

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall import BufferState
from torchrl_recall.data.multi_step import MultiStep

GAMMA = 0.5


def stream(n: int = 40) -> TensorDict:
    """Episodes of unequal lengths, some terminated and some cut."""
    torch.manual_seed(0)
    done = torch.rand(n, 1) < 0.2
    return TensorDict(
        {
            "observation": torch.arange(float(n)).unsqueeze(-1),
            "action": torch.rand(n, 1),
            "next": {
                "observation": torch.arange(1.0, n + 1).unsqueeze(-1),
                "reward": torch.rand(n, 1),
                "done": done,
                "terminated": done & (torch.rand(n, 1) < 0.5),
            },
        },
        [n],
    )


def buffer(n: int) -> ReplayBuffer:
    made = ReplayBuffer(storage=LazyTensorStorage(100))
    made.append_transform(MultiStep(n, GAMMA))
    return made


def by_hand(data: TensorDict, n: int) -> list[tuple]:
    rows = []
    for t in range(len(data) - n):
        total, k = 0.0, 0
        while True:
            total += GAMMA**k * data["next", "reward"][t + k].item()
            k += 1
            if k == n or data["next", "done"][t + k - 1]:
                break
        last = data["next"][t + k - 1]
        rows.append((t, last["observation"].item(), total, k, last["terminated"].item()))
    return rows


def test_rows_by_hand_in_any_portions():
    data = stream()
    for n in (2, 3, 5):
        for portion in (1, 3, 40):
            replay_buffer = buffer(n)
            for part in data.split(portion):
                replay_buffer.extend(part)
            rows, expected = replay_buffer[:], by_hand(data, n)
            assert rows["observation"].flatten().tolist() == [row[0] for row in expected]
            assert rows["next", "observation"].flatten().tolist() == [row[1] for row in expected]
            reward = torch.tensor([row[2] for row in expected])
            torch.testing.assert_close(rows["next", "reward"].flatten(), reward)
            assert rows["steps_to_next_obs"].flatten().tolist() == [row[3] for row in expected]
            assert rows["next", "terminated"].flatten().tolist() == [row[4] for row in expected]
            assert rows["next", "terminated"].sum() > data["next", "terminated"].sum()


def test_the_open_window_is_saved():
    data = stream()
    whole, first, again = buffer(3), buffer(3), buffer(3)
    whole.extend(data)
    first.extend(data[:17])
    again.extend(data[20:])  # what it held is replaced
    BufferState(again).load_state_dict(copy.deepcopy(BufferState(first).state_dict()))
    again.extend(data[17:])
    for key in whole[:].keys(True, True):
        assert torch.equal(whole[:][key], again[:][key])


def test_an_interrupted_episode_leaves_nothing_behind():
    data = stream()
    replay_buffer = buffer(3)
    replay_buffer.extend(data[:10])
    replay_buffer.transform[0].drop_unfinished()
    replay_buffer.extend(data[20:30])
    rows = replay_buffer[:]
    assert rows["observation"].flatten().tolist() == [*range(7), *range(20, 27)]
    assert (rows["next", "observation"] - rows["observation"] <= 3).all()
