"""Transitions that a forward model imagines, as the control of traces for the critic."""

from __future__ import annotations

import copy

import pytest
import torch
from experience import episodes, make_replay_buffer, new_model, same, weights
from recipe_fixtures import configure, tiny
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall import BacktrackingModel, ForwardDyna, RewardModel
from torchrl_recall.controls import ForwardDyna as Exported
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError

CPU = torch.device("cpu")
RULE = "torchrl_recall.envs.sparse_tasks:goal_rule"


def walk(num=400, seed=0):
    """A point that moves by its action in the first dimension; 1 and the end above 0.5."""
    torch.manual_seed(seed)
    data = make_replay_buffer(episodes(1.0, 2.0))[:][:1].expand(num).clone()
    state = torch.rand(num, 3) * 2 - 1
    action = torch.rand(num, 2) * 2 - 1
    following = state.clone()
    following[:, 0] += 0.3 * action[:, 0]
    reached = following[:, :1] > 0.5
    data["observation"], data["action"] = state, action
    data["next", "observation"], data["next", "reward"] = following, reached.float()
    data["next", "terminated"] = data["next", "done"] = reached
    return data


def rule(transitions):
    reached = transitions["next", "observation"][:, :1] > 0.5
    transitions.set(("next", "reward"), reached.float())
    return transitions.set(("next", "terminated"), reached)


def make(reward=rule, **options):
    settings = {"interval": 100, "num_states": 64, "num_model_updates": 5, "model_batch_size": 32}
    return ForwardDyna(new_model(), reward, **settings | options)


def buffer_of(data):
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)), batch_size=8)
    buffer.extend(data)
    return buffer


def test_it_is_public():
    assert Exported is ForwardDyna


def test_it_learns_where_an_action_leads_and_what_that_gives():
    data = walk(2000)
    specs = Unbounded((3,)), Bounded(-1, 1, (2,))
    dyna = make(RewardModel(*specs), num_model_updates=250, model_lr=5e-3, num_states=500)
    dyna.extend(data)
    dyna.step(buffer_of(data))
    rows = dyna.transitions(2000)
    moved = (rows["next", "observation"] - rows["observation"])[:, 0]
    assert torch.corrcoef(torch.stack([moved, rows["action"][:, 0]]))[0, 1] > 0.9
    assert (moved - 0.3 * rows["action"][:, 0]).abs().mean() < 0.08
    reached = rows["next", "observation"][:, 0] > 0.5
    assert (rows["next", "terminated"][:, 0] == reached).float().mean() > 0.95
    assert (rows["next", "reward"][:, 0] - reached.float()).abs().mean() < 0.1


def test_rows_are_transitions_from_real_states():
    data = walk()
    dyna = make()
    dyna.extend(data)
    assert dyna.transitions(4) is None
    dyna.step(buffer_of(data))
    rows = dyna.transitions(1000)
    assert rows.shape == (1000,)
    assert all((data["observation"] == row).all(1).any() for row in rows["observation"][:50])
    assert torch.equal(rows["next", "reward"], (rows["next", "observation"][:, :1] > 0.5).float())
    assert torch.equal(rows["next", "done"], rows["next", "terminated"])
    assert (rows["steps_to_next_obs"] == 1).all()
    assert rows["next", "terminated"].any()


def test_rollouts_go_on_from_where_they_are_and_stop_at_an_end():
    data = walk()
    dyna = make(trace_length=3)
    dyna.extend(data)
    imagined = dyna.imagine(data[:50])
    assert 50 < len(imagined) < 150  # those that ended have no further steps
    ends = imagined["next", "observation"][:50][~imagined["next", "terminated"][:50, 0]]
    assert torch.equal(imagined["observation"][50 : 50 + len(ends)], ends)
    assert not (imagined["observation"][50:, 0] > 0.5).any()


def test_a_rollout_may_end_at_once():
    dyna = make(lambda rows: rule(rows).set(("next", "terminated"), torch.ones(len(rows), 1) > 0))
    dyna.trace_length = 4
    dyna.extend(walk())
    assert len(dyna.imagine(walk()[:20])) == 20


