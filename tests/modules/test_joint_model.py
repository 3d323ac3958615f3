"""Backtracking and forward model on one trunk."""

from __future__ import annotations

import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, LazyTensorStorage, ReplayBuffer, Unbounded

from torchrl_recall import (
    Agreement,
    BacktrackingLoss,
    BacktrackingModel,
    JointLoss,
    JointModel,
    Recall,
    RecallTraceGenerator,
    RewardStates,
)
from torchrl_recall.forward_updates import ForwardUpdates
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError

SPECS = Unbounded((2,)), Bounded(-1, 1, (2,))


def steps(num=400, seed=0):
    """s' = s + a / 2, which gives 3 s_0 and ends above one."""
    torch.manual_seed(seed)
    states, actions = torch.rand(num, 2) * 2 - 1, torch.rand(num, 2) * 2 - 1
    following = states + actions / 2
    return TensorDict({
        "observation": states, "action": actions,
        "next": {
            "observation": following, "reward": 3 * states[:, :1],
            "terminated": following[:, :1] > 1, "done": following[:, :1] > 1,
        },
    }, [num])  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    data = steps(2000)
    model = JointModel.from_specs(*SPECS, num_cells=[64, 64])
    model.update_statistics(data)
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)))
    buffer.extend(data)
    update = ModelUpdates(JointLoss(model), num_updates=600, lr=1e-3, learns_policy=False)
    return model, update(None, buffer)


def test_all_heads_learn(trained):
    model, metrics = trained
    assert set(metrics) == {
        f"backtracking/loss_{name}"
        for name in ("state_predictor", "forward_predictor", "reward", "termination")
    }
    data = steps(500, seed=1)
    found = model.predict_outcome(data.clone())["next"]
    error = (found["reward"] - data["next", "reward"]).square().mean() / 3
    assert error < 0.02  # of a variance of three
    assert (found["terminated"] == data["next", "terminated"]).float().mean() > 0.97
    deviations = model.deltas.scale()
    for log_prob in (model.forward_log_prob(data), model.state_predictor_log_prob(data)):
        normal = torch.distributions.Normal(0.0, deviations)
        marginal = normal.log_prob(data["observation"] - data["next", "observation"]).sum(-1)
        assert log_prob.mean() > marginal.mean() + 6  # nats better than knowing no state


def test_the_backward_half_is_a_backtracking_model(trained):
    model, _ = trained
    traces = RecallTraceGenerator(model, trace_length=3, num_traces=50)(
        TensorDict({"observation": torch.zeros(1, 2)}, [1])
    )
    arrived = traces["observation"] + traces["action"] / 2
    assert (arrived - traces["next", "observation"]).norm(dim=-1).median() < 0.15
    assert isinstance(model, BacktrackingModel)


def test_losses_by_hand_and_masked(trained):
    model, _ = trained
    data = steps(50, seed=4)
    none, loss = JointLoss(model, reduction="none")(data), JointLoss(model)
    backward = BacktrackingLoss(model)(data)
    for name, value in backward.items():
        torch.testing.assert_close(loss(data)[name], value)
    torch.testing.assert_close(none["loss_forward_predictor"], -model.forward_log_prob(data))
    reward, logit = model.predict(data)
    target = (data["next", "reward"] - model.rewards.mean) / model.rewards.scale()
    torch.testing.assert_close(none["loss_reward"], (reward - target).square().squeeze(-1))
    ended = data["next", "terminated"]
    assert 0 < ended.sum() < 50  # both signs are scored
    by_hand = -torch.where(ended, logit.sigmoid().log(), (-logit).sigmoid().log()).squeeze(-1)
    torch.testing.assert_close(none["loss_termination"], by_hand, rtol=1e-4, atol=1e-5)

    masked = data.clone().set("mask", torch.arange(50) < 20)
    masked["next", "reward"][20:] = torch.nan
    renamed = JointLoss(model)
    renamed.set_keys(observation="state")
    under_other_keys = masked.clone().rename_key_("observation", "state")
    under_other_keys.rename_key_(("next", "observation"), ("next", "state"))
    for each, rows in ((loss, masked), (renamed, under_other_keys)):
        each.zero_grad()
        found = each(rows)
        for name, value in found.items():
            torch.testing.assert_close(value, loss(data[:20])[name])
        sum(found.values()).backward()
        assert all(p.grad.isfinite().all() for p in each.parameters() if p.grad is not None)


