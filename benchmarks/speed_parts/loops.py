"""Loops of the recipes, by their own ``build`` and ``learn``, against peers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from bare_sac import BareSAC
from cleanrl_sac import CleanRLSAC
from hydra import compose, initialize_config_dir
from torchrl_sac import TorchRLSAC

from recipes import goal_gan_recall, sac_recall, trpo_recall
from speed_parts.measure import Contestants, Rows, measure
from torchrl_recall.trainers.schema import (
    GoalGANRecallConfig,
    PPORecallConfig,
    SACRecallConfig,
    TRPORecallConfig,
    validate,
)
from torchrl_recall.trainers.tasks.gym import check_finite

__all__ = ["TASK", "Loop", "configure", "hosts", "loop", "on_policy"]

TASK = "HalfCheetah-v5"
CPU = torch.device("cpu")
CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "config"
SCHEMAS: dict[str, Any] = {
    "sac/sac_recall": SACRecallConfig,
    "on_policy/trpo_recall": TRPORecallConfig,
    "on_policy/ppo_recall": PPORecallConfig,
    "goal_gan/goal_gan_recall": GoalGANRecallConfig,
}
RECIPES: dict[str, Any] = {
    "sac/sac_recall": sac_recall,
    "on_policy/trpo_recall": trpo_recall,
    "on_policy/ppo_recall": trpo_recall,
    "goal_gan/goal_gan_recall": goal_gan_recall,
}


def configure(name: str, *overrides: str) -> Any:
    """Compose a recipe's configuration, such as that of ``sac/sac_recall``."""
    path = CONFIG / name
    with initialize_config_dir(config_dir=str(path.parent), version_base="1.3"):
        return validate(compose(path.name, list(overrides)), SCHEMAS[name])


class Loop:
    """The loop of a recipe without evaluation, log and checkpoints.

    Args:
        name: name of the recipe's configuration.
        overrides: overrides of the configuration.
        device: device of the networks.
    """

    def __init__(self, name: str, *overrides: str, device: torch.device = CPU) -> None:
        self.config, self.recipe = configure(name, *overrides), RECIPES[name]
        torch.manual_seed(0)
        self.parts = self.recipe.build(self.config, device)
        self.frames = 0
        if hasattr(self.parts, "pretrain"):
            self.frames += self.parts.pretrain(self.config.num_goals)
        self.batches = iter(self.parts.collector)

    def run(self, num_batches: int = 1) -> None:
        """Collect batches of frames and learn from each."""
        for _ in range(num_batches):
            data = next(self.batches)
            check_finite(data, env_name=self.parts.name, frames=self.frames)
            self.recipe.learn(self.parts, data, self.config, self.frames)
            self.frames += data.numel()


def peer(module: str, device: torch.device) -> Any:
    """Make SAC of Stable-Baselines3 or SBX; None if it is not installed."""
    try:
        library = importlib.import_module(module)
    except ImportError:
        print(f"{module} is not installed and is left out; it is in the extra 'peers'")
        return None
    where = {"device": device} if module == "stable_baselines3" else {}
    task = gymnasium.make(TASK)
    sizes = {"learning_starts": 1_000, "buffer_size": 1_000_000}
    return library.SAC("MlpPolicy", task, **sizes, seed=0, **where)


def loop(rounds: int, steps: int, device: torch.device = CPU) -> Rows:
    """Measure whole SAC steps; SBX uses the device that JAX finds."""
    ours = partial(Loop, "sac/sac_recall", f"env.name={TASK}", device=device)
    contestants: dict[str, Callable[[int], object]] = {
        "recall=none": ours("recall=none", "compile=true").run,
        "recall=none, highest": ours("recall=none", "compile=true").run,
        "recall=none, eager": ours("recall=none", "compile=false").run,
        "recall=backtracking": ours("recall=backtracking", "compile=true").run,
        "recall=imitation": ours("recall=imitation", "compile=true").run,
        "bare loop": BareSAC(TASK, device=device).run,
        "CleanRL": CleanRLSAC(TASK, device=device).run,
        "TorchRL example": TorchRLSAC(TASK, device=device).run,
    }
    for name, module in (("SB3", "stable_baselines3"), ("SBX", "sbx")):
        if (model := peer(module, device)) is not None:
            contestants[name] = partial(
                model.learn, reset_num_timesteps=False, log_interval=1_000_000
            )
    # The peers at PyTorch's default precision, as they are published.
    highest = ("recall=none, highest", "CleanRL", "SB3", "TorchRL example")

    def call(name: str, n: int) -> None:
        torch.set_float32_matmul_precision("highest" if name in highest else "medium")
        contestants[name](n)

    for name in contestants:
        call(name, 2_400)  # random frames, compilation and the first rounds of recall
    rows = measure(
        "loop", {name: partial(call, name, steps) for name in contestants}, rounds, per=steps
    )
    torch.set_float32_matmul_precision("medium")
    return rows


def hosts(rounds: int, steps: int) -> Rows:
    """Measure whole steps of TD3 and CrossQ, at their published sizes, against SBX's."""
    contestants: dict[str, Callable[[int], object]] = {}
    for host, name in (("td3", "TD3"), ("crossq", "CrossQ")):
        words = (
            f"env.name={TASK}",
            f"host={host}",
            "recall=none",
            "collector.init_random_frames=500",
        )
        for compile in ("true", "false"):
            label = name if compile == "true" else f"{name}, eager"
            contestants[label] = Loop("sac/sac_recall", *words, f"compile={compile}").run
        try:
            from sb3_peer import make_peer

            model: Any = make_peer(host, gymnasium.make(TASK), seed=0, library="sbx")
        except ImportError:
            print("sbx is not installed and is left out; it is in the extra 'peers'")
            continue
        model.learning_starts = 500
        contestants[f"{name}, SBX"] = partial(
            model.learn, reset_num_timesteps=False, log_interval=1_000_000
        )
    for function in contestants.values():
        function(520)  # random frames and compilation
    return measure(
        "hosts", {name: partial(f, steps) for name, f in contestants.items()}, rounds, per=steps
    )


def on_policy(rounds: int) -> Rows:
    """Measure TRPO and PPO: an update and the 2,048 steps it learns from."""
    overrides = f"env.name={TASK}", "compile=true"
    contestants: Contestants = {
        f"{host.upper()}, recall={recall}": Loop(
            f"on_policy/{host}_recall", *overrides, f"recall={recall}"
        ).run
        for host in ("trpo", "ppo")
        for recall in ("none", "backtracking")
    }
    num_steps = 2_048
    try:
        from sb3_peer import make_peer
    except ImportError:
        print("sb3_contrib is not installed and is left out; it is in the extra 'peers'")
    else:
        for name, algorithm in (("sb3-contrib TRPO", "trpo"), ("SB3 PPO", "ppo")):
            model = make_peer(algorithm, gymnasium.make(TASK), seed=0)
            contestants[name] = partial(
                model.learn, num_steps, reset_num_timesteps=False, log_interval=1_000_000
            )
    torch.set_float32_matmul_precision("highest")
    for function in contestants.values():
        for _ in range(3):  # compilation and the first rounds of recall
            function()
    rows = measure("on_policy", contestants, rounds, calls=2, per=num_steps)
    torch.set_float32_matmul_precision("medium")
    return rows
