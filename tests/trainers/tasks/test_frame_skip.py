"""Actions that are repeated."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train

from torchrl_recall.envs.simulators import make_simulator
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.gym_task import longest_episode
from torchrl_recall.trainers.tasks.vector_task import make_vector, own_vector


def by_hand(num_repeats, actions):
    """Step Hopper-v5 several times with each action."""
    task = gymnasium.make("Hopper-v5")
    task.reset(seed=0)
    rewards = []
    for action in actions:
        steps = [task.step(action) for _ in range(num_repeats)]
        rewards.append(sum(step[1] for step in steps))
    return steps[-1][0], rewards


def test_rewards_are_summed_and_the_last_observation_is_seen():
    env = make_env("Hopper-v5", frame_skip=3, seed=0)
    # The first reset of a seeded environment is that of its seed.
    task = env.base_env._env
    task.reset(seed=0)
    actions = np.full((2, 3), 0.1, dtype=np.float32)
    steps = [task.step(action) for action in actions]
    observation, rewards = by_hand(3, actions)
    np.testing.assert_array_equal(steps[-1][0], observation)
    assert [step[1] for step in steps] == pytest.approx(rewards)


def test_payments_count_actions():
    task = make_env("Pendulum-v1", frame_skip=2, delay=3).base_env._env
    task.reset(seed=0)
    paid = [task.step(np.zeros(1, np.float32))[1] for _ in range(6)]
    assert [reward != 0 for reward in paid] == [False, False, True, False, False, True]


@pytest.mark.parametrize(("frame_skip", "limit"), [(1, 200), (3, 67), (200, 1)])
def test_episodes_are_shorter(frame_skip, limit):
    env = make_env("Pendulum-v1", frame_skip=frame_skip)
    assert longest_episode(env.base_env._env) == limit
    assert env.rollout(300).shape == (limit,)


def test_a_limit_of_the_users_own_may_count_actions():
    steps = gymnasium.make("Pendulum-v1", max_episode_steps=-1)
    repeated = gymnasium.wrappers.RepeatAction(steps, 4)
    assert longest_episode(gymnasium.wrappers.TimeLimit(repeated, 50)) == 50


def test_a_vector_and_evaluations_repeat_actions_too():
    making = configure(tiny(env__frame_skip="4")).env.making
    assert own_vector("point_umaze", making, 2) is None
    vector = make_vector("Pendulum-v1", 2, making)
    vector.reset(seed=0)
    for _ in range(49):
        assert not vector.step(np.zeros((2, 1), np.float32))[3].any()
    assert vector.step(np.zeros((2, 1), np.float32))[3].all()
    vector.close()


def test_a_simulator_repeats_actions_too():
    state = torch.from_numpy(gymnasium.make("Hopper-v5").reset(seed=0)[0]).float()[None]
    actions = torch.full((1, 1, 3), 0.3)
    once = make_simulator(make_env("Hopper-v5", frame_skip=3)).replay(state, actions)
    thrice = make_simulator(make_env("Hopper-v5")).replay(state, actions.repeat(1, 3, 1))
    torch.testing.assert_close(once[:, -1], thrice[:, -1])


def test_runs_go_on_bitwise(tmp_path):
    words = tiny("none", env__frame_skip="4", env__name="Hopper-v5")
    assert train(tmp_path / "whole", words) == 0
    again = stopped_copy(tmp_path / "whole", tmp_path / "again", 120)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(tmp_path / "whole")
    assert metrics(again) == metrics(tmp_path / "whole")


@pytest.mark.parametrize("frame_skip", ["0", "-1", "two", "1.5", "null"])
def test_other_numbers_are_named(frame_skip):
    with pytest.raises(ConfigError, match=r"env\.frame_skip"):
        configure(tiny(env__frame_skip=frame_skip))
