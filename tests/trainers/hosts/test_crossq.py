"""CrossQ: batch renormalisation, and which statistics move when."""

from __future__ import annotations

import pytest
import torch
from recipe_fixtures import configure, tiny
from tensordict import TensorDict
from torchrl.modules import BatchRenorm1d

from torchrl_recall import ImitationLoss, StateValues
from torchrl_recall.trainers.hosts.crossq import CrossQ, _BatchRenorm
from torchrl_recall.trainers.tasks.gym import make_env

SMALL = ["crossq.num_cells=[8,8]", "crossq.critic_num_cells=[16,16]", "crossq.policy_delay=1"]


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    env = make_env("Hopper-v5", seed=0)
    return CrossQ(env, configure([*tiny(), *SMALL]), torch.device("cpu"))


def transitions(n=32):
    torch.manual_seed(1)
    return make_env("Hopper-v5", seed=0).rollout(n, break_when_any_done=False)


def statistics(host, name) -> dict:
    params = getattr(host.loss_module, f"{name}_network_params")
    return {
        key: value.clone()
        for key, value in params.items(True, True)
        if key[-1] in ("running_mean", "running_var", "num_batches_tracked")
    }


def batches(num, scale=1.0):
    torch.manual_seed(2)
    return [3 * scale + scale * torch.randn(16, 4) for _ in range(num)]


@pytest.mark.parametrize("warmup", [3, 100])
def test_it_equals_torchrls_until_twice_the_warm_up(warmup):
    ours, theirs = (kind(4, warmup_steps=warmup) for kind in (_BatchRenorm, BatchRenorm1d))
    for batch in batches(6):
        torch.testing.assert_close(ours(batch), theirs(batch))
        ours.eval(), theirs.eval()
        torch.testing.assert_close(ours(batch), theirs(batch))
        ours.train(), theirs.train()


def test_corrections_stay_whole_after_the_warm_up():
    """By hand; TorchRL's count twice from here on."""
    module = _BatchRenorm(4, warmup_steps=2, momentum=0.5)
    for batch in batches(5):
        mean, std = module.running_mean.clone(), (module.running_var + module.eps).sqrt()
        own_mean, own_std = batch.mean(0), (batch.var(0, correction=0) + module.eps).sqrt()
        r = (own_std / std).clamp(1 / 3, 3)
        d = ((own_mean - mean) / std).clamp(-5, 5)
        out = module(batch)
    torch.testing.assert_close(out, (batch - own_mean) / own_std * r + d)


def test_no_gradient_goes_through_the_corrections():
    module, batch = _BatchRenorm(4, warmup_steps=1), batches(1)[0]
    module(batch)  # warm from here on
    mean, std = module.running_mean.clone(), (module.running_var + module.eps).sqrt()
    own_std = (batch.var(0, correction=0) + module.eps).sqrt()
    r = (own_std / std).clamp(1 / 3, 3)
    given = batch.clone().requires_grad_()
    weight = torch.randn(16, 4)
    (module(given) * weight).sum().backward()
    plain = batch.clone().requires_grad_()
    centred = plain - plain.mean(0)
    normal = centred / (plain.var(0, correction=0) + module.eps).sqrt()
    (normal * r * weight).sum().backward()
    torch.testing.assert_close(given.grad, plain.grad)
    assert not torch.equal(mean, module.running_mean)


@pytest.mark.parametrize("shape", [(4,), (16, 4), (2, 8, 4)])
def test_any_batch_shape_by_running_statistics(shape):
    module = _BatchRenorm(4)
    for batch in batches(3):
        module(batch)
    module.eval()
    x = torch.randn(shape)
    expected = (x - module.running_mean) / (module.running_var + module.eps).sqrt()
    torch.testing.assert_close(module(x), expected)


def test_each_step_moves_its_own_statistics(host):
    data, seen = transitions(), []
    for step in (host.step_critics, host.step_policy):
        before = {name: statistics(host, name) for name in ("actor", "qvalue")}
        step(data.clone())
        seen.append(
            {
                name: not all(
                    torch.equal(value, before[name][key])
                    for key, value in statistics(host, name).items()
                )
                for name in ("actor", "qvalue")
            }
        )
    assert seen == [{"actor": False, "qvalue": True}, {"actor": True, "qvalue": False}]


def test_statistics_of_a_step_are_those_of_both_states_and_their_actions(host):
    data = transitions()
    host.step_critics(data.clone())
    found = statistics(host, "qvalue")[("module", "0", "running_mean")]
    states = torch.cat([data["observation"], data["next", "observation"]])
    expected = 0.01 * states.mean(0)
    torch.testing.assert_close(found[:, : len(expected)], expected.expand(2, -1))


def test_acting_valuing_and_imitating_move_no_statistic(host):
    host.update(transitions())
    before = {name: statistics(host, name) for name in ("actor", "qvalue")}
    data = transitions().select("observation", "action")
    host.explorer(data.clone())
    StateValues(host.loss_module)(data.clone())
    ImitationLoss(host.policy)(data.clone())["loss_imitation"].backward()
    for name, values in before.items():
        for key, value in statistics(host, name).items():
            assert torch.equal(value, values[key]), (name, key)


def test_the_explorer_acts_by_the_statistics_that_the_loss_moved(host):
    host.update(transitions())
    states = torch.randn(64, 11)
    whole = host.actor(TensorDict({"observation": states}, [64]))["loc"]
    alone = torch.stack(
        [host.actor(TensorDict({"observation": state}, []))["loc"] for state in states]
    )
    torch.testing.assert_close(whole, alone)
    moved = statistics(host, "actor")
    assert all((count == 1).all() for key, count in moved.items() if key[-1].startswith("num"))
