"""TRPO with recall traces (Goyal et al., ICLR 2019, Sec. 6.4).

python recipes/trpo_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.hosts.on_policy import OnPolicy
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import (
        OnPolicyRecallConfig,
        PPORecallConfig,
        TRPORecallConfig,
    )


def build(config: TRPORecallConfig | PPORecallConfig, device: torch.device) -> Parts[OnPolicy]:
    """Compose the parts of this recipe or of ``ppo_recall.py``, chosen by the configuration."""
    from functools import partial

    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import ImitationLoss, RewardStates
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_recall import build_recall, model_class
    from torchrl_recall.trainers.demonstrations import demonstrate
    from torchrl_recall.trainers.hosts.on_policy import PPO, TRPO
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.schema import PPORecallConfig
    from torchrl_recall.trainers.tasks.collectors import make_collector
    from torchrl_recall.trainers.tasks.gym import make_env
    from torchrl_recall.trainers.tasks.gym_task import longest_episode
    from torchrl_recall.trainers.tasks.mean_return import MeanReturn

    env = make_env(
        config.env.name,
        device,
        clip_actions=True,
        seed=config.seed,
        **config.env.making,
    )
    host: OnPolicy
    if isinstance(config, PPORecallConfig):
        host = PPO(env, config, device)  # TorchRL's ClipPPOLoss, GAE
    else:
        host = TRPO(env, config, device)  # our TRPOLoss and TrustRegion, GAE
    specs = env.observation_spec_unbatched, env.action_spec_unbatched
    recall = build_recall(  # or the control that `recall=` names
        config,
        partial(model_class(config.backtracking).from_specs, *specs),  # Eq. 1
        ImitationLoss(host.actor),  # Eq. 3
        high_value_states=RewardStates(config.recall.num_high_value_states),  # E.1
        critic=host.critic,
        interval=config.recall.interval,
        longest_episode=longest_episode(env.base_env._env),
    )
    demonstrate(recall, config, env)
    storage = LazyTensorStorage(config.replay_buffer.size, device=device)
    replay_buffer = ReplayBuffer(storage=storage, batch_size=1)
    collector = make_collector(env, host.actor, config, device, clip_actions=True)
    evaluation = MeanReturn(host.actor, config, device, clip_actions=True)
    audit = build_audit(config.recall.audit, recall, evaluation.env)
    return Parts(
        config.env.name, env, collector, replay_buffer, host, recall, evaluation, audit=audit
    )


def learn(
    parts: Parts[OnPolicy], data: TensorDictBase, config: OnPolicyRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Learn from a batch of frames (Alg. 1, lines 5 to 13)."""
    executed = parts.clip_actions(data)
    parts.add_frames(executed)  # l.5
    parts.recall.extend(executed)  # l.5, the top k_traj
    metrics = parts.host.update(data)  # l.6-7
    before = parts.host.policy_on(data)
    if recalled := parts.recall.step(parts.replay_buffer):  # l.8-13
        recalled["recall/kl_spent"] = parts.host.moved(before, data)
    return metrics | recalled


def train(config: TRPORecallConfig | PPORecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config, run.device))
        for data in run.frames_from(parts.collector):  # l.4
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "on_policy")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="trpo_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import TRPORecallConfig

    return launch(train, cfg, TRPORecallConfig)


if __name__ == "__main__":
    main()
