"""Adam over what a module trains."""

from __future__ import annotations

import pytest
import torch

from torchrl_recall.optim.adam import make_adam


def test_only_trainable_parameters_are_held():
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    (group,) = make_adam(layer, 1e-3).param_groups
    assert [id(p) for p in group["params"]] == [id(layer.weight)]


def test_the_first_step_by_hand():
    """m / sqrt(v) is the sign of the gradient, so every weight moves by lr."""
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    optimizer = make_adam(layer, 0.01)
    layer(torch.tensor([3.0, -5.0])).backward()
    optimizer.step()
    moved = (layer.weight - before).flatten().tolist()
    assert moved == pytest.approx([-0.01, 0.01], rel=1e-4)


def test_it_is_fused_unless_told_otherwise():
    layer = torch.nn.Linear(2, 1)
    assert make_adam(layer, 1e-3).defaults["fused"] is True
    chosen = make_adam(layer, 1e-3, foreach=True, eps=1e-5).defaults
    assert (chosen["foreach"], chosen["fused"], chosen["eps"]) == (True, None, 1e-5)
    assert make_adam(layer, 1e-3, fused=False).defaults["fused"] is False
