"""Traces as transitions, against real ones."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, Unbounded

from torchrl_recall import RecallTraceGenerator, TraceTransitions
from torchrl_recall.envs import PointMassEnv
from torchrl_recall.traces.newest import FreshTransitions
from torchrl_recall.traces.transitions import join_rows


def traces(num: int = 2, length: int = 3) -> TensorDict:
    path = torch.arange(float(num * (length + 1))).reshape(num, length + 1, 1)
    return TensorDict(
        {
            "observation": path[:, :-1],
            "action": torch.ones(num, length, 2),
            "next": {"observation": path[:, 1:]},
        },
        [num, length],
    )


def ends(rewards: list[float], terminated: list[bool]) -> TensorDict:
    return TensorDict(
        {
            "observation": torch.zeros(len(rewards), 1),
            "reward": torch.tensor(rewards).unsqueeze(-1),
            "terminated": torch.tensor(terminated).unsqueeze(-1),
        },
        [len(rewards)],
    )


@pytest.mark.filterwarnings("ignore:end states gave")
def test_by_hand():
    rows = TraceTransitions()(traces(), ends([1.0, 0.5], [True, False]))
    assert rows.shape == (6,)
    assert rows["observation"].flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert rows["next", "observation"].flatten().tolist() == [1, 2, 3, 5, 6, 7]
    assert rows["next", "reward"].flatten().tolist() == [0, 0, 1, 0, 0, 0.5]
    assert rows["next", "terminated"].flatten().tolist() == [0, 0, 1, 0, 0, 0]
    assert torch.equal(rows["next", "done"], rows["next", "terminated"])
    assert rows["steps_to_next_obs"].tolist() == [1] * 6
    assert rows["next", "reward"].shape == (6, 1)


@pytest.mark.filterwarnings("ignore:end states gave")
def test_several_traces_to_each_end_state():
    rows = TraceTransitions()(traces(4), ends([1.0, 2.0], [True, True])).reshape(4, 3)
    assert rows["next", "reward"][:, -1].flatten().tolist() == [1, 1, 2, 2]


def test_masked_steps_are_dropped():
    masked = traces().set("mask", torch.tensor([[False, True, True], [False, False, True]]))
    rows = TraceTransitions()(masked, ends([1.0, 2.0], [True, True]))
    assert rows["observation"].flatten().tolist() == [1, 2, 6]
    assert rows["next", "reward"].flatten().tolist() == [0, 1, 2]


def test_a_rule_fills_in_all_but_the_last_step():
    rule = TensorDictModule(
        lambda state: (10 * state, state < 0),
        in_keys=[("next", "observation")],
        out_keys=[("next", "reward"), ("next", "terminated")],
    )
    rows = TraceTransitions(reward=rule)(traces(), ends([1.0, 2.0], [True, False]))
    assert rows["next", "reward"].flatten().tolist() == [10, 20, 1, 50, 60, 2]
    assert rows["next", "done"].flatten().tolist() == [0, 0, 1, 0, 0, 0]


def test_a_rule_that_writes_no_reward_is_refused():
    rule = TensorDictModule(lambda s: 10 * s, [("next", "observation")], ["reward"])
    with pytest.raises(KeyError, match="The module that reward= gives must write it"):
        TraceTransitions(reward=rule)(traces(), ends([1.0, 2.0], [True, False]))


def test_a_rule_may_write_in_place():
    def rule(transitions: TensorDict) -> None:
        transitions["next", "reward"] = 10 * transitions["next", "observation"]

    rows = TraceTransitions(reward=rule)(traces(), ends([1.0, 2.0], [True, False]))
    assert rows["next", "reward"].flatten().tolist() == [10, 20, 1, 50, 60, 2]


@pytest.mark.parametrize("ruled", [False, True])
def test_a_reward_of_another_name_has_its_real_value_at_the_end(ruled):
    zero = TensorDictModule(torch.zeros_like, [("next", "observation")], [("next", "r")])
    convert = TraceTransitions(reward=zero if ruled else None, reward_key="r")
    rows = convert(traces(), ends([1.0, 2.0], [True, True]))
    assert rows["next", "r"].flatten().tolist() == [0, 0, 1, 0, 0, 2]
    assert ("next", "reward") not in rows.keys(True)
    real = rows.clone().set(("next", "r"), torch.ones(6, 1, dtype=torch.int64))
    assert join_rows(real, rows, [("next", "r")])["next", "r"].sum() == 9


def test_steps_before_a_state_that_ends_the_episode_are_left_out():
    rule = TensorDictModule(
        lambda state: (10 * state, state == 6),
        in_keys=[("next", "observation")],
        out_keys=[("next", "reward"), ("next", "terminated")],
    )
    rows = TraceTransitions(reward=rule)(traces(), ends([1.0, 2.0], [True, False]))
    assert rows["observation"].flatten().tolist() == [0, 1, 2, 6]


def test_a_rule_of_another_kind_changes_nothing_else():
    """A view of the states, and booleans as rewards."""
    for rule in (lambda s: s[..., :1], lambda s: s > 3, lambda s: s.new_zeros(1).expand(2, 3, 1)):
        given = traces()
        before = given.clone()
        module = TensorDictModule(
            rule, in_keys=[("next", "observation")], out_keys=[("next", "reward")]
        )
        rows = TraceTransitions(reward=module)(given, ends([100.0, -0.5], [True, False]))
        assert (given == before).all()
        assert rows["next", "observation"].flatten().tolist() == [1, 2, 3, 5, 6, 7]
        assert rows["next", "reward"].reshape(2, 3)[:, -1].tolist() == [100.0, -0.5]


def test_fractions_of_a_rule_survive_where_the_task_gives_integers():
    rule = TensorDictModule(
        lambda state: -0.5 * torch.ones_like(state), ["observation"], [("next", "reward")]
    )
    given = ends([1.0, 2.0], [True, True])
    given["reward"] = given["reward"].long()
    rows = TraceTransitions(reward=rule)(traces(), given)
    expected = [-0.5, -0.5, 1, -0.5, -0.5, 2]
    assert rows["next", "reward"].flatten().tolist() == expected
    real = rows.clone()
    real["next", "reward"] = torch.ones(6, 1, dtype=torch.int64)
    joined = join_rows(real, rows, [("next", "reward"), ("next", "done")])["next"]
    assert joined["reward"].flatten().tolist() == [1] * 6 + expected
    assert joined["done"].dtype is torch.bool


def test_rewards_that_are_not_of_a_goal_are_said_once():
    to_transitions = TraceTransitions()
    to_transitions(traces(), ends([1.0, 0.0], [True, False]))
    with pytest.warns(UserWarning, match="recall.reward=learned"):
        to_transitions(traces(), ends([1.0, 0.5], [True, False]))
    to_transitions(traces(), ends([1.0, 0.5], [True, False]))  # once


def test_rows_that_are_not_finite_are_left_out():
    diverged = traces().clone()
    diverged["observation"][0, 0] = torch.inf
    diverged["next", "observation"][1, 1] = torch.nan
    rows = TraceTransitions()(diverged, ends([1.0, 2.0], [True, True]))
    assert rows["observation"].flatten().tolist() == [1, 2, 4, 6]


class ReversePointMass(nn.Module):
    """The exact reverse dynamics of a point mass, with uniform actions."""

    observation_key, action_key, next_observation_key = (
        "observation", "action", ("next", "observation")
    )  # fmt: skip

    def __init__(self, env: PointMassEnv) -> None:
        super().__init__()
        self.env = env
        self.observation_spec = self.action_spec = Bounded(-1, 1, (env.dim,))

    def sample_action(self, next_observation):
        return 2 * torch.rand_like(next_observation) - 1

    def sample_observation(self, action, next_observation):
        # An action that led here is drawn again where the drawn one could not have.
        return self.env.reverse_step(next_observation, action)[0]


@pytest.mark.parametrize("actions", ["backward_policy", "uniform"])
def test_the_task_itself_agrees_with_exact_traces(actions):
    """Step the task from each row's state by its action: all that the row says comes true."""
    env = PointMassEnv(3, step_size=0.1, goal_radius=0.3, batch_size=[])
    goal = torch.tensor([0.5, 0.0, -0.2])
    model = ReversePointMass(env)
    entered = goal + 0.25 * nn.functional.normalize(torch.randn(64, 3), dim=-1)
    reached = TensorDict(
        {
            "observation": entered,
            "reward": torch.ones(64, 1),
            "terminated": torch.ones(64, 1, dtype=torch.bool),
        },
        [64],
    )
    generate = RecallTraceGenerator(model, trace_length=8, actions=actions)
    rows = TraceTransitions()(generate(reached), reached)
    task = PointMassEnv(3, step_size=0.1, goal_radius=0.3, batch_size=rows.shape)
    task.assign_goals(goal.expand(*rows.shape, 3))
    begun = task.reset().set("observation", rows["observation"]).set("action", rows["action"])
    real = task.step(begun)["next"]
    led = (real["observation"] - rows["next", "observation"]).abs().amax(-1) < 1e-5
    assert led.float().mean() > 0.95  # the rest were blocked at the walls of the box
    # A trace may pass through the goal, where a real episode would have ended: the rows before
    # its last say nothing of that, which is what reward= is for.
    last = torch.arange(len(rows)) % 8 == 7
    assert real["reward"][led & last].eq(1).all()
    outside = ~task.reached(rows["next", "observation"], goal.expand(*rows.shape, 3)).squeeze(-1)
    assert real["reward"][led & ~last & outside].eq(0).all()
    assert rows["next", "reward"][~last].eq(0).all()


