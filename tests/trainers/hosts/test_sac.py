"""Soft actor-critic: its policy, settings, updates and state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from recipe_fixtures import configure, tiny
from tensordict import TensorDict
from torch import nn

from torchrl_recall.trainers.hosts.actors import GaussianParameters
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.replay_buffers import make_replay_buffer
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(name="Hopper-v5", *overrides):
    env = make_env(name)
    config = configure([*tiny(), *overrides])
    return env, config, SAC(env, config, CPU)


def transitions(env, n=32):
    torch.manual_seed(1)
    return env.rollout(n, break_when_any_done=False)


def test_standard_deviation_is_clamped_by_hand():
    loc, scale = GaussianParameters()(torch.tensor([1.0, 2.0, 3.0, -30.0, 0.0, 5.0]))
    assert loc.tolist() == [1.0, 2.0, 3.0]
    expected = [math.exp(-20), 1.0, math.exp(2)]
    assert scale.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["Hopper-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5"])
def test_actions_stay_within_the_bounds_of_the_task(name):
    env, _, sac = build(name)
    space = env.action_spec.space
    data = TensorDict({"observation": 100 * torch.randn(500, *env.observation_spec["observation"].shape)}, [500])  # noqa: E501  # fmt: skip
    action = sac.actor(data)["action"]
    assert (action >= space.low).all()
    assert (action <= space.high).all()
    assert action.abs().max() > 0.9 * space.high.max()


def test_networks_have_the_sizes_asked_for():
    _, _, sac = build("Hopper-v5", "sac.num_cells=[7,5]")
    widths = [m.out_features for m in sac.actor.modules() if isinstance(m, nn.Linear)]
    assert widths == [7, 5, 6]
    assert [type(m) for m in sac.actor.modules() if isinstance(m, nn.ReLU)] == [nn.ReLU] * 2


def test_settings_reach_the_loss():
    _, _, sac = build(
        "Hopper-v5", "sac.gamma=0.9", "sac.alpha_init=0.5", "optim.lr=0.01",
        "sac.target_update_tau=0.25",
    )  # fmt: skip
    assert float(sac.loss_module.value_estimator.gamma) == pytest.approx(0.9)
    assert float(sac.loss_module.log_alpha.detach().exp()) == pytest.approx(0.5)
    assert float(sac.loss_module.target_entropy) == -3
    assert sac.optimizer.param_groups[0]["lr"] == 0.01


def test_every_trainable_parameter_is_optimised_once():
    _, _, sac = build()
    ours = [id(p) for group in sac.optimizer.param_groups for p in group["params"]]
    wanted = {id(p) for p in sac.loss_module.parameters() if p.requires_grad}
    assert len(ours) == len(set(ours))
    assert set(ours) == wanted
    assert any(p is sac.loss_module.log_alpha for g in sac.optimizer.param_groups for p in g["params"])  # noqa: E501  # fmt: skip


def test_an_update_moves_everything_and_targets_by_tau():
    env, _, sac = build("Hopper-v5", "sac.target_update_tau=0.25")
    loss = sac.loss_module
    target = {k: v.clone() for k, v in loss.target_qvalue_network_params.items(True, True)}
    before = [p.detach().clone() for p in loss.parameters() if p.requires_grad]
    losses = sac.update(transitions(env))
    after = [p.detach() for p in loss.parameters() if p.requires_grad]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(moved)
    for key, value in loss.target_qvalue_network_params.items(True, True):
        source = loss.qvalue_network_params.get(key).detach()
        expected = 0.25 * source + 0.75 * target[key]
        assert torch.allclose(value, expected, atol=1e-6)
    for key in ("loss_actor", "loss_qvalue", "loss_alpha"):
        assert losses[key].isfinite()
        assert not losses[key].requires_grad


def test_state_goes_on_bitwise():
    env, config, sac = build()
    data = transitions(env)
    sac.update(data.clone())
    torch.manual_seed(9)
    other = SAC(env, config, CPU)
    other.load_state_dict(copy.deepcopy(sac.state_dict()))  # optimisers keep what they are given
    for host in (sac, other):
        torch.manual_seed(2)
        for _ in range(3):
            host.update(data.clone())
    pairs = zip(sac.loss_module.parameters(), other.loss_module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# Prioritised replay


def prioritized(*words):
    config = configure([*tiny("none"), "replay_buffer.prioritized=true", *words])
    return make_replay_buffer(config.replay_buffer, CPU)


@pytest.mark.parametrize("compile", [False, True])
def test_priorities_are_temporal_difference_errors_by_hand(compile):
    """The larger |Q(s, a) - y| of the two critics; with a discount of almost zero, y = r."""
    words = "sac.gamma=1e-6", "recall=none", f"compile={str(compile).lower()}"
    env, _, sac = build("Hopper-v5", *words)
    buffer = prioritized("replay_buffer.batch_size=8", "replay_buffer.alpha=1")
    buffer.extend(transitions(env))
    batch, loss, errors = buffer.sample(), sac.loss_module, []
    for i in range(2):
        with loss.qvalue_network_params[i].to_module(loss.qvalue_network):
            q = loss.qvalue_network(batch.select("observation", "action"))["state_action_value"]
        errors.append((q - batch["next", "reward"]).abs().squeeze(-1).detach())
    losses = sac.update(batch)
    assert "td_error" not in losses
    torch.testing.assert_close(batch["td_error"], torch.maximum(*errors), rtol=1e-3, atol=1e-3)
    buffer.update_tensordict_priority(batch)
    found = torch.as_tensor(buffer.sampler._sum_tree[batch["index"]])
    torch.testing.assert_close(found, batch["td_error"], rtol=1e-4, atol=1e-4)


def test_rare_rows_weigh_more():
    """Importance weights reach the loss: two rows weighed 1 and 0 are the first row's alone."""
    env, _, sac = build()
    data, losses = transitions(env, 2), []
    for weight, reduction in (([2.0, 0.0], "mean"), (None, "none")):
        rows = data.clone()
        if weight is not None:
            rows["priority_weight"] = torch.tensor(weight)
        torch.manual_seed(0)
        sac.loss_module.reduction = reduction
        losses.append(sac.loss_module.qvalue_v2_loss(rows)[0])
    torch.testing.assert_close(losses[0], losses[1][0])


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["host=td3"], "is of host=sac"),
        (["recall=backtracking"], "recall=none, imitation or self_imitation"),
        (["recall=forward_dyna"], "recall=none, imitation or self_imitation"),
    ],
)
def test_priorities_are_refused_where_nobody_would_keep_them(words, cure):
    with pytest.raises(ConfigError, match=cure):
        configure([*tiny("none"), "replay_buffer.prioritized=true", *words])
