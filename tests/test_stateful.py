"""State of an object that is made of parts."""

from __future__ import annotations

import pytest
import torch

from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Stateful


class Pair(Stateful):
    def __init__(self) -> None:
        self.schedule = Schedule(10)
        self.layer = torch.nn.Linear(1, 1)

    def stateful_parts(self):
        return {"schedule": self.schedule, "layer": self.layer}


class Nested(Stateful):
    def __init__(self) -> None:
        self.pair = Pair()

    def stateful_parts(self):
        return {"pair": self.pair}


def test_a_state_holds_that_of_each_part_by_name():
    pair = Pair()
    pair.schedule.advance(7)
    state = pair.state_dict()
    assert list(state) == ["schedule", "layer"]
    assert state["schedule"] == {"frames": 7, "last_round": 0}
    assert torch.equal(state["layer"]["weight"], pair.layer.weight)


def test_each_part_gets_its_state_back_through_any_depth():
    nested, other = Nested(), Nested()
    nested.pair.schedule.advance(7)
    other.load_state_dict(nested.state_dict())
    assert other.pair.schedule.frames == 7
    assert torch.equal(other.pair.layer.weight, nested.pair.layer.weight)


def test_a_state_without_a_part_is_refused():
    state = Pair().state_dict()
    del state["layer"]
    with pytest.raises(KeyError, match="layer"):
        Pair().load_state_dict(state)


def test_a_subclass_must_name_its_parts():
    class Nameless(Stateful):
        pass

    with pytest.raises(TypeError, match="stateful_parts"):
        Nameless()
