"""The host of the SAC recipes, from TorchRL's parts, and recall wired to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

from torchrl_recall import AdvantageGate, CriticStates, SACCritic
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.self_imitation import ImitationOfGoodPairs
from torchrl_recall.trainers.build_recall import wire_recall
from torchrl_recall.trainers.hosts.networks import Joined, inputs_of
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.sac import SACRecallConfig
from torchrl_recall.trainers.tasks.gym import longest_episode

__all__ = ["SAC", "make_recall", "make_sac"]


@dataclass
class SAC:
    """Policy, losses and their update.

    ``update`` is lines 6 and 7 of Alg. 1: one gradient step of actor, critics and entropy
    coefficient on a batch, then the targets.
    """

    actor: ProbabilisticActor
    loss_module: SACLoss
    optimizer: torch.optim.Adam
    update: Callable[[TensorDict], TensorDict]

    def state_dict(self) -> dict:
        """Weights, targets, entropy coefficient and optimiser."""
        return {"loss": self.loss_module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])


class GaussianParameters(nn.Module):
    """Splits a network's output into the mean and standard deviation before the squashing.

    The logarithm of the latter is clamped to [-20, 2], as in Haarnoja et al. (2018). TorchRL's
    default extractor bounds the deviation by 0.1 from below, which keeps SAC from sharpening.
    """

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes ``[*batch, 2 * dim]`` to two of ``[*batch, dim]``."""
        loc, log_scale = parameters.chunk(2, -1)
        return loc, log_scale.clamp(-20.0, 2.0).exp()


def make_sac(
    env: EnvBase, config: SACRecallConfig | GoalGANRecallConfig, device: torch.device
) -> SAC:
    """Build SAC for a task.

    Args:
        env: gives the specs.
        config: ``sac`` and ``optim``.
        device: where the networks are.

    Returns:
        The host.
    """
    action_spec = env.action_spec_unbatched.to(device)
    in_keys, in_features = inputs_of(env)
    action_dim = action_spec.shape[-1]
    sizes = {"num_cells": config.sac.num_cells, "activation_class": nn.ReLU, "device": device}
    actor = ProbabilisticActor(
        TensorDictModule(
            Joined(
                MLP(in_features=in_features, out_features=2 * action_dim, **sizes),
                GaussianParameters(),
            ),
            in_keys=in_keys,
            out_keys=["loc", "scale"],
        ),
        in_keys=["loc", "scale"],
        spec=action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": action_spec.space.low, "high": action_spec.space.high},
        return_log_prob=False,
    )
    qvalues = [
        ValueOperator(
            MLP(in_features=in_features + action_dim, out_features=1, **sizes),
            in_keys=[*in_keys, "action"],
        )
        for _ in range(2)
    ]
    loss_module = SACLoss(
        actor,
        qvalues,
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=config.sac.alpha_init,
        action_spec=action_spec,
    )
    loss_module.make_value_estimator(gamma=config.sac.gamma)
    loss_module.to(device)
    parameters = [p for p in loss_module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.optim.lr, fused=True)
    updater = SoftUpdate(loss_module, tau=config.sac.target_update_tau)
    update = make_update(loss_module, optimizer, updater, compile=bool(config.compile))
    return SAC(actor, loss_module, optimizer, update)


def make_recall(
    env: EnvBase, config: SACRecallConfig, sac: SAC, device: torch.device
) -> ImitationOfGoodPairs | None:
    """Wire recall, or its control, to the host.

    Args:
        env: gives the specs.
        config: ``recall`` and ``backtracking``.
        sac: the host.
        device: where the model is.

    Returns:
        None for ``recall.method=none``.
    """
    if config.recall.method == "none":
        return None
    critic = SACCritic(sac.loss_module, compile=bool(config.compile))
    recall = config.recall
    return wire_recall(
        env,
        config,
        sac.actor,
        device,
        high_value_states=CriticStates(
            critic, recall.num_high_value_states, temperature=recall.temperature
        ),
        critic=critic,
        interval=recall.interval,
        longest_episode=longest_episode(config.env.name),
        gate=[AdvantageGate(critic)] if recall.advantage_gate else [],
        start_frames=config.collector.init_random_frames,
    )
