"""Mazes of Gymnasium-Robotics in a batch: the same physics, goals and starts that are set."""

from __future__ import annotations

import gymnasium
import gymnasium_robotics
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from torchrl_recall.envs import GoalMazeEnv

POINT, ANT = "PointMaze_UMaze-v3", "AntMaze_UMaze-v5"


@pytest.mark.parametrize("name", [POINT, ANT])
def test_specs(name):
    check_env_specs(GoalMazeEnv(name, batch_size=[3]))


@pytest.mark.parametrize(("name", "state_dim"), [(POINT, 4), (ANT, 29)])
def test_steps_are_those_of_the_task(name, state_dim):
    gymnasium.register_envs(gymnasium_robotics)
    task = gymnasium.make(name).unwrapped
    env = GoalMazeEnv(name, batch_size=[2])
    task.reset(seed=0)
    inner = getattr(task, "point_env", None) or task.ant_env
    state = env.reset()
    start = state["physics"][0].numpy()
    inner.set_state(start[: env._model.nq], start[env._model.nq :])
    assert state["observation"].shape == (2, state_dim)
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, env._model.nu).astype(np.float32)
        task.step(action)
        state = env.step(state.set("action", torch.from_numpy(np.stack([action] * 2))))["next"]
        expected = np.concatenate([inner.data.qpos, inner.data.qvel])
        assert np.allclose(state["physics"][0], expected, atol=1e-6)
    assert torch.equal(state["physics"][0], state["physics"][1])
    assert np.abs(expected - start).max() > 0.01  # it has moved


def test_a_goal_is_rewarded_and_ends_the_episode():
    env = GoalMazeEnv(POINT, batch_size=[2])
    here = env.start.float()
    env.assign_goals(torch.stack([here, -here]))
    state = env.reset().set("action", torch.zeros(2, 2))
    after = env.step(state)["next"]
    assert after["reward"].flatten().tolist() == [1.0, 0.0]
    assert after["terminated"].flatten().tolist() == [True, False]


def test_the_u_has_a_wall_and_episodes_begin_at_the_end_of_an_arm():
    env = GoalMazeEnv(POINT, batch_size=[1])
    assert env._first_free() == (3, 1)
    assert env.start.tolist() == [-1.0, -1.0]
    assert torch.equal(env.goal_spec.space.high, torch.tensor([1.5, 1.5]))
    inside, free = (
        torch.tensor([[-1.0, 0.0], [-1.0, 0.55]]),
        torch.tensor([[1.0, 0.0], [-1.0, 1.0]]),
    )
    assert not env.is_valid(env.state_of_goal(inside)).any()  # the point is 0.1 wide
    assert env.is_valid(env.state_of_goal(free)).all()
    assert env.is_valid(env.state_of_goal(env.sample_goals(500))).all()


def test_the_ants_decoder_gives_states_to_go_on_from():
    env = GoalMazeEnv(ANT, batch_size=[16])
    goals = env.sample_goals(16)
    states = env.state_of_goal(goals)
    assert torch.equal(env.goal_of_state(states), goals)
    assert states[:, 7:15].std(0).min() > 0.01
    assert torch.allclose(states[:, 3:7].norm(dim=1), torch.ones(16))
    state = env.reset(TensorDict({"observation": states}, [16]), set_state=True)
    assert torch.equal(state["observation"], states)
    moved = env.step(state.set("action", torch.zeros(16, 8)))["next", "observation"]
    assert (env.goal_of_state(moved) - goals).norm(dim=1).max() < 0.1


def test_a_start_in_the_wall_and_a_wall_cell_are_refused():
    env = GoalMazeEnv(POINT, batch_size=[1])
    start = TensorDict({"observation": torch.tensor([[-1.0, 0.0, 0.0, 0.0]])}, [1])
    with pytest.raises(ValueError, match="inside a wall"):
        env.reset(start, set_state=True)
    with pytest.raises(ValueError, match="not a free cell"):
        GoalMazeEnv(POINT, start_cell=(2, 1))
    with pytest.raises(ValueError, match="there is no maze"):
        GoalMazeEnv("PointMaze_Nope-v3")
    with pytest.raises(ValueError, match="is no maze"):
        GoalMazeEnv("Hopper-v5")
