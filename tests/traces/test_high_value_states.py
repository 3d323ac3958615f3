"""Sources of high-value states."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import SACLoss

from torchrl_recall import (
    CriticStates,
    GoalStates,
    HighValueStates,
    RewardStates,
    SACCritic,
    UniformStates,
)
from torchrl_recall.traces.high_value_states import best_indices

nan, inf = math.nan, math.inf


class First(nn.Module):
    """V(s) is the first coordinate."""

    def forward(self, observation):
        return observation[..., :1]


def critic(**kwargs) -> TensorDictModule:
    return ValueOperator(First(), in_keys=["observation"], **kwargs)


def states(*values: float) -> TensorDict:
    observation = torch.tensor(values).unsqueeze(-1).repeat(1, 2)
    observation[:, 1] = torch.arange(len(values))
    return TensorDict({"observation": observation}, [len(values)])


def firsts(chosen: TensorDict) -> list[float]:
    return chosen["observation"][:, 0].tolist()


def test_it_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        HighValueStates(3)


def test_argmax_by_hand():
    assert firsts(CriticStates(critic(), 2)(states(1.0, 4.0, -2.0, 3.0))) == [4.0, 3.0]


@pytest.mark.parametrize("temperature", [None, 0.01, 1.0, 1e6])
def test_nan_never_wins(temperature):
    choose = CriticStates(critic(), 2, temperature=temperature)
    for _ in range(20):
        assert sorted(firsts(choose(states(nan, 1.0, nan, 2.0)))) == [1.0, 2.0]


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_infinity_never_wins(temperature):
    choose = CriticStates(critic(), 1, temperature=temperature)
    assert firsts(choose(states(inf, 1.0, -inf))) == [1.0]


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_only_nan_is_refused(temperature):
    with pytest.raises(ValueError, match="none of the 2 values is finite"):
        CriticStates(critic(), 1, temperature=temperature)(states(nan, nan))


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_equal_values_and_more_than_available(k, temperature):
    chosen = CriticStates(critic(), k, temperature=temperature)(states(2.0, 2.0, 2.0))
    assert len(chosen) == min(k, 3)
    assert len(chosen["observation"][:, 1].unique()) == min(k, 3)  # without replacement


def test_high_temperature_is_nearly_uniform():
    choose = CriticStates(critic(), 1, temperature=1e4)
    data = states(0.0, 1.0, 2.0, 3.0)
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[int(choose(data)["observation"][0, 1])] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.06  # six standard deviations


def test_low_temperature_is_nearly_the_argmax():
    choose = CriticStates(critic(), 2, temperature=1e-3)
    for _ in range(50):
        assert firsts(choose(states(1.0, 4.0, -2.0, 3.0))) == [4.0, 3.0]


def test_boltzmann_probabilities():
    choose = CriticStates(critic(), 1, temperature=2.0)
    data = states(0.0, 2 * math.log(3.0))  # odds of 1 to 3
    best = sum(choose(data)["observation"][0, 1].item() for _ in range(2000)) / 2000
    assert best == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("temperature", [0.0, -1.0, nan])
def test_bad_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        CriticStates(critic(), 1, temperature=temperature)


@pytest.mark.parametrize("num", [0, -1, 1.5, None])
def test_bad_number_is_refused(num):
    with pytest.raises(ValueError, match="num_states"):
        CriticStates(critic(), num)
    with pytest.raises(ValueError, match="num_states"):
        RewardStates(num)


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 4, 1)])
def test_any_batch_shape(shape):
    data = states(1.0, 4.0, -2.0, 3.0).reshape(shape)
    chosen = CriticStates(critic(), 2)(data)
    assert chosen.shape == (2,)
    assert firsts(chosen) == [4.0, 3.0]


def test_values_without_a_trailing_dimension():
    flat = TensorDictModule(lambda x: x[..., 0], ["observation"], ["state_value"])
    assert firsts(CriticStates(flat, 1)(states(1.0, 4.0, 3.0))) == [4.0]


def test_renamed_keys():
    module = ValueOperator(First(), in_keys=[("agent", "state")], out_keys=["worth"])
    data = TensorDict({"agent": {"state": states(1.0, 4.0, 3.0)["observation"]}}, [3])
    choose = CriticStates(module, 1, value_key="worth", observation_key=("agent", "state"))
    chosen = choose(data)
    assert set(chosen.keys(True, True)) == {("agent", "state")}
    assert chosen["agent", "state"][0, 0] == 4.0


def full(rewards: list[float]) -> TensorDict:
    n = len(rewards)
    data = states(*[0.0] * n).set("action", torch.zeros(n, 1))
    data["next"] = TensorDict(
        {
            "observation": torch.arange(10.0, 10.0 + n).unsqueeze(-1),
            "reward": torch.tensor(rewards).unsqueeze(-1),
            "done": torch.ones(n, 1, dtype=torch.bool),
            "terminated": torch.ones(n, 1, dtype=torch.bool),
        },
        [n],
    )
    data["done"] = torch.zeros(n, 1, dtype=torch.bool)
    return data


@pytest.mark.parametrize(
    ("choose", "known"),
    [
        (CriticStates(critic(), 2), set()),
        (RewardStates(2), {"reward", "terminated"}),
        (GoalStates(torch.zeros(2, 2)), set()),
    ],
)
def test_end_states_carry_what_is_known_of_reaching_them(choose, known):
    data = full([1.0, 2.0, 3.0])
    before = data.clone()
    assert set(choose(data).keys(True, True)) == {"observation"} | known
    assert (data == before).all()
    assert set(data.keys(True, True)) == set(before.keys(True, True))


def test_makes_no_gradient():
    net = ValueOperator(MLP(in_features=2, out_features=1, num_cells=[4]), in_keys=["observation"])
    data = states(1.0, 2.0)
    data["observation"].requires_grad_()
    assert not CriticStates(net, 1)(data)["observation"].requires_grad


def test_critic_of_a_sac_loss(make_actor):
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    value = SACCritic(SACLoss(make_actor(), qvalue))
    data = TensorDict({"observation": torch.randn(32, 3), "action": torch.rand(32, 2)}, [32])
    chosen = CriticStates(value, 3)(data)
    order = value(data.clone())["state_value"].flatten().argsort(descending=True)[:3]
    assert torch.equal(chosen["observation"], data["observation"][order])


# rewards


def test_rewards_choose_the_state_that_was_entered():
    chosen = RewardStates(2)(full([1.0, 3.0, 2.0]))
    assert chosen["observation"].flatten().tolist() == [11.0, 12.0]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, 3), (0.5, 2), (0.0, 2), (-1.0, 3), (2.0, 0), (1.9, 1)]
)
def test_only_rewards_above_the_threshold_count(threshold, expected):
    chosen = RewardStates(3, threshold=threshold)(full([0.0, 1.0, 2.0]))
    assert chosen.shape == (expected,)


def test_nan_is_not_the_highest_reward():
    assert RewardStates(1)(full([nan, 1.0]))["observation"].item() == 11.0
    assert RewardStates(2, threshold=0.0)(full([nan, 1.0]))["observation"].tolist() == [[11.0]]


def test_only_nan_rewards_are_refused():
    with pytest.raises(ValueError, match="none of the 2 rewards is finite"):
        RewardStates(1)(full([nan, nan]))


def test_rewards_of_batched_trajectories():
    data = full([0.0, 5.0, 1.0, 2.0]).reshape(2, 2)
    assert RewardStates(2)(data)["observation"].flatten().tolist() == [11.0, 13.0]


def test_renamed_reward():
    data = full([1.0, 3.0])
    data["next", "agent", "gain"] = data["next", "reward"]
    chosen = RewardStates(1, reward_key=("agent", "gain"))(data.exclude(("next", "reward")))
    assert chosen["observation"].item() == 11.0


# goals


def test_every_goal_once():
    goals = torch.randn(4, 3)
    assert torch.equal(GoalStates(goals)()["observation"], goals)
    assert torch.equal(GoalStates(goals)(full([1.0]))["observation"], goals)


def test_goals_are_drawn_uniformly():
    goals = torch.arange(4.0).unsqueeze(-1)
    drawn = GoalStates(goals, 4000)()["observation"].flatten()
    assert drawn.shape == (4000,)
    counts = torch.bincount(drawn.long(), minlength=4) / 4000
    assert (counts - 0.25).abs().max() < 0.05


def test_goals_are_saved_and_move(device):
    choose = GoalStates(torch.randn(2, 3), observation_key=("agent", "state")).to(device)
    assert torch.equal(choose.state_dict()["goals"], choose.goals)
    assert choose()["agent", "state"].device.type == device.type


@pytest.mark.parametrize("goals", [torch.zeros(0, 3), torch.tensor(1.0), torch.tensor([[nan]])])
def test_bad_goals_are_refused(goals):
    with pytest.raises(ValueError, match="goals must be finite"):
        GoalStates(goals)


def test_changing_end_states_does_not_move_the_goals():
    choose = GoalStates(torch.ones(2, 3))
    choose()["observation"].zero_()
    assert (choose()["observation"] == 1).all()


# best_indices


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 4, 50])
def test_best_indices_against_sorting(n, k):
    scores = torch.randn(n)
    assert best_indices(scores, k).tolist() == scores.argsort(descending=True)[:k].tolist()


@pytest.mark.parametrize("scores", [[1e30, -1e30, 0.0], [-1e4, -2e4, -3e4]])
def test_extreme_scores_can_be_drawn(scores):
    drawn = best_indices(torch.tensor(scores), 3, temperature=0.1)
    assert sorted(drawn.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("missing", "make"),
    [
        ("observation", lambda critic: CriticStates(critic, 2)),
        ("value", lambda critic: CriticStates(critic, 2, value_key="value")),
        (("next", "observation"), lambda critic: RewardStates(2)),
        (("next", "reward"), lambda critic: RewardStates(2)),
    ],
)
def test_a_missing_entry_is_named(missing, make):
    critic = ValueOperator(torch.nn.Linear(3, 1), ["observation"])
    data = TensorDict(
        {
            "observation": torch.zeros(4, 3),
            "next": {"observation": torch.zeros(4, 3), "reward": torch.zeros(4, 1)},
        },
        [4],
    )
    data = data.exclude(missing) if missing != "value" else data
    with pytest.raises(
        KeyError,
        match=rf"States reads .*{missing[-1] if isinstance(missing, tuple) else missing}.*_key=",
    ):
        make(critic)(data)
    with pytest.raises(ValueError, match="there is none; collect some first"):
        make(critic)(data[:0])


def test_a_critic_of_other_entries_is_named():
    critic = TensorDictModule(nn.Linear(3, 1), ["pixels"], ["state_value"])
    states = CriticStates(critic, 2, observation_key="latent")
    with pytest.raises(KeyError, match=r"reads .*pixels.*, but end states hold .*latent"):
        states(TensorDict({"latent": torch.zeros(4, 3)}, [4]))


@pytest.mark.parametrize(
    "source", [CriticStates(critic(), 2), RewardStates(2), UniformStates(9)], ids=repr
)
def test_padding_is_never_chosen(source):
    data = TensorDict({
        "observation": torch.tensor([[[-1.0], [-2.0], [0.0]]]),
        "collector": {"mask": torch.tensor([[True, True, False]])},
        "next": {
            "observation": torch.tensor([[[-1.0], [-2.0], [0.0]]]),
            "reward": torch.tensor([[[-1.0], [-2.0], [0.0]]]),
        },
    }, [1, 3])  # fmt: skip
    assert set(firsts(source(data))) <= {-1.0, -2.0}


def test_a_critic_of_several_values_is_refused():
    two = TensorDictModule(lambda s: torch.cat([s, -s], -1), ["observation"], ["state_value"])
    with pytest.raises(ValueError, match=r"shape \(3, 4\) for 3 states; one value for each"):
        CriticStates(two, 2)(states(9.0, 1.0, 3.0))


def test_ranks_count_padding_too():
    data = states(9.0, 1.0, 3.0, 2.0)
    data["collector", "mask"] = torch.tensor([False, True, True, True])
    source = CriticStates(critic(), 2)
    assert source.rank(data).tolist() == [2, 3]
    assert firsts(source(data)) == [3.0, 2.0]
    data["collector", "mask"] = torch.zeros(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="among experience, but there is none"):
        source(data)
