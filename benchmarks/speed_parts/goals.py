"""Speed of goal environments, and the Goal GAN's share of an iteration."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import torch

from speed_parts.loops import Loop
from speed_parts.measure import Contestants, Rows, measure
from torchrl_recall.envs import GoalEnv, GoalMazeEnv, PointMassEnv

__all__ = ["goals"]


def goals(rounds: int, batch: int = 4096) -> Rows:
    """Measure point masses and mazes, and the Goal GAN's share of an iteration."""
    name, steps = f"goals: point mass, {batch} at once", point_mass_steps(batch)
    rows = measure(name, steps, rounds, calls=20, per=batch)
    for maze in ("PointMaze_UMaze-v3", "AntMaze_UMaze-v5"):
        rows += measure(f"goals: {maze}", maze_steps(maze, 450), rounds, per=450)
    for task, *words in (
        ("point_free2", "recall=none", "compile=false"),
        ("point_free2", "recall=none", "compile=true"),
        ("point_free4", "recall=backtracking", "compile=false"),
        ("point_umaze", "recall=none", "compile=false"),
    ):
        rows += measure(f"goals: {task}, {' '.join(words)}", shares(task, *words), rounds)
    return rows


def walk(env: GoalEnv) -> Callable[[], object]:
    """Make a random walk of all environments of a batch, with resets."""
    now = env.reset()

    def step() -> None:
        nonlocal now
        _, now = env.step_and_maybe_reset(env.rand_action(now))

    return step


def point_mass_steps(batch: int) -> Contestants:
    """Make steps of a batch of point masses, and their bare arithmetic."""
    maze = PointMassEnv(2, maze="u", batch_size=[batch])
    state, action = maze.reset()["observation"], maze.rand_action()["action"]
    return {
        "U-maze": walk(maze),
        "free, N = 2": walk(PointMassEnv(2, batch_size=[batch])),
        "free, N = 6": walk(PointMassEnv(6, batch_size=[batch])),
        "bare moves in the U-maze": lambda: maze.move(state, action),
    }


def maze_steps(name: str, batch: int) -> Contestants:
    """Make steps of a batch of mazes at once, and of Gymnasium-Robotics' own, one by one."""
    at_once = walk(GoalMazeEnv(name, batch_size=[batch]))
    gym_env = gymnasium.make(name, disable_env_checker=True)
    gym_env.reset(seed=0)
    gym_env.action_space.seed(0)

    def one_by_one() -> None:
        for _ in range(batch):
            _, _, terminated, truncated, _ = gym_env.step(gym_env.action_space.sample())
            if terminated or truncated:
                gym_env.reset()

    return {f"{batch} at once": at_once, "Gymnasium-Robotics, one by one": one_by_one}


def shares(task: str, *words: str) -> Contestants:
    """Make an iteration of ``recipes/goal_gan_recall.py``, and the part of the Goal GAN alone."""
    loop = Loop("goal_gan/goal_gan_recall", f"env={task}", *words)
    curriculum = loop.parts.curriculum
    for _ in range(2):  # until there are good goals, and updates are compiled
        loop.run()
    rates, tried = torch.rand(loop.config.num_goals), curriculum.propose()
    labels = curriculum.label(rates)
    return {
        "an iteration": loop.run,
        "all of the Goal GAN": lambda: curriculum.update(curriculum.propose(), rates),
        "its gradient steps": lambda: curriculum.fit(tried, labels),
    }
