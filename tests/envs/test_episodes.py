"""Step count, reward and flags of episodes."""

from __future__ import annotations

import pytest
import torch
from torchrl.envs import SerialEnv

from torchrl_recall.envs import FourRoomsEnv, PointMassEnv
from torchrl_recall.envs.episodes import done_spec, episode_begins, episode_continues


@pytest.mark.parametrize(
    ("before", "reached", "after"),
    [
        (0, False, (0.0, False, False, False)),  # goes on
        (3, True, (1.0, True, False, True)),  # the goal
        (4, False, (0.0, False, True, True)),  # the fifth step is the last
        (4, True, (1.0, True, False, True)),  # the goal on the last step terminates only
        (9, False, (0.0, False, True, True)),  # a count beyond the limit, which a caller may set
    ],
)
def test_one_step_by_hand(before, reached, after):
    out = episode_continues(torch.tensor([before]), torch.tensor([[reached]]), max_steps=5)
    assert out["elapsed_steps"].tolist() == [before + 1]
    flags = tuple(out[key].item() for key in ("reward", "terminated", "truncated", "done"))
    assert flags == after


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_shapes_are_those_of_the_batch(shape):
    batch = torch.Size(shape)
    first = episode_begins(batch)
    reached = torch.zeros(*shape, 1, dtype=torch.bool)
    following = episode_continues(first["elapsed_steps"], reached, max_steps=5)
    for out in (first, following):
        assert out["elapsed_steps"].shape == batch
        assert out["elapsed_steps"].dtype == torch.int64
        for key in ("done", "terminated", "truncated"):
            assert out[key].shape == (*shape, 1)
            assert not out[key].any()
            assert done_spec(batch)[key].is_in(out[key])


def test_flags_share_no_memory():
    first = episode_begins(torch.Size([2]))
    first["done"].fill_(True)
    assert not first["terminated"].any()
    assert not first["truncated"].any()


@pytest.mark.parametrize("make", [lambda: FourRoomsEnv(11), lambda: PointMassEnv(2)])
def test_copies_of_an_environment_get_different_seeds_from_one(make):
    copies = SerialEnv(4, make)
    copies.set_seed(0)
    found = copies.reset()
    drawn = found.get("desired_goal", found["observation"]).tolist()
    assert len({str(each) for each in drawn}) > 1


def test_a_seeded_environment_draws_nothing_from_torchs_generator():
    env = FourRoomsEnv(11)
    env.set_seed(3)
    torch.manual_seed(0)
    start = env.reset()["observation"]
    expected = torch.Generator().manual_seed(0).get_state()
    assert torch.equal(torch.get_rng_state(), expected)
    env.set_seed(3)
    assert env.reset()["observation"] == start