def test_actions_are_those_of_the_policy_or_uniform(make_actor):
    actor = make_actor()
    data = walk()
    for policy, count in ((actor, 0), (None, 1)):
        dyna = make(policy=policy, num_states=300)
        dyna.extend(data)
        torch.manual_seed(0)
        found = dyna.imagine(data)["action"]
        torch.manual_seed(0)
        with set_exploration_type(ExplorationType.RANDOM):
            expected = actor(data.select("observation"))["action"]
        assert torch.equal(found, expected) is (count == 0)
    assert found.abs().mean() == pytest.approx(0.5, abs=0.05)


def test_the_same_steps_go_into_the_state_predictor_as_recalls():
    dyna, data = make(), walk()
    dyna.extend(data)
    policy = weights(dyna.model.backward_policy)
    before = weights(dyna.model.state_predictor)
    metrics = dyna.step(buffer_of(data))
    assert set(metrics) == {"forward_model/loss_state_predictor", "recall/ready"}
    assert not same(weights(dyna.model.state_predictor), before)
    assert same(weights(dyna.model.backward_policy), policy)


def test_rows_that_are_not_finite_are_left_out():
    data = walk()
    dyna = make()
    dyna.extend(data)
    starts = data[:10].clone()
    starts["observation"][3] = torch.nan
    assert len(dyna.imagine(starts)) == 9


def test_state_goes_on_bitwise():
    data, specs = walk(), (Unbounded((3,)), Bounded(-1, 1, (2,)))
    first, second = (make(RewardModel(*specs)) for _ in range(2))
    buffer = buffer_of(data)
    first.extend(data)
    first.step(buffer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    found = []
    for dyna in (first, second):
        torch.manual_seed(3)
        found.append([dyna.transitions(5)])
        dyna.extend(data)
        dyna.step(buffer)
        found[-1].append(dyna.transitions(50))
    assert all((a == b).all() for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_states", 0), ("trace_length", 0), ("interval", 0), ("num_model_updates", -1),
     ("model_batch_size", 0), ("model_lr", 0.0)],
)  # fmt: skip
def test_bad_numbers_are_named(name, value):
    with pytest.raises(ValueError, match=name.removeprefix("model_")):
        make(**{name: value})


def test_uniform_actions_need_bounds():
    model = BacktrackingModel.from_specs(Unbounded((3,)), Unbounded((2,)))
    with pytest.raises(ValueError, match="bounds"):
        ForwardDyna(model, rule)


# In the recipe


def test_settings_reach_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = tiny("forward_dyna", recall__state_batch_size=99, recall__trace_length=2)
    parts = sac_recall.build(configure([*words, "backtracking.lr=0.012"]), CPU)
    dyna = parts.recall
    assert type(dyna) is ForwardDyna
    assert dyna.policy is parts.host.explorer
    assert (dyna.num_states, dyna.trace_length, dyna.schedule.interval) == (99, 2, 10)
    assert dyna.train_model.steps.optimizer.param_groups[0]["lr"] == 0.012
    assert dyna.train_reward is not None
    words += ["env.name=point_free4", f"recall.reward={RULE}", "recall.actions=uniform"]
    dyna = sac_recall.build(configure(words), CPU).recall
    assert dyna.train_reward is None
    assert dyna.policy is None


def not_a_rule(env):
    return 3


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["recall.reward=sparse"], "does not have; take learned"),
        (["recall.reward=spars"], "sparse, learned, or module:function"),
        (["recall.actions=backward_policy"], "take policy or uniform"),
        (["recall.reward=nowhere:rule"], "recall.reward='nowhere:rule' cannot be imported"),
        ([f"recall.reward={__name__}:not_a_rule"], "returned a int; return a function"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_cure(words, cure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=cure):
        sac_recall.build(configure([*tiny("forward_dyna"), *words]), CPU)


def test_recall_does_not_take_actions_of_the_policy():
    with pytest.raises(ConfigError, match="take backward_policy or uniform"):
        configure([*tiny("backtracking"), "recall.actions=policy"])


def test_recall_takes_a_rule_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*tiny("backtracking"), "env.name=point_free4", f"recall.reward={RULE}"]
    recall = sac_recall.build(configure(words), CPU).recall
    assert recall.to_transitions.reward is not None
    assert recall.train_reward is None
