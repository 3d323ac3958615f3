"""Share tiny runs of every recipe, with the parts that trained in them."""

from __future__ import annotations

import os
from pathlib import Path

import goal_fixtures
import on_policy_fixtures
import recipe_fixtures
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES, process_state_kept
from tensordict import TensorDict

from torchrl_recall.recipes import dqn_recall, goal_gan_recall, sac_recall, trpo_recall
from torchrl_recall.trainers.schema import DQNRecallConfig, validate

_PENDULUM = {"env__name": "Pendulum-v1"}
_DQN = [
    "compile=false", "collector.total_frames=256", "collector.frames_per_batch=64",
    "collector.init_random_frames=128", "dqn.num_cells=[16,16]", "dqn.num_updates=4",
    "eval.interval=128", "eval.num_episodes=2", "eval.max_steps=200", "logger.backend=none",
    "recall.num_updates=2", "recall.batch_size=16", "recall.num_high_value_states=4",
    "recall.state_batch_size=64", "recall.num_traces=1", "env.trace_length=5",
    "backtracking.num_cells=[16,16]", "backtracking.num_updates=2", "replay_buffer.batch_size=16",
]  # fmt: skip
_OTHER_HOSTS = {
    "td3": {"td3__num_cells": "[16,16]"},
    "redq": {"redq__num_cells": "[16,16]", "redq__num_updates": 2, "redq__num_qvalue_nets": 3},
    "crossq": {"crossq__num_cells": "[16,16]", "crossq__critic_num_cells": "[16,16]"},
}


def _sac(**changes):
    words = recipe_fixtures.tiny(changes.pop("recall", "backtracking"), **_PENDULUM | changes)
    return sac_recall, lambda run: recipe_fixtures.configure([*words, run])


def _dqn(*words: str):
    def configure(run: str):
        path = str(RECIPES / "config" / "dqn")
        with initialize_config_dir(config_dir=path, version_base="1.3"):
            return validate(compose("dqn_recall", [*_DQN, *words, run]), DQNRecallConfig)

    return dqn_recall, configure


def _on_policy(host: str):
    words = on_policy_fixtures.tiny(host, compile="false", **_PENDULUM)
    return trpo_recall, lambda run: on_policy_fixtures.configure(host, [*words, run])


def _goals(**changes):
    words = goal_fixtures.tiny(changes.pop("recall", "backtracking"), **changes)
    return goal_gan_recall, lambda run: goal_fixtures.configure([*words, run])


KINDS = {
    "sac": _sac(eval__num_episodes=3, seed=4),
    **{host: _sac(host=host, **changes) for host, changes in _OTHER_HOSTS.items()},
    "none": _sac(recall="none", collector__total_frames=80, sac__n_step=3),
    "hopper": _sac(
        env__name="Hopper-v5", backtracking__num_models=2, backtracking__standardize="false"
    ),
    "sparse": _sac(
        env__name="pendulum_swingup",
        recall__end_states="reward",
        eval__num_episodes=2,
        backtracking__joint="true",
    ),
    "dqn": _dqn("env.name=CartPole-v1"),
    "four_rooms": _dqn("env.name=torchrl_recall/FourRooms-v0"),
    "trpo": _on_policy("trpo"),
    "ppo": _on_policy("ppo"),
    "goal_gan": _goals(),
    "hindsight_sac": _goals(
        host="hindsight_sac", recall="none", sac__num_updates=2, sac__num_cells="[8,8]"
    ),
}


class Runs:
    """Folders and parts of tiny runs, each made at its first use."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}

    def __call__(self, kind: str):
        """Return the folder of a run, and the run itself."""
        if kind not in self.made:
            recipe, configure = KINDS[kind]
            run_dir = self.folder / kind
            with process_state_kept():
                os.chdir(self.folder)
                self.made[kind] = run_dir, recipe.train(configure(f"run_dir='{run_dir}'"))
        return self.made[kind]


def inputs(run, num: int = 7) -> TensorDict:
    """Random states of a run's task, and goals where it has some."""
    spec = run.parts.env.observation_spec_unbatched
    keys = run.parts.host.actor.in_keys
    return TensorDict({key: torch.randn(num, spec[key].shape[-1]) for key in keys}, [num])
