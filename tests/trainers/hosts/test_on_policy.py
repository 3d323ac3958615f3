"""TRPO and PPO: their networks, advantages and updates."""

from __future__ import annotations

import math

import pytest
import torch
from goal_fixtures import parts as goal_parts
from on_policy_fixtures import SCHEMAS, experience, parts
from tensordict import TensorDict
from torch import nn
from torchrl.objectives.value import GAE

from torchrl_recall.optim.natural_gradient import kl_divergence
from torchrl_recall.trainers.hosts.on_policy import PPO, TRPO, minibatches


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def test_how_far_a_policy_moved_by_hand():
    """Two Gaussians of unit variance, one of them moved by m: the divergence is m² / 2."""
    built = parts()
    host, data = built.host, experience(built)
    before = host.policy_on(data)
    assert float(host.moved(before, data)) == 0
    last = [m for m in host.actor.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias += torch.tensor([0.3, 0.0, 0.4])
    assert float(host.moved(before, data)) == pytest.approx(0.5 * 0.5**2, rel=1e-4)
    assert host.policy_on(data).mean.shape == (64, 3)


def test_log_probabilities_by_hand():
    """A new policy has unit variance: log p = -½ |a - μ|² - 3/2 log 2π."""
    built = parts()
    data = experience(built)
    mean = built.host.policy_on(data).mean
    found = built.host.with_advantages(data)["action_log_prob"].reshape(-1)
    distance = (data["action"] - mean).square().sum(-1)
    torch.testing.assert_close(found, -0.5 * distance - 1.5 * math.log(2 * math.pi))


def test_policy_and_critic_see_the_goal():
    host = goal_parts().host
    data = TensorDict({"observation": torch.zeros(2, 2), "desired_goal": torch.eye(2)}, [2])
    assert host.in_keys == ["observation", "desired_goal"]
    for module, key in ((host.actor, "loc"), (host.critic, "state_value")):
        one, two = module(data.clone())[key]
        assert not torch.equal(one, two)


def test_the_kind_of_host_follows_the_configuration():
    assert isinstance(parts("trpo").host, TRPO)
    assert isinstance(parts("ppo").host, PPO)


def test_policy_and_critic_begin_as_they_are_usually_begun():
    built = parts(policy__num_cells="[64,64]")
    host = built.host
    data = host.policy_on(experience(built))
    assert (data.stddev == 1).all()
    assert data.mean.abs().max() < 0.2
    layers = [m for m in host.critic.modules() if isinstance(m, nn.Linear)]
    assert [layer.out_features for layer in layers] == [64, 64, 1]
    gram = layers[1].weight @ layers[1].weight.T
    torch.testing.assert_close(gram, 2 * torch.eye(64), atol=1e-4, rtol=0)
    assert [type(m) for m in host.critic.modules() if isinstance(m, nn.Tanh)] == [nn.Tanh] * 2


def test_advantages_are_those_of_torchrl_with_its_own_calls():
    built = parts()
    host = built.host
    data = experience(built)
    ours = host.with_advantages(data)
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=host.critic)
    bare = data.select("observation", "action")
    bare["next"] = data["next"].select("observation", "reward", "done", "terminated")
    theirs = gae(bare)
    torch.testing.assert_close(ours["advantage"], theirs["advantage"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours["value_target"], theirs["value_target"], atol=1e-4, rtol=1e-4)
    expected = host.actor.get_dist(data.copy()).log_prob(data["action"])
    torch.testing.assert_close(ours["action_log_prob"], expected)
    assert not ours["advantage"].requires_grad


def test_advantages_of_parallel_rows_are_those_of_each_row():
    built = parts()
    host = built.host
    rows = torch.stack([experience(built, 20), experience(built, 20).flip(0)])
    ours = host.with_advantages(rows)["advantage"].reshape(2, 20, 1)
    for i in range(2):
        alone = host.with_advantages(rows[i])["advantage"]
        torch.testing.assert_close(ours[i], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", SCHEMAS)
def test_an_update_moves_policy_and_critic(host):
    built = parts(host)
    algorithm = built.host
    data = experience(built, 256)
    before, policy = algorithm.loss_module.state_dict(), algorithm.policy_on(data)
    before = {key: value.clone() for key, value in before.items()}
    algorithm.update(data)
    moved = kl_divergence(policy, algorithm.policy_on(data)).mean()
    assert 0 < float(moved) < 0.1
    changed = [k for k, v in algorithm.loss_module.state_dict().items() if not v.equal(before[k])]
    assert {key.split("_")[0] for key in changed} >= {"actor", "critic"}


def test_the_critic_learns_its_target():
    built = parts(trpo__num_epochs=300, optim__lr=0.01, policy__num_cells="[64,64]")
    host = built.host
    data = experience(built, 64)
    target = host.with_advantages(data)["value_target"]
    host.update(data)
    value = host.critic(data.select("observation"))["state_value"]
    assert float((value - target).detach().square().mean()) < 0.3 * float(target.var())


def test_minibatches_hold_every_row_once_in_each_epoch():
    data = TensorDict({"x": torch.arange(12)}, [12])
    batches = [batch["x"].tolist() for batch in minibatches(data, 3, 4)]
    assert [len(batch) for batch in batches] == [4] * 9
    epochs = [[x for batch in batches[i : i + 3] for x in batch] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
