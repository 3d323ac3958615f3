"""State that wrappers keep in Python: saved, or named."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import recipe_fixtures  # noqa: F401  # registers tasks
import torch
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    TimeAwareObservation,
    TransformAction,
)

from torchrl_recall.trainers.runs import checkpoints
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.python_state import load_python_state, python_state
from torchrl_recall.trainers.tasks.task_state import env_state_dict, load_env_state_dict


def hopper() -> gymnasium.Env:
    return gymnasium.make("Hopper-v5")


class Delayed(gymnasium.Wrapper):
    """Pays rewards later, from a queue, with noise of its own."""

    def __init__(self, env):
        super().__init__(env)
        self.queue = deque([0.0] * 3, maxlen=3)
        self.noise = np.random.default_rng(0)
        self.seen = {"steps": 0, "last": (np.zeros(2), torch.zeros(1))}

    def step(self, action):
        observation, reward, *flags = self.env.step(action)
        paid = self.queue[0] + self.noise.normal()
        self.queue.append(reward)
        self.seen["steps"] += 1
        self.seen["last"] = (action[:2].copy(), torch.ones(1) * self.seen["steps"])
        return observation, paid + self.seen["steps"], *flags


class Asked(gymnasium.Wrapper):
    """Knows how to be saved, and holds something that nobody else could save."""

    def __init__(self, env):
        super().__init__(env)
        self.secret = iter(range(100))
        self.steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, *flags = self.env.step(action)
        return observation, reward * self.steps, *flags

    def get_state(self):
        return {"steps": self.steps, "mean": [np.ones(2), 1.5]}

    def set_state(self, state):
        assert np.array_equal(state["mean"][0], np.ones(2))
        self.steps = state["steps"]


class Opaque(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.numbers = iter(range(100))


class Wind(HopperEnv):
    """A subclass with state of its own: wind that grows with every step."""

    wind = 0.0

    def step(self, action):
        self.wind += 0.1
        observation, reward, *flags = super().step(action)
        return observation, reward + self.wind, *flags


MAKE = {
    "observation": lambda: NormalizeObservation(hopper()),
    "reward": lambda: NormalizeReward(NormalizeObservation(hopper())),
    "stack": lambda: FrameStackObservation(hopper(), 3),
    "time": lambda: TimeAwareObservation(hopper()),
    "action": lambda: TransformAction(hopper(), lambda a: a, hopper().action_space),
    "delayed": lambda: Delayed(hopper()),
    "asked": lambda: Asked(hopper()),
    "subclass": Wind,
}


def roll(env: gymnasium.Env, actions) -> list:
    """Return what the steps give that does not depend on the physics, which starts alike."""
    return [env.step(action)[:2] for action in actions]


@pytest.mark.parametrize("kind", MAKE)
def test_a_wrapper_goes_on_where_it_was(kind, tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.uniform(-1, 1, (2, 20, 3))
    env, other = MAKE[kind](), MAKE[kind]()
    env.reset(seed=0)
    other.reset(seed=1)
    roll(env, first)
    checkpoints.save(tmp_path, 1, {"python": python_state(env)})  # as a run does
    task, twin = env.unwrapped, other.unwrapped
    twin.set_state(task.data.qpos, task.data.qvel)
    twin.data.qacc_warmstart[:] = task.data.qacc_warmstart
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_python_state(other, checkpoints.load_latest(tmp_path)[1]["python"])
    for (a, reward), (b, again) in zip(roll(env, second), roll(other, second), strict=True):
        assert np.allclose(a, b, atol=1e-6)
        assert reward == pytest.approx(again, abs=1e-6)


def test_what_cannot_be_saved_is_named():
    env = Opaque(hopper())
    env.reset(seed=0)
    assert load_python_state(env, python_state(env)) == ["Opaque.numbers (range_iterator)"]


def test_a_state_of_its_own_that_cannot_be_saved_is_named(monkeypatch):
    monkeypatch.setattr(Asked, "get_state", lambda self: {"numbers": iter(range(3))})
    env = Asked(hopper())
    env.reset(seed=0)
    assert load_python_state(env, python_state(env)) == ["Asked.get_state() (range_iterator)"]


def test_what_is_made_later_is_named():
    env, other = Opaque(hopper()), Opaque(hopper())
    for this in (env, other):
        this.numbers = None
        this.reset(seed=0)
    env.numbers = np.random.default_rng(0)
    (lost,) = load_python_state(other, python_state(env))
    assert lost.startswith("Opaque.numbers (a generator that is made after")


def test_a_mujoco_task_names_what_it_lost():
    env = make_env("RecipeUnsavedHopper-v0")
    env.reset()
    with pytest.warns(UserWarning, match=r"Unsaved.part \(list_iterator\).*get_state"):
        assert load_env_state_dict(env, env_state_dict(env)) is True


def test_a_checkpoint_holds_it_without_pickle(tmp_path):
    env = MAKE["delayed"]()
    env.reset(seed=0)
    folder = Path(checkpoints.save(tmp_path, 1, {"python": python_state(env)}))
    assert not list(folder.glob("*.p*kl"))


class Single(gymnasium.Wrapper):
    """Keeps numbers of numpy's types."""

    def __init__(self, env, **numbers):
        super().__init__(env)
        self.numbers = numbers


