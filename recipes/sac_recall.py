"""SAC with recall traces (Goyal et al., ICLR 2019, Sec. 6.5).

python recipes/sac_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:
    from torchrl_recall.trainers.schema.sac import SACRecallConfig


def train(config: SACRecallConfig) -> int:
    """Run the recipe; see ``config/sac_recall.yaml``.

    Returns:
        The exit status: zero when finished, 128 + n when stopped by signal n.
    """
    # Imported here, so that --help answers at once.
    import torch
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.envs import ExplorationType

    from torchrl_recall import Recall
    from torchrl_recall.data.buffer_state import BufferState
    from torchrl_recall.trainers.hosts.sac import make_recall, make_sac
    from torchrl_recall.trainers.runs import process
    from torchrl_recall.trainers.runs.profile import profile_run
    from torchrl_recall.trainers.runs.run import Run, settle_compilation
    from torchrl_recall.trainers.tasks.collectors import make_collector, make_policy, write
    from torchrl_recall.trainers.tasks.gym import check_finite, evaluate, make_env

    process.quiet()
    settle_compilation(config)
    device = process.resolve_device(config.device)
    torch.set_num_threads(config.torch_threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.manual_seed(config.seed)
    env, eval_env = (make_env(config.env.name, device) for _ in range(2))
    env.set_seed(config.seed)
    sac = make_sac(env, config, device)
    recall = make_recall(env, config, sac, device)
    replay_buffer = ReplayBuffer(
        storage=LazyTensorStorage(config.replay_buffer.size, device=device),
        batch_size=config.replay_buffer.batch_size,
    )
    collector = make_collector(
        env, sac.actor, config, device, init_random_frames=config.collector.init_random_frames
    )
    eval_policy = make_policy(
        sac.actor, ExplorationType.DETERMINISTIC, compile=bool(config.compile)
    )
    run = Run(
        Path(config.run_dir),
        config,
        collector=collector,
        parts={"sac": sac, "recall": recall, "replay_buffer": BufferState(replay_buffer)},
        modules=[sac.loss_module, *([recall.model] if isinstance(recall, Recall) else [])],
        about={"env": config.env.name, "seed": config.seed},
    )
    with run:
        parts = (collector, replay_buffer, sac, recall)
        profile = profile_run(run, *parts) if config.profile else None
        for data in collector:  # Alg. 1, l.4
            check_finite(data, env_name=config.env.name, frames=run.frames)
            write(replay_buffer, data)  # l.5
            if recall is not None:
                recall.extend(data)
            if run.frames >= config.collector.init_random_frames:
                for _ in range(config.sac.num_updates * data.numel()):
                    run.metrics |= sac.update(replay_buffer.sample())  # l.6-7
                if recall is not None:
                    run.metrics |= recall.step(replay_buffer)  # l.8-13
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
        if profile is not None:
            print(f"\n{profile.table()}")
    return 0


@hydra.main(
    version_base="1.3",
    config_path=str(Path(__file__).parent / "config" / "sac"),
    config_name="sac_recall",
)
def main(cfg: DictConfig) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema.sac import SACRecallConfig

    sys.exit(launch(train, cfg, SACRecallConfig))


if __name__ == "__main__":
    main()
