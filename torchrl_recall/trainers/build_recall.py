"""Recall, or one of its controls, wired to the host of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_recall import (
    BacktrackingModel,
    ForwardModelImitation,
    HighValueStates,
    ImitationLoss,
    LoopErasure,
    Recall,
    SelfImitation,
    WithinSupport,
)
from torchrl_recall.self_imitation import ImitationOfGoodPairs
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.on_policy import OnPolicyRecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.sac import SACRecallConfig

__all__ = ["wire_recall"]


def wire_recall(
    env: EnvBase,
    config: SACRecallConfig | OnPolicyRecallConfig | GoalGANRecallConfig,
    actor: ProbabilisticTensorDictSequential,
    device: torch.device,
    *,
    high_value_states: HighValueStates,
    critic: TensorDictModuleBase,
    interval: int,
    longest_episode: int | None,
    gate: Sequence[TensorDictModuleBase] = (),
    relabel: Sequence[TensorDictModuleBase] = (),
    start_frames: int = 0,
) -> ImitationOfGoodPairs:
    """Wire recall, or its control, to the host.

    Args:
        env: gives the specs.
        config: ``recall`` and ``backtracking``.
        actor: the host's policy.
        device: where the model is.

    Keyword Args:
        high_value_states: where traces end.
        critic: V(s).
        interval: frames between rounds.
        longest_episode: in steps, if it is known.
        gate: filters that the controls share.
        relabel: what completes generated traces, such as their goal.
        start_frames: frames before the first round.

    Raises:
        ConfigError: an episode does not fit into the backtracking buffer.
    """
    recall, backtracking = config.recall, config.backtracking
    if longest_episode is not None and backtracking.buffer_size < longest_episode:
        raise ConfigError(
            f"backtracking.buffer_size={backtracking.buffer_size} is less than one episode of "
            f"{config.env.name}, {longest_episode} steps; give it room for "
            "backtracking.num_trajectories."
        )
    imitation_loss = ImitationLoss(actor)
    schedule: dict[str, Any] = {
        "num_trajectories": backtracking.num_trajectories,
        "buffer_size": backtracking.buffer_size,
        "return_threshold": backtracking.return_threshold,
        "lr": recall.lr,
        "max_kl": recall.max_kl,
        "interval": interval,
        "start_frames": start_frames,
        "num_updates": recall.num_updates,
        "batch_size": recall.batch_size,
        "anneal_frames": recall.anneal_frames,
        "compile": config.compile,
    }
    if recall.method == "self_imitation":
        return SelfImitation(imitation_loss, filters=gate, **schedule)
    model = BacktrackingModel.from_specs(
        env.observation_spec_unbatched,
        env.action_spec_unbatched,
        num_cells=backtracking.num_cells,
        action_scale=backtracking.action_scale,
        clamp_actions=backtracking.clamp_actions,
    ).to(device)
    filters = list(relabel)
    if recall.max_deviation is not None:
        filters.append(WithinSupport(model.observations.normalize, recall.max_deviation))
    if recall.loop_erasure is not None:
        filters.append(LoopErasure(recall.loop_erasure, scale=model.observations.scale))
    schedule |= {
        "filters": [*filters, *gate],
        "trace_length": recall.trace_length,
        "num_traces": recall.num_traces,
        "num_model_updates": backtracking.num_updates,
        "model_batch_size": backtracking.batch_size,
        "model_lr": backtracking.lr,
        "state_predictor_data": backtracking.state_predictor_data,
        "state_batch_size": recall.state_batch_size,
        "state_fraction": backtracking.state_fraction,
    }
    if recall.method == "forward_model":
        num_states = recall.num_high_value_states
        return ForwardModelImitation(
            model, imitation_loss, critic, num_states=num_states, **schedule
        )
    return Recall(model, imitation_loss, high_value_states, critic=critic, **schedule)
