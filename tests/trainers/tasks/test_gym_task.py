"""Tasks that keep to Gymnasium's interface in their own way, and those that do not."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.gym_task import longest_episode, make_task
from torchrl_recall.trainers.tasks.step_collector import StepCollector


class Task(gymnasium.Env):
    """Observes its time."""

    space: gymnasium.Space = spaces.Box(-10, 10, (3,))
    actions: gymnasium.Space = spaces.Box(-1, 1, (2,))

    def __init__(self):
        self.observation_space, self.action_space = self.space, self.actions
        self.time = 0

    def observe(self):
        return np.full(3, self.time, self.space.dtype)

    def reward(self):
        return 1.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        self.time += 1
        return self.observe(), self.reward(), False, self.time >= 10, {}


def variant(name: str, **members) -> str:
    kind = type(name, (Task,), members)
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry_point=kind, max_episode_steps=10)
    return f"{name}-v0"


def old_reset(self, *, seed=None, options=None):
    self.time = 0
    return self.observe()


def old_step(self, action):
    self.time += 1
    return self.observe(), 1.0, False, {}


PARTS = spaces.Dict({"goal": spaces.Box(-1, 1, (2,)), "observation": spaces.Box(0, 9, (1,))})


def parts(self):
    return {"goal": np.ones(2, np.float32), "observation": [self.time]}


TAKEN = {
    "Float16": ({"space": spaces.Box(-10, 10, (3,), np.float16)}, None, [0, 0, 0]),
    "Float64": ({"space": spaces.Box(-10, 10, (3,), np.float64)}, None, [0, 0, 0]),
    "Integers": ({"space": spaces.Box(-10, 10, (3,), np.int64)}, None, [0, 0, 0]),
    "Lists": ({"observe": lambda self: [1.0, 2.0, self.time]}, None, [1, 2, 0]),
    "RewardArrays": ({"reward": lambda self: np.array([1.5])}, None, [0, 0, 0]),
    "RewardScalars": ({"reward": lambda self: np.float64(1.5)}, None, [0, 0, 0]),
    "One": ({"space": PARTS, "observe": parts}, ["observation"], [0]),
    "Joined": ({"space": PARTS, "observe": parts}, ["observation", "goal"], [0, 1, 1]),
    "KeywordReset": (
        {"reset": lambda self, **kwargs: Task.reset(self, seed=kwargs.get("seed"))},
        None,
        [0, 0, 0],
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_numbers_of_any_kind_become_a_vector_of_floats(name):
    members, keys, first = TAKEN[name]
    env = make_env(variant(f"Taken{name}", **members), observation_keys=keys, seed=0)
    collector = StepCollector(
        env, lambda _: torch.zeros(2), frames_per_batch=15, total_frames=15, init_random_frames=0
    )
    data = collector.collect()
    rollout = env.rollout(15, break_when_any_done=False)
    for found in (data, rollout):
        assert found["observation"][0].tolist() == first
        assert found["observation"].dtype == torch.float32
        assert found["next", "reward"].flatten().tolist() == [1.5] * 15
        assert found["next", "done"].flatten().tolist() == [i == 9 for i in range(15)]


class FirstTwo(gymnasium.ObservationWrapper):
    observation_space = spaces.Box(-10, 10, (2,))

    def observation(self, observation):
        return observation[:2]


def test_a_task_that_is_made_in_a_wrapper_observes_what_the_wrapper_returns():
    if "InWrapper-v0" not in gymnasium.registry:
        gymnasium.register(
            "InWrapper-v0", entry_point=lambda: FirstTwo(Task()), max_episode_steps=10
        )
    assert make_env("InWrapper-v0", seed=0).rollout(3)["observation"].shape == (3, 2)


def test_a_number_of_a_few_becomes_a_one_hot_vector():
    task = make_task("CliffWalking-v1", actions="discrete")
    observation, _ = task.reset(seed=0)
    assert observation.dtype == np.float32
    assert observation.tolist() == [float(i == 36) for i in range(48)]
    assert task.observation_space == spaces.Box(0, 1, (48,), np.float32)


def test_symbols_are_flattened_beside_a_direction_in_the_order_given():
    entries = spaces.Dict(
        image=spaces.Box(0, 255, (2, 2, 3), np.uint8), direction=spaces.Discrete(4)
    )
    seen = {"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "direction": 2}
    members = {"space": entries, "observe": lambda self: seen}
    keys = ["image", "direction"]
    task = make_task(variant("Symbols", **members), observation_keys=keys)
    assert task.reset(seed=0)[0].tolist() == [*range(12), 0, 0, 1, 0]
    task = make_task(variant("Symbols", **members), observation_keys=keys[::-1])
    assert task.reset(seed=0)[0].tolist() == [0, 0, 1, 0, *range(12)]
    assert task.observation_space.high.tolist() == [1] * 4 + [255] * 12


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete.*needs discrete ones"),
        (spaces.Discrete(3, start=1), "begin with 1.*TransformAction"),
        (spaces.Box(-1, 1, (2,)), "sac_recall.py"),
    ],
)
def test_other_actions_are_refused_where_discrete_ones_are_needed(actions, reason):
    with pytest.raises(ConfigError, match=reason):
        make_task(variant(f"Act{type(actions).__name__}", actions=actions), actions="discrete")


REFUSED = {
    "NoSeed": ({"reset": lambda self: (self.observe(), {})}, "takes no seed.*seed=None"),
    "OldReset": ({"reset": old_reset}, r"ndarray of shape \(3,\), not \(observation, info\)"),
    "OldStep": ({"step": old_step}, "4 values, not .*terminated"),
    "Rewards": ({"reward": lambda self: np.ones(2)}, r"shape \(2,\); this recipe needs one"),
    "NoReward": ({"reward": lambda self: None}, "the reward of .* is None"),
    "WordReward": ({"reward": lambda self: "good"}, "the reward of .* is 'good'"),
    "WrongShape": ({"observe": lambda self: np.ones(4)}, r"shape \(4,\), but .* says\s+\(3,\)"),
    "Empty": ({"space": spaces.Box(-1, 1, (0,))}, "at least one number"),
    "Words": ({"space": spaces.Text(5)}, "observes a Text"),
    "Pairs": ({"space": spaces.MultiDiscrete([5, 5])}, "observes a MultiDiscrete.*FlattenObs"),
    "Entries": ({"space": PARTS}, r"observation_keys=\[goal,observation\]"),
    "IntegerActions": ({"actions": spaces.Box(-5, 5, (2,), np.int64)}, "are int64"),
    "TupleActions": ({"actions": spaces.Tuple([spaces.Box(-1, 1, (2,))])}, "another kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(name):
    members, reason = REFUSED[name]
    task = variant(f"Refused{name}", **members)
    with pytest.raises(ConfigError, match=rf"(?s){task}.*{reason}|{reason}"):
        make_task(task)


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        ("Hopper-v5", ["observation"], "not a Dict; use env.observation_keys=null"),
        (None, ["goal", "position"], r"no observation \['position'\]; it has \['goal'"),
    ],
)
def test_observation_keys_that_do_not_fit_are_refused(name, keys, reason):
    name = name or variant("TakenJoined", space=PARTS, observe=parts)
    with pytest.raises(ConfigError, match=reason):
        make_task(name, observation_keys=keys)


def test_a_trial_touches_no_random_state():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    make_task(variant("TakenTrial"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["HalfCheetah-v2", "HalfCheetah-v1", "gymnasium:HalfCheetah-v99"])
def test_advice_about_versions_is_true(name):
    with pytest.raises(ConfigError, match=r"The newest version is HalfCheetah-v5\."):
        make_task(name)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("tasks_of_mine", None)


MODULE = """
import functools

