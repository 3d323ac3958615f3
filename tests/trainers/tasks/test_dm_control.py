"""dm_control's suite: tasks, their state, and what is said where it cannot be used."""

from __future__ import annotations

import importlib.util
import warnings

import mujoco
import numpy as np
import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, summary, tiny, train

from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.gym_task import longest_episode, make_task
from torchrl_recall.trainers.tasks.task_state import env_state_dict, load_env_state_dict

INSTALLED = importlib.util.find_spec("dm_control") and importlib.util.find_spec("shimmy")
WORKS = INSTALLED and int(mujoco.__version__.split(".")[0]) < 4
needs_dm_control = pytest.mark.skipif(not WORKS, reason="needs the extra dm_control")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@needs_dm_control
@pytest.mark.parametrize(
    ("name", "size"),
    [("cartpole-swingup_sparse", 5), ("walker-walk", 24), ("finger-turn_hard", 12)],
)
def test_a_task_is_a_vector_of_all_its_observations(name, size):
    env = make_env(name, backend="dm_control", seed=0)
    assert env.observation_spec["observation"].shape == (size,)
    data = env.rollout(5)
    assert data["observation"].dtype == torch.float32
    assert longest_episode(env.base_env._env) == 1_000
    task = make_task(name, backend="dm_control")
    raw = task.unwrapped.reset(seed=3)[0]
    seen = task.reset(seed=3)[0]
    assert np.allclose(seen, np.concatenate([np.ravel(raw[key]) for key in sorted(raw)]))


@needs_dm_control
def test_every_task_of_the_suite_can_be_made_and_saved():
    from torchrl_recall.trainers.tasks.dm_control import NAMES

    limits = {}
    for name in NAMES:
        env = make_env(name, backend="dm_control", seed=0)
        env.rollout(2)
        assert not env_state_dict(env)["python"]["unsaved"], name
        limits[name] = longest_episode(env.base_env._env)
    assert limits["lqr-lqr_2_1"] is None
    assert limits["cartpole-balance"] == 1_000


@needs_dm_control
def test_observations_can_be_chosen():
    env = make_env("walker-walk", backend="dm_control", observation_keys=["velocity", "height"])
    assert env.observation_spec["observation"].shape == (10,)


@needs_dm_control
@pytest.mark.parametrize("name", ["cartpole-swingup_sparse", "finger-turn_hard", "cheetah-run"])
def test_an_episode_goes_on_bitwise(name):
    torch.manual_seed(0)
    env = make_env(name, backend="dm_control", seed=1)
    actions = [env.action_spec.rand().numpy() for _ in range(1_100)]

    def roll(env, actions) -> list:
        task, out = env.base_env._env, []
        for action in actions:
            observation, reward, terminated, truncated, _ = task.step(action)
            out.append(np.append(observation, [reward, terminated, truncated]))
            if terminated or truncated:
                out.append(task.reset()[0])
        return out

    env.base_env._env.reset()
    roll(env, actions[:30])
    state = env_state_dict(env)
    expected = roll(env, actions)  # over the end of an episode
    other = make_env(name, backend="dm_control", seed=999)
    other.base_env._env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_env_state_dict(other, state) is True
    found = roll(other, actions)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_dm_control
def test_a_run_resumes_bitwise(tmp_path):
    words = tiny(env__name="cartpole-swingup_sparse", env__backend="dm_control")
    assert train(tmp_path / "whole", words) == 0
    again = stopped_copy(tmp_path / "whole", tmp_path / "again", 80)
    assert train(again, [*words, "resume=auto"]) == 0
    assert summary(again)["frames"] == 160
    assert sha256(again) == sha256(tmp_path / "whole")
    assert metrics(again) == metrics(tmp_path / "whole")


@needs_dm_control
def test_unknown_tasks_are_named_with_those_that_are_near():
    with pytest.raises(ConfigError, match=r"cartpole-swingup_spars'.*cartpole-swingup_sparse"):
        make_task("cartpole-swingup_spars", backend="dm_control")


@pytest.mark.skipif(bool(WORKS), reason="it works here")
def test_what_is_missing_is_named():
    cure = "mujoco<4" if INSTALLED else r"torchrl-recall\[dm_control\]"
    with pytest.raises(ConfigError, match=rf"dm_control.*{cure}"):
        make_task("cartpole-swingup_sparse", backend="dm_control")


def test_two_ways_of_making_a_task_are_refused():
    words = tiny(env__backend="dm_control", env__entry_point="mine:make")
    with pytest.raises(ConfigError, match=r"env.entry_point=mine:make makes the task itself"):
        configure(words)
