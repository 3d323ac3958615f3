"""Stable-Baselines3's SAC with the hyper-parameters of ``recipes/config/sac_recall.yaml``.

One process per run; rows are appended as they come, and a finished run is not repeated::

    python benchmarks/peers/sb3_sac.py --env Hopper-v5 --seed 0 --out runs/host_check

Needs the extra ``peers``.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy


def main() -> None:
    """Train one seed and write its evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--eval-interval", type=int, default=5_000)
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/host_check"))
    args = parser.parse_args()

    run_dir = args.out / f"{args.env}_sb3_{args.seed}"
    done = run_dir / "metrics.csv"
    if done.exists():
        print(f"{done} exists, nothing to do")
        return
    run_dir.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    env = gymnasium.make(args.env)
    eval_env = gymnasium.make(args.env)
    eval_env.reset(seed=args.seed + 1_000_000)
    model = SAC(
        "MlpPolicy",
        env,
        learning_rate=3e-4,
        buffer_size=1_000_000,
        learning_starts=1_000,
        batch_size=256,
        tau=0.005,
        gamma=0.99,
        train_freq=1,
        gradient_steps=1,
        ent_coef="auto",
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        device="cpu",
    )
    partial = run_dir / "metrics.csv.partial"
    start = time.perf_counter()
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frames", "wall_seconds", "eval_return"])
        for frames in range(args.eval_interval, args.frames + 1, args.eval_interval):
            model.learn(args.eval_interval, reset_num_timesteps=False, log_interval=1_000_000)
            returns, _ = evaluate_policy(
                model,
                eval_env,
                n_eval_episodes=args.eval_episodes,
                return_episode_rewards=True,
                warn=False,
            )
            mean = float(np.mean(returns))
            writer.writerow([frames, round(time.perf_counter() - start, 1), mean])
            file.flush()
            print(args.env, args.seed, frames, mean, flush=True)
    partial.rename(done)


if __name__ == "__main__":
    main()
