"""The four-room grid world for Gymnasium: TorchRL's task, step by step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from torchrl.envs import GymEnv, check_env_specs

from torchrl_recall.envs import FourRoomsEnv, FourRoomsGymEnv


def test_gymnasium_contract():
    check_gymnasium_env(FourRoomsGymEnv(7, slip=0.1, render_mode="rgb_array"))
    check_env_specs(GymEnv("torchrl_recall/FourRooms-v0", size=7))


def test_both_environments_are_the_same_task():
    gym_env = gymnasium.make("torchrl_recall/FourRooms-v0", size=9, max_steps=40)
    env = FourRoomsEnv(9, max_steps=40)
    rng = np.random.default_rng(0)
    for seed in range(5):
        cell, _ = gym_env.reset(seed=seed)
        data = env.reset().set("observation", torch.tensor(int(cell)))
        done = False
        while not done:
            action = int(rng.integers(4))
            cell, reward, terminated, truncated, _ = gym_env.step(action)
            data = env.step(data.set("action", torch.tensor(action)))["next"]
            done = terminated or truncated
            assert int(data["observation"]) == cell
            assert data["reward"].item() == reward
            assert data["terminated"].item() == terminated
            assert data["truncated"].item() == truncated


def test_rendering():
    env = gymnasium.make("torchrl_recall/FourRooms-v0", size=5, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (80, 80, 3)


@pytest.mark.parametrize("action", [-1, 4])
def test_actions_out_of_range_are_refused(action):
    env = gymnasium.make("torchrl_recall/FourRooms-v0", size=5, disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action must be 0"):
        env.step(action)
