"""Share, among the recipe tests, tiny runs, small real environments and altered checkpoints."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from hydra import compose, initialize_config_dir

from torchrl_recall.trainers.runs import checkpoints
from torchrl_recall.trainers.schema import SACRecallConfig, validate

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SCRIPT = RECIPES / "sac_recall.py"
RECALLS = sorted(  # but for cloning, which needs demonstrations
    {path.stem for path in (RECIPES / "config" / "sac" / "recall").glob("*.yaml")} - {"cloning"}
)

# A run that exercises everything, in some seconds.
TINY = {
    "compile": "false",
    "collector.total_frames": 160,
    "collector.init_random_frames": 60,
    "replay_buffer.size": 1000,
    "replay_buffer.batch_size": 16,
    "sac.num_cells": "[16,16]",
    "eval.interval": 80,
    "eval.num_episodes": 1,
    "checkpoint.interval": 40,
    "checkpoint.keep": 20,
    "logger.backend": "none",
    "recall.interval": 10,
    "recall.num_updates": 2,
    "recall.batch_size": 16,
    "recall.num_high_value_states": 4,
    "recall.state_batch_size": 64,
    "recall.trace_length": 5,
    "recall.anneal_frames": 1000,
    "backtracking.num_cells": "[16,16]",
    "backtracking.num_updates": 2,
    "backtracking.buffer_size": 5000,
}


def tiny(recall: str = "backtracking", **changes) -> list[str]:
    """Overrides of a tiny run; dots in the keys of ``changes`` are double underscores."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    if recall == "random_model":
        values["backtracking.num_updates"] = 0
    return [f"recall={recall}"] + [f"{key}={value}" for key, value in values.items()]


def compose_config(overrides: list[str]):
    with initialize_config_dir(config_dir=str(RECIPES / "config" / "sac"), version_base="1.3"):
        return compose("sac_recall", overrides)


def configure(overrides: list[str]) -> SACRecallConfig:
    return validate(compose_config(overrides), SACRecallConfig)


@contextmanager
def process_state_kept():
    """Put back what a run sets for the whole process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    folder = Path.cwd()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(run_dir: Path, overrides: list[str]) -> int:
    """Run the recipe in this process; MuJoCo's log stays out of the working directory."""
    from torchrl_recall.recipes.sac_recall import train as recipe

    config = configure([*overrides, f"run_dir='{run_dir}'"])
    with process_state_kept():
        os.chdir(run_dir.parent)
        return recipe(config).status


def command(*overrides: str, run_dir: Path | None = None) -> list[str]:
    run = [] if run_dir is None else [f"run_dir={run_dir}"]
    return [sys.executable, str(SCRIPT), *overrides, *run]


def shell(words: list[str], cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=cwd, env=one_thread(), capture_output=True, text=True, timeout=120, **kwargs
    )


def one_thread() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def sha256(run_dir: Path) -> str:
    return summary(run_dir)["weights_sha256"]


def metrics(run_dir: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the column that no two runs share."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["wall_seconds"]
    return rows


def checkpoint_frames(run_dir: Path) -> list[int]:
    folder = run_dir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def stopped_copy(source: Path, target: Path, frames: int) -> Path:
    """A run folder as it was right after the checkpoint at ``frames``."""
    shutil.copytree(
        source / "checkpoints" / f"{frames:012d}", target / "checkpoints" / f"{frames:012d}"
    )
    shutil.copy(source / "metrics.csv", target / "metrics.csv")
    return target


def load(run_dir: Path) -> tuple[int, dict]:
    found = checkpoints.load_latest(run_dir / "checkpoints")
    assert found is not None
    return found


class Faulty(gymnasium.Wrapper):
    """A task that goes wrong once, at the step and in the way that ``fault`` says."""

    fault: dict = {}  # noqa: RUF012

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.steps = self.resets = 0

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        self.resets += 1
        if self.fault.get("reset") == self.resets:
            observation = np.full_like(observation, np.nan)
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.fault.get("step") == self.steps:
            if "signal" in self.fault:
                os.kill(os.getpid(), self.fault["signal"])
            if self.fault.get("observation"):
                observation = np.full_like(observation, self.fault["observation"])
            if self.fault.get("reward"):
                reward = self.fault["reward"]
        return observation, reward, terminated, truncated, info


class Box2(gymnasium.Env):
    """Does nothing: the observation is zero, the reward is zero, an episode takes five steps."""

    def __init__(self, observation_space, action_space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def _observe(self):
        space = self.observation_space
        if isinstance(space, Dict):
            return {key: np.zeros(box.shape, box.dtype) for key, box in space.items()}
        return np.zeros(space.shape, space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), 0.0, False, self.steps >= 5, {}


VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
ACTION = Box(-1.0, 1.0, (2,), np.float32)
REFUSED = {
    "RecipeUnbounded-v0": (VECTOR, Box(-np.inf, np.inf, (2,), np.float32)),
    "RecipeHalfBounded-v0": (
        VECTOR,
        Box(np.array([-1, -np.inf]), np.array([1, 1]), dtype=np.float64),
    ),
    "RecipeZeroWidth-v0": (
        VECTOR,
        Box(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), dtype=np.float64),
    ),
    "RecipeDict-v0": (Dict(position=VECTOR, goal=VECTOR), ACTION),
    "RecipePixels-v0": (Box(0, 255, (64, 64, 3), np.uint8), ACTION),
    "RecipeFloatImage-v0": (Box(0, 1, (40, 40), np.float32), ACTION),
    "RecipeMatrixAction-v0": (VECTOR, Box(-1.0, 1.0, (2, 2), np.float32)),
    "RecipeIntegers-v0": (Box(0, 9, (3,), np.int64), ACTION),
    "RecipeMultiDiscrete-v0": (VECTOR, gymnasium.spaces.MultiDiscrete([2, 3])),
    "RecipeDictAction-v0": (VECTOR, Dict(left=ACTION, right=ACTION)),
}


def _register(name: str, entry_point, **kwargs) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point, **kwargs)


for _name, _spaces in REFUSED.items():
    _register(_name, lambda spaces=_spaces, **kwargs: Box2(*spaces))


class Unsaved(gymnasium.Wrapper):
    """A task with a part that no checkpoint holds."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.part = iter([])


_register("RecipeUnsaved-v0", lambda **kwargs: Unsaved(gymnasium.make("Pendulum-v1")))
_register("RecipeUnsavedHopper-v0", lambda **kwargs: Unsaved(gymnasium.make("Hopper-v5")))
_register("RecipeFaulty-v0", lambda **kwargs: Faulty(gymnasium.make("Hopper-v5")))


def short(name: str) -> str:
    """The same task with a time limit of 50 steps, so that sixty steps cross a reset."""
    spec = gymnasium.spec(name)
    _register(
        f"Short{name}",
        spec.entry_point,
        max_episode_steps=50,
        reward_threshold=spec.reward_threshold,
    )
    return f"Short{name}"
