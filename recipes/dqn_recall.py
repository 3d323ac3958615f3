"""Deep Q-learning with recall traces (Goyal et al., ICLR 2019, Alg. 1), for discrete actions.

python recipes/dqn_recall.py env.name=CartPole-v1 recall=backtracking seed=0
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.hosts.dqn import DQN
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import DQNRecallConfig


def build(config: DQNRecallConfig, device: torch.device) -> Parts[DQN]:
    """Compose the recipe's parts."""
    from functools import partial

    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import (
        AdvantageGate,
        ImitationLoss,
        StateValues,
    )
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_recall import (
        build_end_states,
        build_recall,
        build_reward,
        model_class,
    )
    from torchrl_recall.trainers.demonstrations import demonstrate
    from torchrl_recall.trainers.hosts.dqn import DQN
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.tasks.collectors import make_collector
    from torchrl_recall.trainers.tasks.gym import make_env, model_specs
    from torchrl_recall.trainers.tasks.gym_task import longest_episode
    from torchrl_recall.trainers.tasks.mean_return import MeanReturn

    env = make_env(config.env.name, device, seed=config.seed, **config.env.making)
    host = DQN(env, config, device)  # TorchRL's DQNLoss, Adam, copied targets
    critic = StateValues(  # Q from the loss, and V of the softmax policy
        host.loss_module,
        temperature=config.dqn.imitation_temperature,
        compile=bool(config.compile),
    )
    states = build_end_states(config.recall, critic, gamma=config.dqn.gamma)  # l.10
    specs = model_specs(env)
    recall = build_recall(  # or the control that `recall=` names
        config,
        partial(model_class(config.backtracking).from_specs, *specs),  # Eq. 1
        ImitationLoss(host.policy),  # Eq. 3
        high_value_states=states,
        critic=critic,
        make_reward=partial(build_reward, config, env, *specs),
        gate=[AdvantageGate(critic)] if config.recall.advantage_gate else [],
        interval=config.recall.interval,
        longest_episode=longest_episode(env.base_env._env),
        start_frames=config.collector.init_random_frames,
    )
    demonstrate(recall, config, env)
    storage = LazyTensorStorage(config.replay_buffer.size, device=device)
    replay_buffer = ReplayBuffer(storage=storage, batch_size=config.replay_buffer.batch_size)
    collector = make_collector(
        env,
        host.explorer,
        config,
        device,
        init_random_frames=config.collector.init_random_frames,
        random_until_reward=config.collector.random_until_reward,
    )
    evaluation = MeanReturn(host.actor, config, device)
    return Parts(
        config.env.name,
        env,
        collector,
        replay_buffer,
        host,
        recall,
        evaluation,
        more=collector.more_state(),
        audit=build_audit(config.recall.audit, recall, evaluation.env),
    )


def learn(
    parts: Parts[DQN], data: TensorDictBase, config: DQNRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Learn from a batch of frames (Alg. 1, lines 5 to 13)."""
    parts.add_frames(data)  # l.5
    parts.recall.extend(data)  # l.5, the top k_traj
    parts.host.explored(data.numel())
    if frames < config.collector.init_random_frames:
        return {}
    for _ in range(parts.host.num_updates):
        rows = parts.recall.transitions(config.recall.num_transitions)  # for the critic, if any
        losses = parts.host.update(parts.replay_buffer.sample(), rows)  # l.6-7
    return dict(losses.items()) | parts.recall.step(parts.replay_buffer)  # l.8-13


def train(config: DQNRecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config, run.device))
        for data in run.frames_from(parts.collector):  # l.4
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "dqn")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="dqn_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import DQNRecallConfig

    return launch(train, cfg, DQNRecallConfig)


if __name__ == "__main__":
    main()
