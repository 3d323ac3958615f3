"""Goal GAN with recall traces: TRPO to goals of the right difficulty (Sec. 6.3, Alg. 2).

python recipes/goal_gan_recall.py env=point_free4 recall=backtracking seed=0
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import GoalGANRecallConfig
    from torchrl_recall.trainers.tasks.goals import GoalParts


def build(config: GoalGANRecallConfig, device: torch.device) -> GoalParts:
    """Compose the recipe's parts."""
    from functools import partial

    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import (
        GoalGANStates,
        HindsightGoal,
        ImitationLoss,
        NearVisited,
    )
    from torchrl_recall.optim.batches import Draws
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_recall import build_recall, model_class
    from torchrl_recall.trainers.hosts.hindsight_sac import HindsightSAC
    from torchrl_recall.trainers.hosts.on_policy import TRPO
    from torchrl_recall.trainers.tasks.coverage import Coverage, coverage_goals
    from torchrl_recall.trainers.tasks.devices import any_device
    from torchrl_recall.trainers.tasks.goals import (
        GoalCollector,
        GoalParts,
        make_curriculum,
        make_goal_env,
    )

    env = make_goal_env(config, config.num_goals * config.collector.num_rollouts)
    host = (TRPO if config.host == "trpo" else HindsightSAC)(env, config, device)
    curriculum = make_curriculum(env, config, device)  # Goal GAN
    storage = LazyTensorStorage(config.replay_buffer.size, device=device)
    replay_buffer = ReplayBuffer(storage=storage, batch_size=1)
    goal_of_state = any_device(env, env.goal_of_state)
    relabel: list = [HindsightGoal(goal_of_state)]
    if (radius := config.recall.support_radius) is not None:
        visited = partial(Draws().candidates, replay_buffer, config.recall.state_batch_size)
        relabel.append(NearVisited(lambda: visited()["observation"], radius, project=goal_of_state))
    states = GoalGANStates(  # Alg. 2, l.2 and 3: goals of the GAN, decoded
        curriculum,
        config.recall.num_high_value_states,
        goal_decoder=any_device(env, env.state_of_goal),
        is_valid=any_device(env, env.is_valid),
    )
    specs = env.observation_spec_unbatched, env.action_spec_unbatched
    recall = build_recall(  # or the control that `recall=` names
        config,
        partial(model_class(config.backtracking).from_specs, *specs),  # Eq. 1
        ImitationLoss(host.actor),  # Eq. 3, towards the goal that a trace reaches
        high_value_states=states,
        critic=host.critic,
        interval=config.frames_per_batch,
        longest_episode=config.env.max_steps,
        relabel=relabel,
    )
    collector = GoalCollector(env, host.actor, curriculum, config)
    goals = coverage_goals(env, config.eval.num_goals)
    coverage = Coverage(make_goal_env(config, len(goals)), host.actor, goals, config)
    return GoalParts(
        config.env.name,
        env,
        collector,
        replay_buffer,
        host,
        recall,
        coverage,
        more={"curriculum": curriculum},
        audit=build_audit(config.recall.audit, recall, env),
    )


def learn(
    parts: GoalParts, data: TensorDictBase, config: GoalGANRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Learn from a batch of episodes (Alg. 1, lines 5 to 13), and propose new goals (Alg. 2)."""
    executed = parts.clip_actions(data)
    parts.add_frames(executed)  # l.5
    parts.recall.extend(executed)  # l.5, the trajectories that reached their goals
    parts.recall.drop_unfinished()
    metrics = parts.host.update(data)  # l.6-7
    metrics |= parts.recall.step(parts.replay_buffer)  # l.8-13, Alg. 2, l.3
    if not parts.collector.batches_left:  # this was the last batch for these goals
        metrics |= parts.curriculum.update(*parts.collector.success_rates(data))
    return metrics


def train(config: GoalGANRecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config, run.device))
        if not run.frames:  # begin with goals that the first policy reaches
            run.advance(parts.pretrain(config.num_goals))
        for data in run.frames_from(parts.collector):  # l.4
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "goal_gan")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="goal_gan_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import GoalGANRecallConfig

    return launch(train, cfg, GoalGANRecallConfig)


if __name__ == "__main__":
    main()
