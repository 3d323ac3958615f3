"""What the part ``goals`` of ``speed.py`` times: goal environments, and the Goal GAN's share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import torch
from hydra import compose, initialize_config_dir
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall.envs import GoalEnv, GoalMazeEnv, PointMassEnv
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.collectors import write
from torchrl_recall.trainers.tasks.goals import (
    GoalCollector,
    make_curriculum,
    make_goal_env,
    make_host,
    make_recall,
    success_rates,
)
from torchrl_recall.trainers.tasks.gym import executed

__all__ = ["maze_steps", "point_mass_steps", "shares"]

CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "config" / "goal_gan"
CPU = torch.device("cpu")


def walk(env: GoalEnv) -> Callable[[], object]:
    """A random walk of all environments of a batch, with resets."""
    now = env.reset()

    def step() -> None:
        nonlocal now
        _, now = env.step_and_maybe_reset(env.rand_action(now))

    return step


def point_mass_steps(batch: int) -> dict[str, Callable[[], object]]:
    """Steps of so many point masses, and their bare arithmetic."""
    maze = PointMassEnv(2, maze="u", batch_size=[batch])
    state, action = maze.reset()["observation"], maze.rand_action()["action"]
    return {
        "U-maze": walk(maze),
        "free, N = 2": walk(PointMassEnv(2, batch_size=[batch])),
        "free, N = 6": walk(PointMassEnv(6, batch_size=[batch])),
        "bare moves in the U-maze": lambda: maze.move(state, action),
    }


def maze_steps(name: str, batch: int) -> dict[str, Callable[[], object]]:
    """Steps of so many mazes at once, and of Gymnasium-Robotics' own, one by one."""
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


def shares(task: str, *words: str) -> dict[str, Callable[[], object]]:
    """An iteration of ``recipes/goal_gan_recall.py``, and the Goal GAN's part of it alone."""
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        composed = compose("goal_gan_recall", [f"env={task}", *words])
        config = validate(composed, GoalGANRecallConfig)
    torch.manual_seed(0)
    env = make_goal_env(config, config.num_goals * config.collector.num_rollouts)
    host, curriculum = make_host(env, config, CPU), make_curriculum(env, config, CPU)
    buffer = ReplayBuffer(storage=LazyTensorStorage(config.replay_buffer.size), batch_size=1)
    beside = make_recall(env, config, host, curriculum, CPU, buffer)
    steps = {"num_rollouts": config.collector.num_rollouts, "num_steps": config.env.max_steps}
    collector = GoalCollector(env, host.actor, **steps)
    data = collector.collect(curriculum.gan.uniform(config.num_goals))
    curriculum.pretrain(env.goal_of_state(data["next", "observation"]).flatten(0, -2))

    def iteration() -> None:
        goals = curriculum.propose()
        data = collector.collect(goals)
        if beside is not None:
            seen = executed(env, data)
            write(buffer, seen)
            beside.extend(seen)
            beside.drop_unfinished()
        host.update(data)
        if beside is not None:
            beside.step(buffer)
        curriculum.update(goals, success_rates(data, len(goals)))

    for _ in range(2):  # there is something good to learn from, and updates are compiled
        iteration()
    rates, goals = torch.rand(config.num_goals), curriculum.propose()
    labels = curriculum.label(rates)
    return {
        "an iteration": iteration,
        "all of the Goal GAN": lambda: curriculum.update(curriculum.propose(), rates),
        "its gradient steps": lambda: curriculum._fit(goals, labels),
    }
