"""SAC with recall traces (Goyal et al., ICLR 2019, Sec. 6.5).

python recipes/sac_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.hosts.delayed_policy import DelayedPolicy
    from torchrl_recall.trainers.hosts.sac import SAC
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import SACRecallConfig


def build(config: SACRecallConfig, device: torch.device) -> Parts[SAC | DelayedPolicy]:
    """Compose the recipe's parts."""
    from functools import partial

    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import (
        AdvantageGate,
        ImitationLoss,
        StateValues,
    )
    from torchrl_recall.data.multi_step import MultiStep
    from torchrl_recall.data.returns_to_go import ReturnsToGo
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_recall import (
        build_end_states,
        build_recall,
        build_reward,
        model_class,
    )
    from torchrl_recall.trainers.demonstrations import demonstrate
    from torchrl_recall.trainers.hosts.crossq import CrossQ
    from torchrl_recall.trainers.hosts.delayed_policy import REDQ, TD3
    from torchrl_recall.trainers.hosts.sac import SAC
    from torchrl_recall.trainers.replay_buffers import make_replay_buffer
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.tasks.collectors import make_collector
    from torchrl_recall.trainers.tasks.gym import make_env
    from torchrl_recall.trainers.tasks.gym_task import longest_episode
    from torchrl_recall.trainers.tasks.mean_return import MeanReturn

    env = make_env(config.env.name, device, seed=config.seed, **config.env.making)
    kinds: dict[str, type[SAC | CrossQ | REDQ | TD3]]
    kinds = {"sac": SAC, "crossq": CrossQ, "redq": REDQ, "td3": TD3}
    host = kinds[config.host](env, config, device)  # TorchRL's loss, Adam, soft targets
    critic = StateValues(host.loss_module, compile=bool(config.compile))  # V and Q, from the loss
    gamma, n_step = config.of_host.gamma, config.of_host.n_step
    states = build_end_states(config.recall, critic, gamma=gamma)  # l.10
    specs = env.observation_spec_unbatched, env.action_spec_unbatched
    recall = build_recall(  # or the control that `recall=` names
        config,
        partial(model_class(config.backtracking).from_specs, *specs),  # Eq. 1
        ImitationLoss(host.policy),  # Eq. 3
        high_value_states=states,
        critic=critic,
        policy=host.explorer,
        make_reward=partial(build_reward, config, env, *specs),
        gate=[AdvantageGate(critic)] if config.recall.advantage_gate else [],
        interval=config.recall.interval,
        longest_episode=longest_episode(env.base_env._env),
        start_frames=config.collector.init_random_frames,
    )
    demonstrate(recall, config, env)
    replay_buffer = make_replay_buffer(config.replay_buffer, device)
    single_steps = None
    if n_step > 1:
        replay_buffer.append_transform(MultiStep(n_step, gamma))
        if config.recall.learns_dynamics:  # no model can learn s_t from s_{t+n}
            storage = LazyTensorStorage(config.replay_buffer.size, device=device)
            single_steps = ReplayBuffer(storage=storage)
    returns = None
    if config.host == "sac" and config.sac.return_bound:
        returns = ReturnsToGo(replay_buffer, gamma)
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
        single_steps=single_steps,
        returns=returns,
        audit=build_audit(config.recall.audit, recall, evaluation.env),
    )


def learn(
    parts: Parts[SAC | DelayedPolicy], data: TensorDictBase, config: SACRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Learn from a batch of frames (Alg. 1, lines 5 to 13)."""
    parts.add_frames(data)  # l.5
    parts.recall.extend(data)  # l.5, the top k_traj
    if frames < config.collector.init_random_frames:
        return {}
    for _ in range(parts.host.num_updates * data.numel()):
        rows = parts.recall.transitions(config.recall.num_transitions)  # for the critic, if any
        batch = parts.replay_buffer.sample()
        losses = parts.host.update(batch, rows)  # l.6-7
        parts.update_priorities(batch)
    return dict(losses.items()) | parts.recall.step(parts.experience)  # l.8-13


def train(config: SACRecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config, run.device))
        for data in run.frames_from(parts.collector):  # l.4
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "sac")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="sac_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import SACRecallConfig

    return launch(train, cfg, SACRecallConfig)


if __name__ == "__main__":
    main()
