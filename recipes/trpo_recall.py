"""TRPO with recall traces (Goyal et al., ICLR 2019, Sec. 6.4).

python recipes/trpo_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:
    from torchrl_recall.trainers.schema.on_policy import OnPolicyRecallConfig


def train(config: OnPolicyRecallConfig) -> int:
    """Run the recipe; see ``config/on_policy/trpo_recall.yaml``.

    ``ppo_recall.py`` runs this loop too, with PPO as its host.

    Returns:
        The exit status: zero when finished, 128 + n when stopped by signal n.
    """
    # Imported here, so that --help answers at once.
    import torch
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.envs import ExplorationType

    from torchrl_recall import Recall
    from torchrl_recall.data.buffer_state import BufferState
    from torchrl_recall.optim.natural_gradient import kl_divergence
    from torchrl_recall.trainers.hosts.on_policy import make_host, make_recall
    from torchrl_recall.trainers.runs import process
    from torchrl_recall.trainers.runs.run import Run, settle_compilation
    from torchrl_recall.trainers.tasks.collectors import make_collector, make_policy, write
    from torchrl_recall.trainers.tasks.gym import check_finite, evaluate, executed, make_env

    process.quiet()
    settle_compilation(config, worth_frames=50_000)
    device = process.resolve_device(config.device)
    torch.set_num_threads(config.torch_threads)
    torch.manual_seed(config.seed)
    env, eval_env = (make_env(config.env.name, device, clip_actions=True) for _ in range(2))
    env.set_seed(config.seed)
    host = make_host(env, config, device)
    recall = make_recall(env, config, host, device)
    replay_buffer = ReplayBuffer(
        storage=LazyTensorStorage(config.replay_buffer.size, device=device), batch_size=1
    )
    collector = make_collector(env, host.actor, config, device, clip_actions=True)
    eval_policy = make_policy(
        host.actor, ExplorationType.DETERMINISTIC, compile=bool(config.compile)
    )
    run = Run(
        Path(config.run_dir),
        config,
        collector=collector,
        parts={"host": host, "recall": recall, "replay_buffer": BufferState(replay_buffer)},
        modules=[host.loss_module, *([recall.model] if isinstance(recall, Recall) else [])],
        about={"env": config.env.name, "seed": config.seed},
    )
    with run:
        for data in collector:  # Alg. 1, l.4
            check_finite(data, env_name=config.env.name, frames=run.frames)
            if recall is not None:
                seen = executed(env, data)
                write(replay_buffer, seen)  # l.5
                recall.extend(seen)
            run.metrics |= host.update(data)  # l.6-7
            if recall is not None:
                before = host.policy_on(data)
                if metrics := recall.step(replay_buffer):  # l.8-13
                    moved = kl_divergence(before, host.policy_on(data)).mean()
                    run.metrics |= metrics | {"recall/kl_spent": moved}
            run.advance(data.numel())
            if run.due(config.eval.interval):
                returns = evaluate(
                    eval_env,
                    eval_policy,
                    num_episodes=config.eval.num_episodes,
                    seed=config.seed + 1_000_000,
                )
                run.log(returns)
            if run.stopped:
                return run.save_and_stop()
            if run.due(config.checkpoint.interval):
                run.save()
        run.finish()
    return 0


@hydra.main(
    version_base="1.3",
    config_path=str(Path(__file__).parent / "config" / "on_policy"),
    config_name="trpo_recall",
)
def main(cfg: DictConfig) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema.on_policy import TRPORecallConfig

    sys.exit(launch(train, cfg, TRPORecallConfig))


if __name__ == "__main__":
    main()
