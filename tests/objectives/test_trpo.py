"""TRPO's losses: by hand, then those of PPO, then bad input."""

from __future__ import annotations

import math

import pytest
import torch
from policies import Bandit, act, actor_of, bits, experience, gaussian, same_bits
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
)
from torch import nn
from torchrl.modules import (
    Actor,
    IndependentNormal,
    RunningValueNorm,
    ValueOperator,
)
from torchrl.objectives import PPOLoss

from torchrl_recall import TRPOLoss, TrustRegion


def test_the_surrogate_by_hand():
    bandit = Bandit(1)
    loss = TRPOLoss(actor_of(bandit, IndependentNormal))
    data = TensorDict({"observation": torch.zeros(2, 1), "action": torch.zeros(2, 1)}, [2])
    log_prob = -math.log(0.5 * math.sqrt(2 * math.pi))
    # Old probabilities half and twice as high as today's.
    data["action_log_prob"] = torch.tensor([log_prob - math.log(2), log_prob + math.log(2)])
    data["advantage"] = torch.tensor([[3.0], [4.0]])
    out = loss(data)
    assert float(out["loss_objective"]) == pytest.approx(-(2 * 3 + 0.5 * 4) / 2)


def test_the_critic_is_left_alone_by_the_step_and_learns_by_its_own():
    actor, critic = gaussian(), ValueOperator(nn.Linear(3, 1), ["observation"])
    data = experience(actor)
    data["value_target"] = torch.randn(256, 1)
    loss = TRPOLoss(actor, critic)
    before = bits(critic)
    TrustRegion(loss, loss_fn=loss.actor_loss).step(data)
    assert same_bits(critic, before)
    out = loss(data)
    assert set(loss.out_keys) == set(out.keys()) - {"explained_variance"}
    torch.testing.assert_close(out["loss_critic"], loss.critic_loss(data)["loss_critic"])
    out["loss_critic"].backward()
    assert all(p.grad is None for p in actor.parameters())
    assert all(p.grad is not None for p in critic.parameters())


def test_losses_are_those_of_ppo():
    actor, critic = gaussian(), ValueOperator(nn.Linear(3, 1), ["observation"])
    data = experience(actor)
    data["value_target"] = torch.randn(256, 1)
    data["action_log_prob"] += 0.1 * torch.randn(256)
    ours = TRPOLoss(actor, critic, entropy_bonus=True, normalize_advantage=True)(data)
    theirs = PPOLoss(actor, critic, normalize_advantage=True)(data)
    for key in ours.keys():  # noqa: SIM118
        torch.testing.assert_close(ours[key], theirs[key])


def test_the_advantage_is_estimated_where_it_is_missing():
    actor, critic = gaussian(), ValueOperator(nn.Linear(3, 1), ["observation"])
    data = experience(actor, n=20).exclude("advantage")
    data["next"] = TensorDict(
        {
            "observation": torch.randn(20, 3),
            "reward": torch.randn(20, 1),
            "done": torch.zeros(20, 1, dtype=torch.bool),
            "terminated": torch.zeros(20, 1, dtype=torch.bool),
        },
        [20],
    )
    loss = TRPOLoss(actor, critic)
    loss.make_value_estimator(gamma=0.9, lmbda=0.9)
    estimated = loss.value_estimator(data.copy(), params=loss.critic_network_params.detach())
    torch.testing.assert_close(loss(data)["loss_objective"], loss(estimated)["loss_objective"])


def test_an_entropy_bonus_widens_the_policy():
    bandit = Bandit(1)
    actor = actor_of(bandit, IndependentNormal)
    data = act(actor, TensorDict({"observation": torch.zeros(64, 1)}, [64]))
    data["advantage"] = torch.zeros(64, 1)
    loss = TRPOLoss(actor, entropy_bonus=True, entropy_coeff=0.1)
    assert TrustRegion(loss).step(data)["accepted"]
    assert bandit.log_scale.item() > math.log(0.5)


def test_a_deterministic_actor_is_refused():
    actor = Actor(nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"stochastic policy.*ProbabilisticActor"):
        TRPOLoss(actor)


def test_a_critic_of_the_actors_parameters_is_refused():
    body = nn.Linear(3, 4)
    actor = actor_of(nn.Sequential(body, NormalParamExtractor()), IndependentNormal)
    critic = ValueOperator(nn.Sequential(body, nn.Linear(4, 1)), ["observation"])
    with pytest.raises(ValueError, match=r"shares 2 parameters with the actor.*of its own"):
        TRPOLoss(actor, critic)


def test_a_missing_advantage_is_named():
    actor = gaussian()
    with pytest.raises(KeyError, match=r"reads 'advantage'.*set_keys"):
        TRPOLoss(actor).actor_loss(experience(actor).exclude("advantage"))


@pytest.mark.parametrize("shape", [(256,), (256, 1, 1)])
def test_an_advantage_of_another_shape_is_refused_as_by_ppo(shape):
    """Its gradient would be that of the mean advantage."""
    actor = gaussian()
    data = experience(actor)
    data["advantage"] = data["advantage"].reshape(shape)
    with pytest.raises(ValueError, match="outer product"):
        TRPOLoss(actor).actor_loss(data)


def test_the_scale_of_advantages_moves_as_in_ppo():
    """It does where the loss computes the advantage, and not where the data have one."""
    scales = []
    for kind in (TRPOLoss, PPOLoss):
        torch.manual_seed(0)
        actor, critic = gaussian(), ValueOperator(nn.Linear(3, 1), ["observation"])
        data = experience(actor).exclude("advantage")
        data["next"] = {
            "observation": data["observation"].clone(),
            "reward": 50 * torch.randn(256, 1),
            "done": torch.zeros(256, 1, dtype=torch.bool),
            "terminated": torch.zeros(256, 1, dtype=torch.bool),
        }
        norm = RunningValueNorm(shape=1)
        loss = kind(actor, critic, advantage_norm=norm, critic_coeff=1.0)
        loss.make_value_estimator()
        out = loss(data.reshape(1, 256))
        scales.append((float(norm.scale()), float(out["loss_objective"])))
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)
    assert scales[0][0] > 1


def test_without_a_critic_a_missing_advantage_is_named():
    actor = gaussian()
    with pytest.raises(KeyError, match="TRPOLoss reads 'advantage'"):
        TRPOLoss(actor)(experience(actor).exclude("advantage"))


def test_an_advantage_of_several_values_is_refused():
    actor = gaussian()
    data = experience(actor)
    data["advantage"] = torch.zeros(256, 2)
    with pytest.raises(ValueError, match="its last dimension must be one"):
        TRPOLoss(actor)(data)
