"""The reward model on rewards that are known."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, LazyTensorStorage, OneHot, ReplayBuffer, Unbounded

from torchrl_recall import RewardModel, RewardModelLoss
from torchrl_recall.reward_updates import RewardUpdates


def experience(n: int = 2_000, scale: float = 1.0) -> TensorDict:
    """r = 3 + 10 (x' - x) + a, and an end where x' is above one."""
    state, action = torch.randn(n, 2), 2 * torch.rand(n, 1) - 1
    following = state + 0.1 * torch.randn(n, 2)
    reward = 3 + 10 * (following - state)[:, :1] + action
    return TensorDict(
        {
            "observation": state,
            "action": action,
            "next": {
                "observation": following,
                "reward": scale * reward,
                "terminated": following[:, :1] > 1,
                "done": following[:, :1] > 1,
            },
        },
        [n],
    )


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_it_learns_a_known_reward_and_end(scale, device):
    data = experience(scale=scale).to(device)
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)), num_cells=(64, 64)).to(device)
    model.update_statistics(data)
    replay_buffer = ReplayBuffer(storage=LazyTensorStorage(len(data), device=device))
    replay_buffer.extend(data)
    train = RewardUpdates(model, num_updates=400, batch_size=128, lr=3e-3)
    first, last = (train(replay_buffer) for _ in range(2))
    assert last["reward_model/loss_reward"] < first["reward_model/loss_reward"]
    new = experience(scale=scale).to(device)
    guess = model(new.select("observation", "action", ("next", "observation")))["next"]
    assert (guess["reward"] - new["next", "reward"]).square().mean().sqrt() < 0.25 * scale
    assert (guess["terminated"] == new["next", "terminated"]).float().mean() > 0.97


def test_losses_by_hand():
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)), num_cells=(8,))
    data = experience(50)
    model.update_statistics(data)
    losses = RewardModelLoss(model)(data)
    reward, logit = model.predict(data)
    real = data["next", "reward"]
    standard = (real - real.mean()) / real.std(correction=0)
    assert torch.allclose(losses["loss_reward"], (reward - standard).square().mean(), rtol=1e-4)
    p = torch.where(data["next", "terminated"], logit.sigmoid(), 1 - logit.sigmoid())
    assert torch.allclose(losses["loss_termination"], -p.log().mean(), rtol=1e-4)


def test_categories():
    spec = Categorical(5)
    model = RewardModel(spec, OneHot(3))
    data = TensorDict(
        {
            "observation": torch.randint(5, (9,)),
            "action": torch.eye(3)[torch.randint(3, (9,))].long(),
            "next": {"observation": torch.randint(5, (9,)), "reward": torch.rand(9, 1)},
        },
        [9],
    )
    model.update_statistics(data)
    assert model(data)["next", "reward"].shape == (9, 1)
    assert RewardModelLoss(model)(data)["loss_termination"].isfinite()


def test_what_is_missing_is_named():
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)))
    with pytest.raises(KeyError, match=r"reads .*action"):
        model(experience(3).exclude("action"))
    with pytest.raises(KeyError, match="Give real transitions"):
        model.update_statistics(experience(3).exclude(("next", "reward")))
    with pytest.raises(TypeError, match="RewardModel"):
        RewardModelLoss(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="batch_size"):
        RewardUpdates(model, batch_size=0)


@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_other_shapes_than_those_of_the_specs_are_refused(key):
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (2,)))
    data = experience(5)
    data["action"] = torch.rand(5, 2)
    model.update_statistics(data)
    data[key] = data[key][:, :1]  # would be broadcast
    for read in (model, model.update_statistics):
        with pytest.raises(ValueError, match=r"has shape \(5, 1\); expected .*\(2,\)"):
            read(data)
    with pytest.raises(ValueError, match=r"'reward'\) has shape \(5, 2\), .*sum its parts"):
        model.reward_of(data.set(("next", "reward"), torch.rand(5, 2)))


def test_rewards_that_are_not_finite_leave_the_statistics_as_they_were():
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)))
    model.update_statistics(experience(100))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bad = experience(100)
    bad["next", "reward"][3] = torch.nan
    with pytest.raises(ValueError, match="drop it from the data"):
        model.update_statistics(bad)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_statistics_are_not_spoilt_by_one_bad_entry(key):
    data = experience(50)
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)))
    model.update_statistics(data)
    before = model(data.clone())["next", "reward"]
    bad = data.clone()
    bad[key][7] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        model.update_statistics(bad)
    assert torch.equal(model(data.clone())["next", "reward"], before)


def test_masked_rows_do_not_count():
    data = experience(20)
    model = RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,)))
    model.update_statistics(data)
    loss = RewardModelLoss(model)
    right = loss(data[:12])
    data["mask"] = torch.arange(20) < 12
    data["next", "reward"][15] = torch.nan
    for key, value in loss(data).items():
        torch.testing.assert_close(value, right[key])


def test_an_empty_batch_and_a_missing_flag_are_named():
    data = experience(20)
    loss = RewardModelLoss(RewardModel(Unbounded((2,)), Bounded(-1, 1, (1,))))
    with pytest.raises(ValueError, match="the batch is empty"):
        loss(data[:0])
    with pytest.raises(KeyError, match="terminated"):
        loss(data.exclude(("next", "terminated")))
