"""The small sparse tasks: Gymnasium's interface, their physics, and many of them at once."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.utils.env_checker import check_env
from torchrl.envs import GymEnv

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.envs.sparse_dynamics import SPARSE_TASKS
from torchrl_recall.envs.sparse_tasks import SparseTask, goal_rule
from torchrl_recall.trainers.tasks.gym import make_env

EACH = pytest.mark.parametrize("name", SPARSE_TASKS)


@EACH
@pytest.mark.filterwarnings("ignore:.*render")
def test_gymnasium_accepts_them(name):
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


@EACH
def test_the_goal_alone_is_rewarded_and_ends_an_episode(name):
    task, dynamics = gymnasium.make(name), SPARSE_TASKS[name]
    task.reset(seed=0)
    task.action_space.seed(0)
    ended = 0
    for _ in range(20_000):
        _, reward, terminated, truncated, _ = task.step(task.action_space.sample())
        reached = bool(dynamics.reached(task.unwrapped.state)[0])
        assert reward == float(terminated) == float(reached)
        if terminated or truncated:
            ended += terminated
            task.reset()
            assert not dynamics.reached(task.unwrapped.state)[0]
        if ended == 3:
            return
    pytest.fail("random actions never reached the goal")


@EACH
def test_many_at_once_are_each_the_single_task(name):
    many = gymnasium.make_vec(name, num_envs=5, vectorization_mode="vector_entry_point")
    single = gymnasium.make(name).unwrapped
    many.reset(seed=1)
    single.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        before, actions = many.state.copy(), rng.uniform(-1, 1, many.action_space.shape)
        observed, reward, terminated, _, infos = many.step(actions)
        for i in range(5):
            single.state = before[i : i + 1]
            seen, paid, over, _, _ = single.step(actions[i])
            np.testing.assert_allclose(infos["final_obs"][i], seen, rtol=1e-6)
            assert (paid, over) == (reward[i], terminated[i])
        done = terminated | (many.steps == 0)
        np.testing.assert_allclose(observed[~done], infos["final_obs"][~done])
        assert (many.steps <= many.max_steps).all()


def test_time_limits_are_those_of_the_task():
    many = gymnasium.make_vec("point_free6", num_envs=3, vectorization_mode="vector_entry_point")
    many.reset(seed=0)
    away = np.full((3, 6), -1.0)  # never reaches the goal
    for step in range(1, 101):
        _, _, terminated, truncated, _ = many.step(away)
        assert not terminated.any()
        assert truncated.all() == (step % 50 == 0)


@pytest.mark.parametrize("name", ["point_free4", "point_umaze"])
def test_points_move_as_the_point_mass_does(name):
    task = SPARSE_TASKS[name]
    env = PointMassEnv(task.dim, maze=task.maze, step_size=task.step_size)
    rng = np.random.default_rng(0)
    states = task.start(rng, 200)
    actions = rng.uniform(-1, 1, states.shape).astype(np.float32)
    moved = task.move(states, actions)
    expected = env.move(torch.from_numpy(states), torch.from_numpy(actions)).numpy()
    np.testing.assert_array_equal(moved, expected)
    assert env.is_valid(torch.from_numpy(states)).all()
    assert not task.reached(states).any()


def test_the_pendulum_is_gymnasiums():
    task, other = SPARSE_TASKS["pendulum_swingup"], PendulumEnv()
    other.reset(seed=0)
    rng = np.random.default_rng(0)
    for state in task.start(rng, 50):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        other.state = state.astype(float)
        seen, *_ = other.step(2 * action)
        moved = task.move(state[None], action[None])
        np.testing.assert_allclose(task.observe(moved)[0], seen, atol=1e-5)


def test_random_actions_find_the_goals_as_seldom_as_said():
    """They are sparse: hundreds of steps to the first reward, but for the U-maze."""
    medians = {}
    for name in ("point_free4", "point_umaze"):
        many = gymnasium.make_vec(name, num_envs=64, vectorization_mode="vector_entry_point")
        many.reset(seed=0)
        many.action_space.seed(0)
        first = np.zeros(64)
        for step in range(1, 4_000):
            _, _, terminated, _, _ = many.step(many.action_space.sample())
            first = np.where((first == 0) & terminated, step, first)
        medians[name] = np.median(np.where(first == 0, 4_000, first))
    assert 200 < medians["point_free4"] < 600
    assert 40 < medians["point_umaze"] < 150


@EACH
def test_the_rule_says_of_observations_what_the_task_gave(name):
    env = make_env(name, seed=0)
    rollout = env.rollout(3000, break_when_any_done=False)
    imagined = rollout.exclude(("next", "reward"), ("next", "terminated"), ("next", "done"))
    imagined = goal_rule(env)(imagined)
    assert torch.equal(imagined["next", "reward"], rollout["next", "reward"])
    assert torch.equal(imagined["next", "terminated"], rollout["next", "terminated"])
    assert rollout["next", "terminated"].any() or name == "point_umaze_long"


@pytest.mark.parametrize("name", ["point_free4", "pendulum_swingup"])
def test_an_action_that_is_nan_is_refused(name):
    task = gymnasium.make(name).unwrapped
    task.reset(seed=0)
    with pytest.raises(ValueError, match="an action is NaN"):
        task.step(np.full(task.action_space.shape, np.nan, np.float32))


def test_the_rule_names_the_tasks_that_it_knows():
    with pytest.raises(ValueError, match="goal_rule knows the goals of"):
        goal_rule(GymEnv("Pendulum-v1"))
    goal_rule(GymEnv("point_free4"))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="there is no task 'nothing'; take one of point_free4"):
        SparseTask("nothing")