def test_numbers_of_numpy_keep_their_type(tmp_path):
    """In float64, later sums would round differently."""
    numbers = {
        "single": np.float32(0.1), "flag": np.bool_(True), "count": np.int16(7),
        "swapped": np.array([1.5, 2.5], ">f4"),
    }  # fmt: skip
    checkpoints.save(tmp_path, 1, {"task": python_state(Single(hopper(), **numbers))}, keep=1)
    _, state = checkpoints.load_latest(tmp_path)
    other = Single(hopper())
    assert load_python_state(other, state["task"]) == []
    for key in ("single", "flag", "count"):
        assert type(other.numbers[key]) is type(numbers[key])
        assert other.numbers[key] == numbers[key]
    assert other.numbers["swapped"].tolist() == [1.5, 2.5]


def test_numbers_that_no_checkpoint_holds_are_named():
    env = Single(hopper(), long=np.zeros(2, np.longdouble))
    (lost,) = load_python_state(Single(hopper()), python_state(env))
    assert "numbers of float128" in lost


def test_containers_keep_their_kind():
    """Restore lists of tuples into a fresh task, whose lists are still empty."""
    visited = [(1, 2), (3, 4)]
    recent = deque([1, 2], maxlen=2)
    env, other = Single(hopper(), visited=visited, recent=recent), Single(hopper(), visited=[])
    assert load_python_state(other, python_state(env)) == []
    assert other.numbers["visited"] == visited
    assert other.numbers["recent"] == recent
    assert other.numbers["recent"].maxlen == 2


@pytest.mark.parametrize("shared", [np.zeros(2), [0.0, 0.0], {0: 0.0}, deque([0.0])])
def test_what_has_two_names_keeps_both(shared, tmp_path):
    env, other = (Single(hopper(), state=s, parts=[s]) for s in (shared, copy.deepcopy(shared)))
    checkpoints.save(tmp_path, 1, {"task": python_state(env)}, keep=1)
    assert load_python_state(other, checkpoints.load_latest(tmp_path)[1]["task"]) == []
    other.numbers["state"][0] = 1.0
    assert other.numbers["parts"][0][0] == 1.0
    assert other.numbers["parts"][0] is other.numbers["state"]


def test_a_second_name_of_what_is_lost_is_lost_too():
    generator = np.random.default_rng(0)
    env, other = Single(hopper()), Single(hopper())
    env.first = env.second = {"generator": generator}
    other.first = other.second = None
    first, second = load_python_state(other, python_state(env))
    assert first.startswith("Single.first (a generator that is made after")
    assert second == "Single.second (another name of what could not be restored)"


def test_what_holds_itself_is_named():
    env = Single(hopper())
    env.loop = []
    env.loop.append(env.loop)
    assert load_python_state(Single(hopper()), python_state(env)) == [
        "Single.loop (list, nested too deep)"
    ]
