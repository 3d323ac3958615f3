"""Gymnasium tasks: which are refused, clipping, and numbers that are not finite."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from recipe_fixtures import REFUSED
from tensordict import TensorDict

from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import (
    DivergenceError,
    check_finite,
    make_env,
)
from torchrl_recall.trainers.tasks.gym_task import longest_episode, make_task

TASKS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


@pytest.mark.parametrize("name", TASKS)
def test_observations_and_rewards_are_float32(name):
    env = make_env(name)
    data = env.rollout(2)
    assert data["observation"].dtype == data["next", "observation"].dtype == torch.float32
    assert data["next", "reward"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("CartPole-v1", "discrete"),
        ("RecipeMultiDiscrete-v0", "discrete"),
        ("RecipeUnbounded-v0", "ClipAction or RescaleAction"),
        ("RecipeHalfBounded-v0", "ClipAction or RescaleAction"),
        ("RecipeZeroWidth-v0", "zero width"),
        ("RecipeDict-v0", "observation_keys"),
        ("RecipePixels-v0", "encoder"),
        ("RecipeFloatImage-v0", "FlattenObservation"),
        ("RecipeMatrixAction-v0", "FlattenAction|vector"),
        ("RecipeDictAction-v0", "action"),
    ],
)
def test_spaces_that_do_not_fit_are_refused_by_name(name, cure):
    assert name in REFUSED or name == "CartPole-v1"
    with pytest.raises(ConfigError, match=rf"(?s){name}.*({cure})"):
        make_env(name)


def test_a_task_of_that_kind_passes():
    env = make_env("Pendulum-v1")
    assert env.rollout(3)["observation"].shape == (3, 3)


@pytest.mark.parametrize(
    "name", ["NoSuchTask-v1", "Hopper-v99", "Hoper-v5", "not a name", "gymnasium:Hoper-v5"]
)
def test_unknown_task_is_named_with_a_cure(name):
    with pytest.raises(ConfigError, match=r"env\.name=.*pprint_registry") as error:
        make_env(name)
    assert name in str(error.value)


def test_a_task_of_a_module_that_is_missing_is_named_with_a_cure():
    with pytest.raises(ConfigError, match=r"the module 'no_module_here' .*PYTHONPATH") as error:
        make_env("no_module_here:Hopper-v5")
    assert "env.name='no_module_here:Hopper-v5'" in str(error.value)


def test_a_task_may_be_named_with_its_module():
    assert longest_episode(gymnasium.make("Hopper-v5")) == 1_000
    assert make_env("gymnasium:Hopper-v5").observation_spec["observation"].shape == (11,)


def test_a_task_whose_library_is_missing_is_a_configuration_error():
    def entry_point(**kwargs):
        raise gymnasium.error.DependencyNotInstalled("pip install a-physics-engine")

    gymnasium.register("RecipeMissingLibrary-v0", entry_point)
    try:
        with pytest.raises(ConfigError, match=r"RecipeMissingLibrary-v0.*a-physics-engine"):
            make_env("RecipeMissingLibrary-v0")
    finally:
        del gymnasium.registry["RecipeMissingLibrary-v0"]


def transition(observation=0.0, reward=0.0, start=0.0):
    return TensorDict(
        {
            "observation": torch.full((2, 3), start),
            "next": {
                "observation": torch.full((2, 3), observation),
                "reward": torch.full((2, 1), reward),
            },
        },
        [2],
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["observation", "reward"])
def test_bad_numbers_are_named(key, value):
    with pytest.raises(FloatingPointError, match=rf"Some-v0 .*'{key}'.* 17\b"):
        check_finite(transition(**{key: value}), env_name="Some-v0", frames=17)


def test_a_reset_to_nan_is_seen():
    with pytest.raises(FloatingPointError, match=r"Some-v0 .*observation"):
        check_finite(transition(start=float("nan")), env_name="Some-v0", frames=17)


def test_good_numbers_pass():
    assert check_finite(transition(), env_name="Some-v0", frames=17) is None


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([1.0, 2.0], True),
        ([3e38, 3e38], True),  # their sum is not
        ([1.0, math.nan], False),
        ([1.0, math.inf], False),
        ([-math.inf, math.inf], False),
    ],
)
def test_what_is_finite(values, finite):
    data = TensorDict(
        {
            "observation": torch.tensor([values]),
            "action": torch.zeros(1, 1),
            "next": {"observation": torch.zeros(1, 2), "reward": torch.zeros(1, 1)},
        },
        [1],
    )
    if finite:
        check_finite(data, env_name="Task", frames=0)
    else:
        with pytest.raises(
            FloatingPointError, match="Task returned NaN or infinity in observation"
        ):
            check_finite(data, env_name="Task", frames=0)


def test_the_task_clips_what_a_gaussian_policy_chooses():
    beyond, within = (make_env("HalfCheetah-v5", clip_actions=True) for _ in range(2))
    task, other = beyond.base_env._env, within.base_env._env
    task.reset(seed=0), other.reset(seed=0)
    one = task.step(np.full(6, 3.0, np.float32))
    two = other.step(np.full(6, 1.0, np.float32))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]  # the control cost too
    unclipped = make_env("HalfCheetah-v5").base_env._env
    unclipped.reset(seed=0)
    assert unclipped.step(np.full(6, 3.0, np.float32))[1] < one[1] - 0.1
    assert beyond.action_spec.space.high.max() == 1


def test_the_longest_episode_is_the_time_limit():
    assert longest_episode(make_task("Hopper-v5")) == 1_000
    assert longest_episode(make_task("Pendulum-v1")) == 200
    assert longest_episode(make_task("RecipeIntegers-v0")) is None


def test_a_seed_decides_the_first_state():
    one, two, other = (make_env("Hopper-v5", seed=seed).reset() for seed in (3, 3, 4))
    assert torch.equal(one["observation"], two["observation"])
    assert not torch.equal(one["observation"], other["observation"])


def test_a_policy_that_chooses_nan_has_diverged():
    data = transition().set("action", torch.full((2, 1), math.nan))
    with pytest.raises(DivergenceError, match="within the 2 steps after step 17"):
        check_finite(data, env_name="Some-v0", frames=17)


def in_time(**bad: list[float]) -> TensorDict:
    """Three steps of one environment, some of whose numbers are given."""
    values = {key: torch.tensor(value).reshape(3, 1) for key, value in bad.items()}
    zeros = torch.zeros(3, 1)
    following = values.get("following", zeros)
    return TensorDict(
        {
            "observation": values.get("observation", zeros),
            "action": values.get("action", zeros),
            "next": {"observation": following, "reward": values.get("reward", zeros)},
        },
        [3],
    )


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"following": [0, math.nan, math.nan], "action": [0, 0, math.nan]}, FloatingPointError),
        ({"following": [0, 0, math.nan], "action": [0, math.nan, math.nan]}, DivergenceError),
        ({"reward": [0, math.inf, 0], "action": [0, math.nan, 0]}, DivergenceError),
        ({"observation": [0, math.nan, 0], "action": [0, math.nan, 0]}, FloatingPointError),
    ],
)
def test_the_first_bad_number_is_the_cause(bad, error):
    with pytest.raises(FloatingPointError) as found:
        check_finite(
            in_time(**{k: list(map(float, v)) for k, v in bad.items()}), env_name="T", frames=0
        )
    assert type(found.value) is error


def test_the_first_action_again_and_again_is_an_action():
    """An index of zero at each step of a rollout is a choice, unlike a one-hot without a one."""
    data = TensorDict(
        {"observation": torch.ones(2, 5, dtype=torch.long), "action": torch.zeros(2, 5).long()},
        [2, 5],
    )
    assert check_finite(data, env_name="four rooms", frames=0) is None
    data["action"] = torch.zeros(2, 5, 4, dtype=torch.long)
    with pytest.raises(DivergenceError, match="chose no action"):
        check_finite(data, env_name="four rooms", frames=0)
