"""Hand-made experience, and comparisons of weights, that several test modules share."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer, Unbounded

from torchrl_recall import BacktrackingModel


def episode(value: float, *, length: int = 5, action: float | None = None) -> TensorDict:
    """One whole trajectory of the given return."""
    path = torch.randn(length + 1, 3).cumsum(0)
    data = TensorDict({"observation": path[:-1]}, [length])
    data["action"] = (
        torch.rand(length, 2) * 2 - 1 if action is None else torch.full((length, 2), action)
    )
    done = torch.zeros(length, 1, dtype=torch.bool)
    done[-1] = True
    reward = torch.full((length, 1), value / length)
    following = {"observation": path[1:], "reward": reward, "done": done, "terminated": done}
    return data.set("next", TensorDict(following, [length]))


def episodes(*values: float) -> TensorDict:
    return torch.cat([episode(value) for value in values])


def padded(*episodes: TensorDict) -> TensorDict:
    """Whole trajectories as rows of one batch, the shorter ones filled up with zeros."""
    longest = max(map(len, episodes))
    rows = []
    for data in episodes:
        data = data.clone()
        data["collector", "mask"] = torch.ones(len(data), dtype=torch.bool)
        rows.append(torch.cat([data, data.new_zeros(longest - len(data))]))
    return torch.stack(rows)


def make_replay_buffer(*data: TensorDict) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=16)
    buffer.extend(torch.cat(data) if data else episodes(0.0, 1.0, 2.0))
    return buffer


def new_model(**kwargs) -> BacktrackingModel:
    return BacktrackingModel.from_specs(
        Unbounded((3,)), Bounded(-1, 1, (2,)), **{"num_cells": (8, 8)} | kwargs
    )


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def steps(optimizer: torch.optim.Optimizer) -> int:
    """Number of steps that an Adam has taken."""
    counts = {int(state["step"]) for state in optimizer.state.values()}
    assert len(counts) <= 1
    return counts.pop() if counts else 0
