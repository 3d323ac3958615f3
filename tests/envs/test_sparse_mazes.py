import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import torchrl_recall.envs  # noqa: F401

MAZES = {"mujoco_umaze": (300, [-1.0, 1.0]), "mujoco_medium_maze": (600, [-2.5, 2.5])}


@pytest.mark.parametrize("name", MAZES)
def test_it_is_a_task_of_gymnasium(name):
    task = gymnasium.make(name)
    assert task.spec.max_episode_steps == MAZES[name][0]
    check_env(task, skip_render_check=True)


@pytest.mark.parametrize("name", MAZES)
def test_it_pays_at_the_goal_and_ends_there(name):
    """Driven along the first row to the goal, from the cell beside it."""
    task = gymnasium.make(name)
    goal = np.array(MAZES[name][1])
    for seed in range(3):
        observation, _ = task.reset(seed=seed, options={"reset_cell": np.array([1, 2])})
        assert np.linalg.norm(observation[:2] - goal) > 0.45
        assert not observation[2:].any()
        for _ in range(100):
            force = 5 * (goal - observation[:2]) - observation[2:]
            observation, reward, terminated, truncated, _ = task.step(force.clip(-1, 1))
            near = bool(np.linalg.norm(observation[:2] - goal) <= 0.45)
            assert (reward, terminated, truncated) == (float(near), near, False)
            if terminated:
                break
        assert terminated


@pytest.mark.parametrize("name", MAZES)
def test_episodes_begin_in_every_free_cell_but_that_of_the_goal(name):
    task = gymnasium.make(name)
    task.reset(seed=0)
    starts = np.array([task.reset()[0][:2] for _ in range(600)])
    maze = task.unwrapped.maze
    cells = {tuple(maze.cell_xy_to_rowcol(start)) for start in starts}
    free = {
        (i, j) for i, row in enumerate(maze.maze_map) for j, cell in enumerate(row) if cell == "r"
    }
    assert cells == free
    assert (1, 1) not in free
