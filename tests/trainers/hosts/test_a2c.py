"""Actor-critic of many seeds: what it begins with, its step and its tables."""

from __future__ import annotations

import copy

import pytest
import torch
from four_rooms_fixtures import experience, parts, tiny


def test_nothing_but_entropy_acts_before_the_first_reward():
    _, built = parts("recall=none", "env.size=15", "env.start=opposite")
    data = experience(built, 16)
    assert not data["next", "reward"].any()
    built.host.update(data)
    assert torch.equal(built.host.policy_table(), torch.full((1, 225, 4), 0.25))
    assert not built.host.value_table().any()


def test_every_cell_is_asked_for_each_seed():
    _, built = parts("recall=none", "env.size=5", "seeds=[0,1]")
    cells = built.host.every_cell()["observation"]
    assert cells.tolist() == [list(range(25))] * 2
    assert built.host.policy_table().shape == (2, 25, 4)


def test_a_weight_of_zero_leaves_a_seed_as_it_is():
    _, built = parts("recall=none", "env.size=5", "seeds=[0,1]")
    a2c = built.host
    data = experience(built, 100)
    a2c.evaluate(data)
    data = a2c.gae(data).flatten(1)
    assert data["next", "reward"].any(1).all()
    before = a2c.policy_table()
    weight = torch.tensor([[1.0], [0.0]]).expand(data.shape)
    a2c.step(data, weight)
    after = a2c.policy_table()
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_one_step_is_that_of_adam_on_the_clipped_gradient():
    """Adam's first step is lr for every weight whose gradient is not (almost) zero."""
    _, built = parts("recall=none", "env.size=5", "optim.lr=0.01")
    data = experience(built, 100)
    before = [p.detach().clone() for p in built.host.parameters]
    built.host.update(data)
    after = [p.detach() for p in built.host.parameters]
    moved = [float((a - b).abs().max()) for a, b in zip(after, before, strict=True)]
    assert max(moved) == pytest.approx(0.01, rel=1e-3)
    assert max(moved) <= 0.01 * (1 + 1e-5)


def test_state_goes_on_bitwise():
    _, built = parts(*tiny("none"))
    _, other = parts(*tiny("none", seeds="[5,6]"))
    built.host.update(built.collector.collect())
    other.host.load_state_dict(copy.deepcopy(built.host.state_dict()))
    other.collector.load_state_dict(built.collector.state_dict(), built.collector.frames)
    for each in (built, other):
        each.host.update(each.collector.collect())
    assert torch.equal(built.host.policy_table(), other.host.policy_table())
    assert torch.equal(built.host.value_table(), other.host.value_table())