@pytest.mark.parametrize("missing", ["reward", "terminated"])
def test_end_states_that_know_nothing_are_refused(missing):
    with pytest.raises(KeyError, match="ReturnStates, RewardStates or UniformStates"):
        TraceTransitions()(traces(), ends([1.0, 1.0], [True, True]).exclude(missing))


@pytest.mark.parametrize("num", [3, 4])
def test_other_numbers_of_end_states_are_refused(num):
    with pytest.raises(ValueError, match="do not belong"):
        TraceTransitions()(traces(), ends([1.0] * num, [True] * num))


def test_uniform_actions_fill_their_bounds(make_model):
    spec = Bounded(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 6.0]))
    model = make_model(action=spec)
    generate = RecallTraceGenerator(model, trace_length=30, actions="uniform")
    action = generate(TensorDict({"observation": torch.randn(200, 3)}, [200]))["action"]
    low, high = action.flatten(0, 1).aminmax(dim=0)
    assert torch.allclose(low, torch.tensor([-1.0, 2.0]), atol=0.02)
    assert torch.allclose(high, torch.tensor([1.0, 6.0]), atol=0.02)
    assert (action.mean((0, 1)) - torch.tensor([0.0, 4.0])).abs().max() < 0.1


def test_uniform_actions_of_both_ways_of_generating_agree(make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=4, actions="uniform")
    end_states = TensorDict({"observation": torch.randn(5, 3)}, [5])
    torch.manual_seed(1)
    fast = generate(end_states)
    torch.manual_seed(1)
    slow = generate.rollout(end_states).select(*fast.keys(True, True))
    for key in fast.keys(True, True):
        assert torch.equal(fast[key], slow[key])


