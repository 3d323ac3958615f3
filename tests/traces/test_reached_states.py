"""Sources of next states of transitions, which carry their reward."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.modules import ValueOperator

from torchrl_recall import CriticStates, ReturnStates, RewardStates, UniformStates

nan, inf = math.nan, math.inf


def transitions(values: list[float], rewards: list[float], ends: list[bool]) -> TensorDict:
    """V(s') is the state itself."""
    n = len(values)
    return TensorDict(
        {
            "observation": torch.full((n, 1), -9.0),
            "next": {
                "observation": torch.tensor(values).unsqueeze(-1),
                "reward": torch.tensor(rewards).unsqueeze(-1),
                "terminated": torch.tensor(ends).unsqueeze(-1),
                "done": torch.tensor(ends).unsqueeze(-1),
            },
        },
        [n],
    )


def critic() -> ValueOperator:
    return ValueOperator(nn.Identity(), in_keys=["observation"])


DATA = transitions([2.0, 50.0, 0.0, 1.0], [0.0, 1.0, 0.5, 0.0], [False, True, False, False])


def test_worth_by_hand():
    # w = 0 + 0.9 * 2, 1 (terminal: its value does not count), 0.5 + 0, 0 + 0.9
    chosen = ReturnStates(critic(), 4, gamma=0.9, temperature=None)(DATA)
    assert chosen["observation"].flatten().tolist() == [2.0, 50.0, 1.0, 0.0]
    assert chosen["reward"].flatten().tolist() == [0.0, 1.0, 0.0, 0.5]
    assert chosen["terminated"].flatten().tolist() == [False, True, False, False]
    assert chosen["reward"].shape == chosen["terminated"].shape == (4, 1)


def test_probabilities_by_hand():
    choose = ReturnStates(critic(), 200_000, gamma=0.9, temperature=0.5)
    drawn = choose(DATA)["observation"].flatten()
    worth = torch.tensor([1.8, 1.0, 0.5, 0.9])
    expected = ((worth - 1.8) / (0.5 * 1.3)).softmax(0)
    found = torch.stack([(drawn == v).float().mean() for v in (2.0, 50.0, 0.0, 1.0)])
    assert (found - expected).abs().max() < 0.005


def test_the_temperature_has_no_unit():
    big = DATA.clone()
    big["next", "reward"] *= 1_000
    big["next", "observation"] *= 1_000
    torch.manual_seed(3)
    one = ReturnStates(critic(), 500, temperature=0.2)(DATA)["observation"]
    torch.manual_seed(3)
    other = ReturnStates(critic(), 500, temperature=0.2)(big)["observation"]
    assert torch.equal(1_000 * one, other)


@pytest.mark.parametrize("temperature", [None, 0.1, 100.0])
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_is_never_chosen(temperature, bad):
    data = transitions([bad, 1.0, 2.0], [0.0, 0.0, 0.0], [False, False, False])
    chosen = ReturnStates(critic(), 30, temperature=temperature)(data)["observation"]
    assert chosen.isfinite().all()


def test_a_bad_value_of_a_terminal_state_does_not_matter():
    data = transitions([nan, 1.0], [5.0, 0.0], [True, False])
    chosen = ReturnStates(critic(), 1, temperature=None)(data)
    assert chosen["reward"].item() == 5.0


def test_equal_worths_are_drawn_alike():
    data = transitions([1.0] * 4, [0.0] * 4, [False] * 4)
    data["next", "observation"] = torch.ones(4, 1)
    assert ReturnStates(critic(), 7)(data).shape == (7,)


def test_no_finite_worth_is_named():
    data = transitions([nan], [0.0], [False])
    with pytest.raises(ValueError, match="none of the 1 values is finite"):
        ReturnStates(critic(), 3)(data)


def test_states_of_value_leave_out_terminal_ones():
    chosen = CriticStates(critic(), 1)(DATA)
    assert chosen["observation"].item() == -9.0  # where actions were taken, whatever came of them


def test_missing_flags_are_named_where_they_matter():
    data = DATA.exclude(("next", "terminated"), ("next", "done"))
    with pytest.raises(KeyError, match="terminated_key="):
        ReturnStates(critic(), 1)(data)
    assert set(UniformStates(2)(data).keys()) == {"observation", "reward"}


def test_done_stands_for_terminated():
    data = DATA.exclude(("next", "terminated"))
    assert RewardStates(1)(data)["terminated"].item()


def test_other_keys():
    data = DATA.clone()
    data["next", "state"] = data["next"].pop("observation")
    data["next", "gain"] = data["next"].pop("reward")
    data["next", "over"] = data["next"].pop("terminated")
    keys = {"observation_key": "state", "reward_key": "gain", "terminated_key": "over"}
    value = ValueOperator(nn.Identity(), in_keys=["state"])
    chosen = ReturnStates(value, 1, temperature=None, gamma=0.9, **keys)(data)
    assert chosen["state"].item() == 2.0
    assert set(chosen.keys()) == {"state", "reward", "terminated"}


def test_successes_are_drawn_with_replacement():
    data = transitions([1.0, 2.0, 3.0], [0.0, 1.0, 7.0], [False, True, True])
    chosen = RewardStates(4_000, threshold=0.0, replacement=True)(data)
    share = (chosen["reward"] == 1.0).float().mean()
    assert 0.47 < share < 0.53  # each success as likely, whatever it gave
    assert not (chosen["reward"] == 0.0).any()


def test_no_success_gives_no_state():
    data = transitions([1.0], [0.0], [False])
    assert not len(RewardStates(4, threshold=0.0, replacement=True)(data))


def test_uniform_states_are_uniform():
    drawn = UniformStates(40_000)(DATA)["observation"].flatten()
    for value in (2.0, 50.0, 0.0, 1.0):
        assert 0.24 < (drawn == value).float().mean() < 0.26


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ReturnStates(critic(), 0), "num_states"),
        (lambda: ReturnStates(critic(), 1, gamma=1.5), "gamma"),
        (lambda: ReturnStates(critic(), 1, temperature=0.0), "temperature"),
        (lambda: RewardStates(1, replacement=True), "threshold"),
        (lambda: UniformStates(-1), "num_states"),
    ],
)
def test_bad_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    "choose", [ReturnStates(critic(), 1), UniformStates(1), RewardStates(1)], ids=type
)
def test_no_experience_is_named(choose):
    with pytest.raises(ValueError, match="collect some first"):
        choose(DATA[:0])


def test_makes_no_gradient_and_changes_nothing():
    net = ValueOperator(nn.Linear(1, 1), in_keys=["observation"])
    before = DATA.clone()
    assert not ReturnStates(net, 2)(DATA)["observation"].requires_grad
    assert (before == DATA).all()


def test_rewards_of_several_columns_are_refused():
    data = DATA.clone()
    data["next", "reward"] = torch.rand(4, 2)
    with pytest.raises(ValueError, match="2 rewards for each step"):
        UniformStates(4)(data)
