"""Checks: what they refuse, and their words."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_recall.checks import at_least, next_key, positive, require, unraveled


def test_integers_that_are_large_enough_pass():
    at_least(0, num_old=0)
    at_least(1, num_new=1, num_old=7)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_other_counts_are_named(value):
    with pytest.raises(ValueError, match=f"^b must be an integer of at least 1, got {value!r}.$"):
        at_least(1, a=1, b=value)


def test_positive_numbers_pass():
    positive(lr=1e-300, radius=1, max_kl=float("inf"))


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), -float("inf")])
def test_other_numbers_are_named(value):
    with pytest.raises(ValueError, match=f"^lr must be positive, got {value}.$"):
        positive(radius=1.0, lr=value)


def test_an_entry_is_returned_as_it_is():
    value = torch.zeros(2)
    data = TensorDict({"agent": {"action": value}}, [2])
    assert require(data, ("agent", "action"), "Loss", "Rename it.") is value


def test_a_missing_entry_is_named_with_its_reader_the_others_and_the_cure():
    data = TensorDict({"b": torch.zeros(2), "a": {"c": torch.zeros(2)}}, [2])
    with pytest.raises(KeyError) as error:
        require(data, ("next", "reward"), "Loss", "Rename it.")
    assert error.value.args == (
        "Loss reads ('next', 'reward'), which is not among [\"('a', 'c')\", 'b']. Rename it.",
    )


def test_keys_are_flat():
    assert unraveled("a") == unraveled(("a",)) == "a"
    assert unraveled(("a", ("b", "c"))) == ("a", "b", "c")
    assert next_key("a") == ("next", "a")
    assert next_key((("a", "b"), "c")) == ("next", "a", "b", "c")
