"""Networks and losses of a Goal GAN."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Unbounded

from torchrl_recall import GoalGAN, GoalGANLoss


def test_losses_by_hand():
    gan = GoalGAN(Bounded(-1, 1, (2,)))
    loss = GoalGANLoss(gan)
    for parameter in gan.discriminator.parameters():
        torch.nn.init.zeros_(parameter)  # D = 0 everywhere
    data = TensorDict({"goal": torch.zeros(4, 2), "label": torch.tensor([[1], [1], [0], [0]])}, [4])
    losses = loss(data)
    assert float(losses["loss_discriminator"]) == pytest.approx(1 + 1)
    assert float(losses["loss_generator"]) == pytest.approx(0)


def test_neither_loss_moves_the_others_network():
    gan = GoalGAN(Bounded(-1, 1, (2,)))
    loss = GoalGANLoss(gan)
    data = TensorDict({"goal": torch.rand(8, 2), "label": torch.ones(8, 1)}, [8])
    for key, moved, still in (
        ("loss_discriminator", "discriminator_params", "generator_params"),
        ("loss_generator", "generator_params", "discriminator_params"),
    ):
        loss.zero_grad()
        loss(data)[key].backward()
        grads = {
            key: [p.grad for p in getattr(loss, key).values(True, True) if p.requires_grad]
            for key in (moved, still)
        }
        assert all(grad is not None for grad in grads[moved])
        assert all(grad is None for grad in grads[still])


def test_an_unbounded_spec_is_refused():
    with pytest.raises(ValueError, match="Bounded vector"):
        GoalGAN(Unbounded((2,)))


def test_a_missing_label_is_named():
    loss = GoalGANLoss(GoalGAN(Bounded(-1, 1, (2,))))
    with pytest.raises(KeyError, match=r"GoalGANLoss reads 'label'.*set_keys"):
        loss(TensorDict({"goal": torch.rand(4, 2)}, [4]))


def test_goals_have_the_bounds_of_the_spec_at_one():
    spec = Bounded(torch.tensor([0.0, -10.0]), torch.tensor([1.0, 30.0]))
    gan = GoalGAN(spec)
    corners = torch.stack([spec.space.low, spec.space.high])
    assert gan.normalized(corners).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert all(spec.is_in(goal) for goal in torch.cat([gan.sample(64), gan.uniform(64)]))


def test_reductions_and_mask_agree():
    gan = GoalGAN(Bounded(-1, 1, (2,)))
    data = TensorDict({"goal": torch.rand(8, 2), "label": torch.rand(8, 1) > 0.5}, [8])
    found = {}
    for reduction in ("none", "mean", "sum"):
        torch.manual_seed(0)
        found[reduction] = GoalGANLoss(gan, reduction=reduction)(data)
    assert found["none"].shape == (8,)
    torch.testing.assert_close(found["none"].mean(), found["mean"])
    torch.testing.assert_close(found["none"].sum(), found["sum"])

    # Masked goals, NaN among them, change nothing and get no gradient.
    masked = data.clone().set("mask", torch.arange(8) < 5)
    masked["goal"][5:] = torch.nan
    torch.manual_seed(0)
    loss = GoalGANLoss(gan)
    told = loss(masked)
    torch.testing.assert_close(told, found["none"][:5].mean())
    sum(told.values()).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())
    with pytest.raises(ValueError, match="reduction must be"):
        GoalGANLoss(gan, reduction="median")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_bounds_and_goals_of_another_dtype_are_taken_as_those_of_the_networks(dtype):
    gan = GoalGAN(Bounded(-1, 1, (2,), dtype=dtype))
    assert gan.sample(3).dtype == torch.float32
    data = TensorDict({"goal": torch.ones(4, 2, dtype=dtype), "label": torch.ones(4, 1)}, [4])
    assert GoalGANLoss(gan)(data)["loss_discriminator"].isfinite()
