"""Goal GAN with recall traces: TRPO to goals of the right difficulty (Sec. 6.3, Alg. 2).

python recipes/goal_gan_recall.py env=point_free4 recall=backtracking seed=0
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:
    from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig


def train(config: GoalGANRecallConfig) -> int:
    """Run the recipe; see ``config/goal_gan/goal_gan_recall.yaml``.

    Returns:
        The exit status: zero when finished, 128 + n when stopped by signal n.
    """
    # Imported here, so that --help answers at once.
    import torch
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import Recall
    from torchrl_recall.data.buffer_state import BufferState
    from torchrl_recall.trainers.runs import process
    from torchrl_recall.trainers.runs.run import Run, settle_compilation
    from torchrl_recall.trainers.tasks.collectors import write
    from torchrl_recall.trainers.tasks.coverage import Coverage, coverage_goals
    from torchrl_recall.trainers.tasks.goals import (
        GoalCollector,
        make_curriculum,
        make_goal_env,
        make_host,
        make_recall,
        success_rates,
    )
    from torchrl_recall.trainers.tasks.gym import executed

    process.quiet()
    settle_compilation(config, worth_frames=5_000_000)
    device = process.resolve_device(config.device)
    torch.set_num_threads(config.torch_threads)
    torch.manual_seed(config.seed)
    env = make_goal_env(config, config.num_goals * config.collector.num_rollouts)
    host = make_host(env, config, device)
    curriculum = make_curriculum(env, config, device)
    replay_buffer = ReplayBuffer(
        storage=LazyTensorStorage(config.replay_buffer.size, device=device), batch_size=1
    )
    recall = make_recall(env, config, host, curriculum, device, replay_buffer)
    collector = GoalCollector(
        env,
        host.actor,
        num_rollouts=config.collector.num_rollouts,
        num_steps=config.env.max_steps,
    )
    goals = coverage_goals(env, config.eval.num_goals)
    coverage = Coverage(
        make_goal_env(config, len(goals)), host.actor, goals, target=config.eval.target
    )
    run = Run(
        Path(config.run_dir),
        config,
        collector=collector,
        parts={
            "host": host,
            "curriculum": curriculum,
            "recall": recall,
            "replay_buffer": BufferState(replay_buffer),
            "coverage": coverage,
        },
        modules=[host.loss_module, *([recall.model] if isinstance(recall, Recall) else [])],
        about={"env": config.env.name, "seed": config.seed},
    )
    with run:
        if not run.frames:  # states of the first policy are goals that it can reach
            visited = collector.collect(curriculum.gan.uniform(config.num_goals))
            curriculum.pretrain(env.goal_of_state(visited["next", "observation"]).flatten(0, -2))
            run.advance(visited.numel())
        while run.frames < config.collector.total_frames:
            goals = curriculum.propose()  # Alg. 2, l.2
            for _ in range(config.collector.num_batches):  # Alg. 1, l.4
                data = collector.collect(goals)
                if recall is not None:
                    seen = executed(env, data)
                    write(replay_buffer, seen)  # l.5
                    recall.extend(seen)
                    recall.drop_unfinished()
                run.metrics |= host.update(data)  # l.6-7
                if recall is not None:
                    run.metrics |= recall.step(replay_buffer)  # l.8-13, Alg. 2, l.3
                run.advance(data.numel())
            run.metrics |= curriculum.update(goals, success_rates(data, len(goals)))
            if run.due(config.eval.interval):
                run.log([coverage(run.frames)])
                if config.eval.stop_at_target and coverage.frames_to_target() is not None:
                    run.end()
                    break
            if run.stopped:
                return run.save_and_stop()
            if run.due(config.checkpoint.interval):
                run.save()
        coverage.write(run.run_dir)
        run.finish(frames_to_target=coverage.frames_to_target())
    return 0


@hydra.main(
    version_base="1.3",
    config_path=str(Path(__file__).parent / "config" / "goal_gan"),
    config_name="goal_gan_recall",
)
def main(cfg: DictConfig) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig

    sys.exit(launch(train, cfg, GoalGANRecallConfig))


if __name__ == "__main__":
    main()
