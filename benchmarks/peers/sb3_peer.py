"""Algorithms of Stable-Baselines3 and SBX with the hyper-parameters of ``recipes/config``.

One process per run; rows are appended as they come, and a finished run is not repeated::

    python benchmarks/peers/sb3_peer.py --algorithm sac --env Hopper-v5 --run-dir runs/sb3

Needs the extra ``peers``.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from omegaconf import OmegaConf
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from torchrl_recall.trainers.runs.atomic import atomic_file, write_text


def make_peer(
    algorithm: str, env: gymnasium.Env, seed: int, *, library: str = "stable_baselines3"
) -> BaseAlgorithm:
    """Make an agent with the settings of the recipe's host of that name.

    Args:
        algorithm: ``sac``, ``td3``, ``crossq``, ``ppo`` or ``trpo``.
        env: environment of the agent.
        seed: seed of the agent.

    Keyword Args:
        library: ``stable_baselines3``, or ``sbx``, which is the same in JAX.

    Returns:
        The agent.
    """
    common: dict[str, Any] = {"env": env, "seed": seed, "device": "cpu"}
    if algorithm in ("sac", "td3", "crossq"):
        name = "CrossQ" if algorithm == "crossq" else algorithm.upper()
        if library == "stable_baselines3" and algorithm == "crossq":
            library = "sb3_contrib"
        kind = getattr(importlib.import_module(library), name)
        common |= {
            "learning_rate": 3e-4,
            "buffer_size": 1_000_000,
            "learning_starts": 1_000,
            "batch_size": 256,
            "gamma": 0.99,
            "train_freq": 1,
            "gradient_steps": 1,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
        if algorithm == "crossq":
            common |= {"learning_rate": 1e-3, "learning_starts": 5_000}
            widths = {"pi": [256, 256], "qf": [2048, 2048]}
            return kind("MlpPolicy", **common | {"policy_kwargs": {"net_arch": widths}})
        if algorithm == "td3":
            assert isinstance(env.action_space, gymnasium.spaces.Box)
            zeros = np.zeros(env.action_space.shape)
            common["action_noise"] = NormalActionNoise(zeros, zeros + 0.1)
        return kind("MlpPolicy", tau=0.005, **common)
    on_policy = {"n_steps": 2_048, "gamma": 0.99, "gae_lambda": 0.95, **common}
    on_policy["policy_kwargs"] = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}
    if algorithm == "ppo":
        return PPO(
            "MlpPolicy",
            learning_rate=3e-4,
            batch_size=64,
            n_epochs=10,
            clip_range=0.2,
            ent_coef=0.0,
            vf_coef=0.5,
            max_grad_norm=0.5,
            **on_policy,
        )
    # It averages the divergence over the dimensions of an action, where ours is their sum.
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    action_dim = env.action_space.shape[0]
    return TRPO(
        "MlpPolicy",
        learning_rate=1e-3,
        batch_size=128,
        cg_max_steps=15,
        cg_damping=0.1 / action_dim,
        line_search_shrinking_factor=0.8,
        line_search_max_iter=10,
        n_critic_updates=10,
        target_kl=0.06 / action_dim,
        sub_sampling_factor=1,
        **on_policy,
    )


def main() -> None:
    """Train one seed and write its evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--algorithm", choices=["sac", "td3", "crossq", "ppo", "trpo"], default="sac"
    )
    parser.add_argument(
        "--library", choices=["stable_baselines3", "sbx"], default="stable_baselines3"
    )
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--eval-interval", type=int, default=5_000)
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()

    done = args.run_dir / "metrics.csv"
    if done.exists():
        print(f"{done} exists, nothing to do")
        return
    args.run_dir.mkdir(parents=True, exist_ok=True)
    recall = {"stable_baselines3": "sb3", "sbx": "sbx"}[args.library]
    config = {  # what `python -m torchrl_recall.collect` reads
        "seed": args.seed,
        "host": args.algorithm,
        "env": {"name": args.env},
        "collector": {"total_frames": args.frames},
        "recall": {"name": recall},
        "eval": {"interval": args.eval_interval, "num_episodes": args.eval_episodes},
    }
    write_text(args.run_dir / "config.yaml", OmegaConf.to_yaml(config))

    torch.set_num_threads(1)
    if args.algorithm == "sac":
        torch.set_float32_matmul_precision("medium")
    eval_env = gymnasium.make(args.env)
    eval_env.reset(seed=args.seed + 1_000_000)
    model = make_peer(args.algorithm, gymnasium.make(args.env), args.seed, library=args.library)
    start = time.perf_counter()
    with atomic_file(done) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frames", "wall_seconds", "eval_return"])
        while model.num_timesteps < args.frames:
            # To the next multiple: rollouts of 2,048 steps pass it a little further each time.
            due = (model.num_timesteps // args.eval_interval + 1) * args.eval_interval
            left = min(due, args.frames) - model.num_timesteps
            model.learn(left, reset_num_timesteps=False, log_interval=1_000_000)
            returns, _ = evaluate_policy(
                model,
                eval_env,
                n_eval_episodes=args.eval_episodes,
                return_episode_rewards=True,
                warn=False,
            )
            mean = float(np.mean(returns))
            writer.writerow([model.num_timesteps, round(time.perf_counter() - start, 1), mean])
            file.flush()
            print(args.env, args.seed, model.num_timesteps, mean, flush=True)
    write_text(args.run_dir / "summary.json", json.dumps({"frames": model.num_timesteps}) + "\n")


if __name__ == "__main__":
    main()
