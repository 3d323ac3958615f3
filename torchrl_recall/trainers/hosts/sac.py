"""Soft actor-critic, from TorchRL's parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.hosts.networks import ConcatInputs, policy_inputs
from torchrl_recall.trainers.schema import GoalGANRecallConfig, SACRecallConfig

__all__ = ["SAC"]


class SAC(Stateful):
    """TorchRL's ``SACLoss``, one Adam over actor, critics and entropy coefficient, soft targets.

    Args:
        env: gives the specs.
        config: ``sac``, ``optim`` and ``compile``.
        device: where the networks are.

    Attributes:
        actor: the policy.
        loss_module: the losses.
        update: takes one gradient step on a batch, then moves the targets (Alg. 1, lines 6 and 7).
    """

    def __init__(
        self, env: EnvBase, config: SACRecallConfig | GoalGANRecallConfig, device: torch.device
    ) -> None:
        action_spec = env.action_spec_unbatched.to(device)
        in_keys, in_features = policy_inputs(env)
        action_dim = action_spec.shape[-1]
        sizes = {"num_cells": config.sac.num_cells, "activation_class": nn.ReLU, "device": device}
        # The policy: a Gaussian, squashed into the bounds of the action.
        policy = MLP(in_features=in_features, out_features=2 * action_dim, **sizes)
        self.actor = ProbabilisticActor(
            TensorDictModule(ConcatInputs(policy, GaussianParameters()), in_keys, ["loc", "scale"]),
            in_keys=["loc", "scale"],
            spec=action_spec,
            distribution_class=TanhNormal,
            distribution_kwargs={"low": action_spec.space.low, "high": action_spec.space.high},
            return_log_prob=False,
        )
        # The critics: two networks of their own initial weights.
        qvalues = [
            ValueOperator(
                MLP(in_features=in_features + action_dim, out_features=1, **sizes),
                in_keys=[*in_keys, "action"],
            )
            for _ in range(2)
        ]
        self.loss_module = SACLoss(
            self.actor,
            qvalues,
            num_qvalue_nets=2,
            loss_function="l2",
            alpha_init=config.sac.alpha_init,
            action_spec=action_spec,
        )
        self.loss_module.make_value_estimator(gamma=config.sac.gamma)
        self.loss_module.to(device)
        self.optimizer = make_adam(self.loss_module, config.optim.lr)
        targets = SoftUpdate(self.loss_module, tau=config.sac.target_update_tau)
        self.update = make_update(
            self.loss_module, self.optimizer, targets, compile=bool(config.compile)
        )

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets, entropy coefficient and optimiser."""
        return {"loss": self.loss_module, "optimizer": self.optimizer}


class GaussianParameters(nn.Module):
    """A split of a network's output into mean and standard deviation before the squashing.

    The logarithm of the latter is clamped to [-20, 2], as in Haarnoja et al. (2018). TorchRL's
    default extractor bounds the deviation by 0.1 from below, which keeps SAC from sharpening.
    """

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Turn shape ``[*batch, 2 * dim]`` into two of ``[*batch, dim]``."""
        loc, log_scale = parameters.chunk(2, -1)
        return loc, log_scale.clamp(-20.0, 2.0).exp()