import gymnasium
from torchrl.envs import GymEnv

def hopper():
    return gymnasium.make("Hopper-v5", max_episode_steps=33)

def bare():
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
    return HopperEnv()

def of_torchrl():
    return GymEnv("Hopper-v5")

def of_a_size(size):
    return hopper()

@functools.wraps(of_a_size)
def decorated():
    return of_a_size(3)
"""


@pytest.mark.parametrize(("function", "limit"), [("hopper", 33), ("bare", None), ("decorated", 33)])
def test_a_task_without_an_id_is_made_by_a_function(function, limit, module):
    entry_point = f"tasks_of_mine:{function}"
    env = make_env("mine", entry_point=entry_point, seed=0)
    assert env.rollout(3)["observation"].shape == (3, 11)
    assert longest_episode(make_task("mine", entry_point=entry_point)) == limit


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("tasks_of_mine:walker", "has no attribute 'walker'"),
        ("no_module_here:f", "No module named 'no_module_here'"),
        ("tasks_of_mine", "cannot be imported"),
        ("tasks_of_mine:of_torchrl", "returned a GymEnv, not a gymnasium.Env"),
        ("tasks_of_mine:of_a_size", "without arguments: missing.*'size'.*needs none"),
    ],
)
def test_entry_points_that_do_not_fit_are_named(entry_point, reason, module):
    with pytest.raises(ConfigError, match=reason):
        make_env("mine", entry_point=entry_point)


def test_a_function_under_the_name_of_a_registered_task_is_warned_of(module):
    with pytest.warns(UserWarning, match="'Hopper-v5' is that of a registered.*env.name=mine"):
        make_task("Hopper-v5", entry_point="tasks_of_mine:hopper")