def test_the_trunk_is_one_and_learns_from_every_head():
    model = JointModel.from_specs(*SPECS, num_cells=[16, 16])
    data = steps(50)
    model.update_statistics(data)
    loss = JointLoss(model)
    names = [name for name, _ in loss.named_parameters() if "trunk" in name]
    assert len(names) == 2
    for name in loss.out_keys:
        loss.zero_grad()
        loss(data)[name].backward()
        grads = [dict(loss.named_parameters())[trunk].grad for trunk in names]
        assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_agreement_asks_the_forward_head(trained):
    model, _ = trained
    agreement = Agreement(model)
    data = steps(60, seed=3)
    torch.testing.assert_close(agreement.error(data), -model.forward_log_prob(data))
    agreement.observe(steps(200, seed=4))
    far = data.clone()
    far["next", "observation"] += 1.0
    assert agreement(data.unsqueeze(1))["mask"].float().mean() > 0.8
    assert agreement(far.unsqueeze(1))["mask"].float().mean() < 0.1


def test_renamed_keys_and_categories():
    states = torch.arange(40) % 4
    data = TensorDict({
        "cell": states, "move": states % 2,
        "next": {
            "cell": (states + 1) % 4, "reward": torch.ones(40, 1),
            "terminated": torch.zeros(40, 1, dtype=torch.bool),
        },
    }, [40])  # fmt: skip
    model = JointModel.from_specs(
        Categorical(4), Categorical(2), observation_key="cell", action_key="move", num_cells=[8]
    )
    model.update_statistics(data)
    assert sorted(JointLoss(model)(data).keys()) == sorted(JointLoss(model).out_keys)
    assert model.forward_log_prob(data).exp().max() <= 1
    renamed = data.clone()
    renamed.rename_key_("cell", "observation").rename_key_(("next", "cell"), ("next", "observation"))  # noqa: E501  # fmt: skip
    loss = JointLoss(model)
    loss.set_keys(observation="observation")
    for name, value in loss(renamed).items():
        torch.testing.assert_close(value, JointLoss(model)(data)[name])


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="train that with BacktrackingLoss"):
        JointLoss(BacktrackingModel.from_specs(*SPECS))
    with pytest.raises(ValueError, match="num_models=3"):
        JointModel.from_specs(*SPECS, num_models=3)
    with pytest.raises(ValueError, match="num_cells is empty"):
        JointModel.from_specs(*SPECS, num_cells=[])
    model = JointModel.from_specs(*SPECS)
    with pytest.raises(RuntimeError, match="update_statistics"):
        model.predict(steps(3))
    data = steps(3)
    data["next", "reward"][0] = torch.nan
    with pytest.raises(ValueError, match="statistics were left"):
        model.update_statistics(data)
    assert not model.observations.count
    with pytest.raises(KeyError, match="reward"):
        model.update_statistics(data.exclude(("next", "reward")))
    model.update_statistics(steps(0))
    assert not model.rewards.count
    with pytest.raises(TypeError, match="JointLoss trains with all others"):
        ForwardUpdates(model)
    buffer = ReplayBuffer(storage=LazyTensorStorage(3))
    buffer.extend(steps(3).exclude(("next", "terminated")))
    update = ModelUpdates(JointLoss(model), num_updates=1, learns_policy=False)
    with pytest.raises(KeyError, match="take a BacktrackingModel"):
        update(None, buffer)
    end_states = RewardStates(4)
    with pytest.raises(ValueError, match="RenameTransform"):
        Recall(model, None, end_states, use="critic", reward_key="extrinsic")


def test_its_reward_is_what_a_critic_is_told(trained):
    model, _ = trained
    recall = Recall(model, None, RewardStates(4), use="critic", reward=model)
    assert recall.to_transitions.reward == model.predict_outcome


@pytest.mark.parametrize("recall", ["backtracking", "imitation"])
def test_runs_take_it_and_go_on_bitwise(recall, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = tiny(
        recall, env__name="Pendulum-v1", env__trace_length=5, collector__total_frames=480,
        backtracking__buffer_size=1_000, eval__interval=240, checkpoint__interval=240,
        backtracking__joint="true", recall__agreement=0.9,
    )  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    last = metrics(whole)[-1]
    assert "backtracking/loss_forward_predictor" in last
    assert not [name for name in last if name.startswith(("forward_model/", "reward_model/"))]
    stopped_copy(whole, again, 240)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


@pytest.mark.parametrize(
    "words", [["recall=forward_dyna", "recall.reward=learned"], ["backtracking.num_models=3"]]
)
def test_what_does_not_fit_is_refused(words):
    with pytest.raises(ConfigError, match=r"backtracking\.joint=true"):
        sac_recall.build(configure([*tiny("backtracking"), "backtracking.joint=true", *words]), torch.device("cpu"))  # noqa: E501  # fmt: skip