def test_fresh_transitions_are_of_the_newest_round_and_saved():
    fresh, other = FreshTransitions(), FreshTransitions()
    assert fresh.state_dict() == {"rows": None, "share": 1.0, "due": 0.0}
    fresh.replace(TensorDict({"action": torch.zeros(3, 1)}, [3]))
    fresh.replace(TensorDict({"action": torch.ones(4, 1)}, [4]))
    fresh.replace(TensorDict({"action": torch.ones(0, 1)}, [0]))  # a round without a finite value
    other.load_state_dict(fresh.state_dict())
    for each in (fresh, other):
        drawn = each.sample(64)
        assert drawn is not None
        assert drawn["action"].eq(1).all()
        assert drawn.shape == (64,)


def test_transitions_are_drawn_as_often_as_they_were_kept():
    fresh, other = FreshTransitions(), FreshTransitions()
    fresh.replace(TensorDict({"action": torch.ones(4, 1)}, [4]), share=0.25)
    assert [fresh.sample(2) is not None for _ in range(5)] == [False, False, False, True, False]
    other.load_state_dict(fresh.state_dict())
    for each in (fresh, other):
        assert [each.sample(2) is not None for _ in range(5)] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "spec",
    [Unbounded((2,)), Binary(3), Categorical(4, shape=(1,)), MultiCategorical([2, 3])],
    ids=type,
)
def test_actions_that_cannot_be_drawn_uniformly_are_named(spec, make_model):
    model = make_model()
    model.action_spec = spec
    with pytest.raises(ValueError, match="uniform actions need bounds"):
        RecallTraceGenerator(model, actions="uniform")


def test_rewards_and_masks_with_or_without_a_last_dimension_of_one():
    def rule(keepdim: bool) -> TensorDictModule:
        return TensorDictModule(
            lambda s: s.norm(dim=-1, keepdim=keepdim),
            [("next", "observation")],
            [("next", "reward")],
        )

    end_states = ends([1.0, 1.0], [True, True])
    same = [
        TraceTransitions(reward=rule(keepdim))(traces(), end_states) for keepdim in (True, False)
    ]
    assert (same[0] == same[1]).all()
    mask = torch.tensor([[True, False, True], [True, True, True]])
    for shaped in (mask, mask.unsqueeze(-1)):
        assert len(TraceTransitions()(traces().set("mask", shaped), end_states)) == 5
