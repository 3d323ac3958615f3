"""State of a task: it goes on bitwise, and each part of the state is needed."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import Enum

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.spaces import Box
from recipe_fixtures import short
from tensordict import TensorDict

from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.task_state import env_state_dict, load_env_state_dict

TASKS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def roll(env, actions) -> list[torch.Tensor]:
    """Everything that an environment returns, the observations after resets among it."""
    out = []
    for action in actions:
        step, after = env.step_and_maybe_reset(TensorDict({"action": action}, env.batch_size))
        after_step = step["next"]
        out += [after_step[key].clone() for key in ("observation", "reward", "done", "terminated")]
        out.append(after["observation"].clone())
    return out


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def saved_in_mid_run(name):
    """The state after thirty random steps, and sixty actions with what they lead to."""
    torch.manual_seed(0)
    env = make_env(short(name))
    env.set_seed(1)
    env.reset()
    roll(env, [env.action_spec.rand() for _ in range(30)])
    state = env_state_dict(env)
    actions = [env.action_spec.rand() for _ in range(60)]
    return state, actions, roll(env, actions)


def fresh_env(name):
    env = make_env(short(name))
    env.set_seed(999)
    env.reset()
    return env


def changed(state, layer, attribute, value):
    state = copy.deepcopy(state)
    assert attribute in state["python"]["layers"][layer]["attributes"]
    state["python"]["layers"][layer]["attributes"][attribute] = value
    return state


@pytest.fixture(scope="module", params=TASKS)
def mid_run(request):
    return request.param, *saved_in_mid_run(request.param)


def test_restored_task_goes_on_bitwise(mid_run):
    name, state, actions, expected = mid_run
    env = fresh_env(name)
    assert load_env_state_dict(env, state) is True
    assert same(roll(env, actions), expected)
    assert any(bool(value) for value in expected[2::5]), "no reset was crossed"


def test_a_fresh_task_does_not_go_on_like_the_saved_one(mid_run):
    name, _, actions, expected = mid_run
    assert not same(roll(fresh_env(name), actions), expected)


def test_state_does_not_change_with_the_task_that_it_was_read_from(mid_run):
    name, state, _, _ = mid_run
    env = fresh_env(name)
    load_env_state_dict(env, state)
    before = env_state_dict(env)
    copied = np.concatenate([before["integration"], before["derived"]["xpos"].ravel()])
    roll(env, [env.action_spec.rand() for _ in range(5)])
    after = np.concatenate([before["integration"], before["derived"]["xpos"].ravel()])
    assert np.array_equal(copied, after)


@pytest.mark.parametrize("name", ["Ant-v5", "Humanoid-v5"])
def test_derived_arrays_are_needed(name):
    state, actions, expected = saved_in_mid_run(name)
    env = fresh_env(name)
    load_env_state_dict(env, state | {"derived": {}})
    assert not same(roll(env, actions), expected)


class Tip(InvertedDoublePendulumEnv):
    """Rewards where the tip was before the step, which MuJoCo's integration state lacks."""

    def step(self, action):
        before = float(self.data.site_xpos[0, 0])
        observation, _, *rest = super().step(action)
        return observation, before, *rest


def test_any_array_of_the_simulation_is_restored():
    gymnasium.register("RecipeTip-v0", entry_point=Tip, max_episode_steps=1000)
    state, actions, expected = saved_in_mid_run("RecipeTip-v0")
    env = fresh_env("RecipeTip-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_env_state_dict(env, state) is True
    assert same(roll(env, actions), expected)


@pytest.mark.parametrize("name", TASKS)
def test_random_generator_is_needed(name):
    state, actions, expected = saved_in_mid_run(name)
    env = fresh_env(name)
    own = env_state_dict(env)["python"]["layers"][-1]["attributes"]["_np_random"]
    load_env_state_dict(env, changed(state, -1, "_np_random", own))
    assert not same(roll(env, actions), expected)


def test_elapsed_steps_are_needed():
    state, actions, expected = saved_in_mid_run("HalfCheetah-v5")
    env = fresh_env("HalfCheetah-v5")
    load_env_state_dict(env, changed(state, 0, "_elapsed_steps", {"plain": 0}))
    assert not same(roll(env, actions), expected)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("Pendulum-v1", "continuous"), ("CartPole-v1", "discrete"), ("Acrobot-v1", "discrete"),
        ("torchrl_recall/FourRooms-v0", "discrete"),
    ],
)  # fmt: skip
def test_a_task_in_python_goes_on_bitwise(name, actions):
    torch.manual_seed(0)
    env = make_env(name, actions=actions, seed=1)
    env.reset()
    roll(env, [env.action_spec.rand() for _ in range(30)])
    state = env_state_dict(env)
    chosen = [env.action_spec.rand() for _ in range(60)]
    expected = roll(env, chosen)
    other = make_env(name, actions=actions, seed=999)
    other.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_env_state_dict(other, state) is True
    assert same(roll(other, chosen), expected)


class Engine(gymnasium.Env):
    """A task with a part that no checkpoint holds."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, part) -> None:
        self.part = part

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


class Piece:
    def __init__(self) -> None:
        self.kind = type(self).__name__


class OtherPiece(Piece):
    pass


@dataclass(frozen=True)
class Frozen:
    number: int = 1


class Phase(Enum):
    OPEN = 1
    SHUT = 2


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (iter([1]), "list_iterator"),
        (mujoco.MjData(mujoco.MjModel.from_xml_string("<mujoco/>")), "MjData"),
        (random.Random(0), "Random"),
        (np.random.RandomState(0), "RandomState"),
        (Frozen(), "Frozen"),
        (defaultdict(list), "defaultdict"),
        (Counter("ab"), "Counter"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_task_that_cannot_be_saved_says_what_of_it(part, kind):
    env, other = (make_env("Engine", entry_point=f"{__name__}:make_engine") for _ in range(2))
    for this in (env, other):
        this.base_env._env.unwrapped.part = part
    with pytest.warns(UserWarning, match=rf"Engine .*Engine.part \({kind}\).*new episode"):
        assert load_env_state_dict(other, env_state_dict(env)) is False


def test_members_of_an_enum_are_restored_and_not_changed():
    env, other = (make_env("Engine", entry_point=f"{__name__}:make_engine") for _ in range(2))
    env.base_env._env.unwrapped.part = Phase.SHUT
    other.base_env._env.unwrapped.part = Phase.OPEN
    assert load_env_state_dict(other, env_state_dict(env)) is True
    assert other.base_env._env.unwrapped.part is Phase.SHUT
    assert (Phase.OPEN.value, Phase.OPEN.name) == (1, "OPEN")


def test_an_object_of_another_kind_is_not_overwritten():
    """A grid whose key stands where the new one has a wall is not a key of a wall's class."""
    env = make_env("Engine", entry_point=f"{__name__}:make_engine")
    task = env.base_env._env.unwrapped
    task.part = [Piece(), None]
    state = env_state_dict(env)
    task.part = [OtherPiece(), None]
    with pytest.warns(UserWarning, match=r"Engine .*made after the first reset.*new episode"):
        assert load_env_state_dict(env, state) is False
    assert task.part[0].kind == "OtherPiece"


def make_engine():
    return Engine(None)


def test_mujoco_tasks_restore_without_a_warning():
    env = fresh_env("Hopper-v5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_env_state_dict(env, env_state_dict(env)) is True
