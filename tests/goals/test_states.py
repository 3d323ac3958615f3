"""States that reach goals of a Goal GAN."""

from __future__ import annotations

import pytest
import torch
from torchrl.data import Bounded

from torchrl_recall import GoalGAN, GoalGANCurriculum, GoalGANStates
from torchrl_recall.envs import PointMassEnv


def curriculum(dim: int = 2, **kwargs) -> GoalGANCurriculum:
    return GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (dim,))), **kwargs)


def test_end_states_are_decoded_goals():
    goal_gan = curriculum()
    states = GoalGANStates(
        goal_gan, 8, goal_decoder=lambda goals: torch.cat([goals, torch.zeros(len(goals), 3)], 1)
    )
    end_states = states()
    assert end_states["observation"].shape == (8, 5)
    assert list(end_states.keys()) == ["observation"]


def test_goals_inside_walls_are_no_end_states():
    env = PointMassEnv(2, maze="u")
    goal_gan = curriculum()
    goal_gan._fall_back = True  # uniform goals, some of them in the wall
    end_states = GoalGANStates(goal_gan, 500, is_valid=env.is_valid)()
    assert 300 < len(end_states) < 500
    assert env.is_valid(end_states["observation"]).all()


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (lambda goals: goals[:3], "must turn 8 goals"),
        (lambda goals: goals.flatten(), "into 8 state vectors"),
        (lambda goals: goals * torch.nan, "NaN or infinity"),
        (lambda goals: goals + 5, "none of 1,000 goals has a valid state"),
    ],
)
def test_bad_decoders(decoder, words):
    env = PointMassEnv(2)
    states = GoalGANStates(curriculum(), 8, goal_decoder=decoder, is_valid=env.is_valid)
    with pytest.raises(ValueError, match=words):
        states()


def test_validity_of_another_shape_is_refused():
    goal_gan = curriculum(1)
    with pytest.raises(ValueError, match=r"is_valid must return 8 booleans, .* got shape \(8, 1\)"):
        GoalGANStates(goal_gan, 8, is_valid=lambda states: states > -2)()


def test_no_valid_goal_is_refused_without_a_decoder_too():
    nowhere = lambda states: torch.zeros(len(states), dtype=torch.bool)  # noqa: E731
    with pytest.raises(ValueError, match="none of 1,000 goals has a valid state"):
        GoalGANStates(curriculum(), 8, is_valid=nowhere)()
