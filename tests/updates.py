"""SAC's loss and runs of its updates, which several test modules share."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate


def sac(make_actor, transitions):
    """SAC's loss, an Adam over it, its updater of targets, and random data."""
    torch.manual_seed(0)
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    loss = SACLoss(make_actor(), qvalue)
    loss.make_value_estimator(gamma=0.9)
    updater = SoftUpdate(loss, tau=0.05)
    data = transitions(64)
    data["next", "reward"] = torch.randn(64, 1)
    data["next", "done"] = torch.rand(64, 1) < 0.1
    data["next", "terminated"] = data["next", "done"].clone()
    return loss, torch.optim.Adam(loss.parameters(), lr=3e-3), updater, data


def run(update, loss, data, steps: int) -> tuple[dict, list[TensorDict]]:
    """The loss's state after some updates, and their outputs."""
    outputs = []
    for step in range(steps):
        torch.manual_seed(step)
        outputs.append(update(data[torch.randint(64, (16,))]))
    return {
        name: value.detach().clone()
        for name, value in loss.state_dict().items()
        if isinstance(value, torch.Tensor)
    }, outputs
