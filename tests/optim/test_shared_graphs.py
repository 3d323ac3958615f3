"""Runs of one process that share compiled graphs."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Unbounded

from torchrl_recall import BacktrackingLoss, BacktrackingModel, make_update
from torchrl_recall.optim.compilation import shared_graphs


def trained(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8,))
    data = TensorDict(
        {
            "observation": torch.randn(64, 3) * (1 + seed),
            "action": torch.rand(64, 2),
            "next": {"observation": torch.randn(64, 3)},
        },
        [64],
    )
    model.update_statistics(data)  # differs from seed to seed
    loss = BacktrackingLoss(model)
    update = make_update(loss, torch.optim.Adam(loss.parameters(), 1e-2), compile=True)
    for _ in range(5):
        update(data)
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_a_run_is_the_same_whoever_compiled():
    alone = trained(1)
    with shared_graphs() as begin_run:
        begin_run()
        trained(0)
        begin_run()
        after = trained(1)
    for a, b in zip(alone, after, strict=True):
        assert torch.equal(a, b)
    again = trained(1)  # and sharing ends with its context
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
