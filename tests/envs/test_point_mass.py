"""The point mass: moves checked by hand, and exact reverse dynamics."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from torchrl_recall.envs import PointMassEnv


@pytest.mark.parametrize(("dim", "maze"), [(1, "free"), (2, "free"), (6, "free"), (2, "u")])
def test_specs(dim, maze):
    check_env_specs(PointMassEnv(dim, maze=maze, batch_size=[4]))


def test_a_move_by_hand():
    env = PointMassEnv(2, step_size=0.1)
    moved = env.move(torch.tensor([0.5, 0.95]), torch.tensor([-1.0, 1.0]))
    assert torch.allclose(moved, torch.tensor([0.4, 0.95]))  # the second axis is blocked


def test_the_wall_blocks_one_axis_and_lets_the_other_slide():
    env = PointMassEnv(2, maze="u", step_size=0.1)
    moved = env.move(torch.tensor([0.0, -0.4]), torch.tensor([0.5, 1.0]))
    assert torch.allclose(moved, torch.tensor([0.05, -0.4]))


def test_no_walk_enters_the_wall_or_leaves_the_box():
    env = PointMassEnv(2, maze="u", batch_size=[64])
    rollout = env.rollout(300, break_when_any_done=False)
    assert env.is_valid(rollout["observation"]).all()
    assert env.is_valid(rollout["next", "observation"]).all()


def test_the_farthest_goal_can_be_reached_and_takes_long():
    env = PointMassEnv(2, maze="u", batch_size=[1])
    env.set_goals(torch.tensor([[-2 / 3, 2 / 3]]))

    def around(td):
        x, y = td["observation"][0]
        below = y < 0.5
        right = x < 0.5
        action = (1.0, 0.0) if below and right else (0.0, 1.0) if below else (-1.0, 0.0)
        return td.set("action", torch.tensor([action]))

    rollout = env.rollout(100, around)
    assert rollout["next", "terminated"][0, -1].item()
    assert rollout.shape[1] > 25


@pytest.mark.parametrize(("dim", "maze"), [(1, "free"), (3, "free"), (6, "free"), (2, "u")])
def test_a_reversed_step_leads_forward_to_where_it_came_from(dim, maze):
    env = PointMassEnv(dim, maze=maze)
    following, action = env.sample_goals(4_096), 2 * torch.rand(4_096, dim) - 1
    state, led = env.reverse_step(following, action)
    assert led.float().mean() > 0.75
    task = PointMassEnv(dim, maze=maze, batch_size=[int(led.sum())])
    begun = task.reset(TensorDict({"observation": state[led]}, task.batch_size), set_state=True)
    after = task.step(begun.set("action", action[led]))["next", "observation"]
    assert torch.allclose(after, following[led], atol=1e-5)


def test_a_reversed_step_by_hand():
    env = PointMassEnv(2, step_size=0.1)
    state, led = env.reverse_step(torch.tensor([[0.5, -0.5]]), torch.tensor([[1.0, -0.5]]))
    assert torch.allclose(state, torch.tensor([[0.4, -0.45]]))
    assert led.tolist() == [True]
    _, led = env.reverse_step(torch.tensor([[-0.98, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert led.tolist() == [False]  # it would have come from outside of the box


@pytest.mark.parametrize(("dim", "maze"), [(2, "free"), (2, "u")])
def test_every_real_step_can_be_reversed(dim, maze):
    env = PointMassEnv(dim, maze=maze, batch_size=[256])
    rollout = env.rollout(50, break_when_any_done=False).reshape(-1)
    _, led = env.reverse_step(rollout["next", "observation"], rollout["action"])
    assert led.float().mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 0}, "dim must be"),
        ({"dim": 3, "maze": "u"}, "2 in the U-maze"),
        ({"maze": "v"}, "'free' or 'u'"),
        ({"step_size": 0.7}, "step_size"),
        ({"goal_radius": 0.0}, "goal_radius"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        PointMassEnv(**arguments)
