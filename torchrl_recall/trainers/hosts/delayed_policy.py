"""TD3 and REDQ, hosts whose critics take more steps than their policy, from TorchRL's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase, ExplorationType
from torchrl.envs.utils import exploration_type
from torchrl.objectives import LossModule, REDQLoss, SoftUpdate, TD3Loss
from torchrl.objectives.utils import TargetNetUpdater

from torchrl_recall.modules.policies import GaussianPolicy
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful, Steps
from torchrl_recall.trainers.hosts.actors import deterministic_actor, squashed_actor
from torchrl_recall.trainers.hosts.networks import make_qvalues
from torchrl_recall.trainers.hosts.trace_rows import with_traces
from torchrl_recall.trainers.schema import SACRecallConfig

__all__ = ["REDQ", "TD3"]

_SMALLEST_ALPHA = 1e-9  # of REDQ's entropy coefficient

Losses = Callable[[TensorDictBase], TensorDictBase]


class DelayedPolicy(Stateful):
    """Base of hosts with a step of the critics on each batch, and of the policy on every nth batch.

    Args:
        loss_module: the losses.
        lr: learning rate of both Adam optimisers.
        beta1: β₁ of Adam for the networks; 0.9 for the entropy coefficient.
        policy_delay: n, the number of critic steps for each policy step.
        critic_losses: function of a batch that returns the losses of the critics.
        policy_losses: function of a batch that returns the losses of the policy.
        critic_targets: updater of target networks, stepped with the critics.
        policy_targets: updater of target networks, stepped with the policy.
        compile: whether both steps are compiled.

    Attributes:
        actor: the policy.
        explorer: the policy with exploration, for collection.
        policy: the policy with a distribution, for Eq. 3.
        num_updates: gradient steps of the critics for each frame.
        losses: functions of a batch of real rows, of the critics and of the policy.
    """

    actor: TensorDictModuleBase
    explorer: TensorDictModuleBase
    policy: ProbabilisticTensorDictSequential
    num_updates: int

    def __init__(
        self,
        loss_module: LossModule,
        *,
        lr: float,
        policy_delay: int,
        critic_losses: Losses,
        policy_losses: Losses,
        critic_targets: TargetNetUpdater | None,
        policy_targets: TargetNetUpdater | None,
        compile: bool,
        beta1: float = 0.9,
    ) -> None:
        self.loss_module, self.policy_delay, self.steps = loss_module, policy_delay, Steps()
        critics: list[Tensor] = []
        policy: list[Tensor] = []
        entropy: list[Tensor] = []
        for name, parameter in loss_module.named_parameters():
            if parameter.requires_grad:
                kind = {"qvalue_network_params": critics, "actor_network_params": policy}
                kind.get(name.split(".")[0], entropy).append(parameter)
        betas = beta1, 0.999
        rest: list[dict[str, Any]] = [
            {"params": policy, "betas": betas},
            *([{"params": entropy}] if entropy else []),
        ]
        self.optimizers = [
            torch.optim.Adam(critics, lr, betas, fused=True),
            torch.optim.Adam(rest, lr, fused=True),
        ]
        self.losses = critic_losses, policy_losses
        critic_losses = with_traces(critic_losses, loss_module.in_keys)
        steps = (critic_losses, critic_targets), (policy_losses, policy_targets)
        self.step_critics, self._step_policy = (
            make_update(loss_module, optimizer, targets, loss_fn=losses, compile=compile)
            for optimizer, (losses, targets) in zip(self.optimizers, steps, strict=True)
        )

    def update(self, batch: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        """Take the steps that are due on a batch (Alg. 1, lines 6 and 7).

        Args:
            batch: real transitions.
            traces: transitions of traces, from which the critics alone learn.

        Returns:
            Detached losses.
        """
        losses = self.step_critics(batch) if traces is None else self.step_critics(batch, traces)
        if self.steps.every(self.policy_delay):
            losses = losses.update(self.step_policy(batch))
        return losses

    def step_policy(self, batch: TensorDictBase) -> TensorDictBase:
        """Take a step of the policy."""
        return self._step_policy(batch)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets, optimisers and the counter of steps."""
        critic, policy = self.optimizers
        return {
            "loss": self.loss_module, "critic": critic, "policy": policy, "steps": self.steps
        }  # fmt: skip


class TD3(DelayedPolicy):
    """TorchRL's ``TD3Loss`` (Fujimoto et al., 2018): a deterministic policy with delayed updates.

    The policy explores with Gaussian noise. For imitation it is a Gaussian around its action
    (:class:`~torchrl_recall.GaussianPolicy`).

    Args:
        env: environment that gives the specs.
        config: configuration with ``td3``, ``optim`` and ``compile``.
        device: device of the networks.
    """

    def __init__(self, env: EnvBase, config: SACRecallConfig, device: torch.device) -> None:
        spec, td3 = env.action_spec_unbatched.to(device), config.td3
        actor = deterministic_actor(env, spec, td3.num_cells, device)
        self.actor, self.num_updates = actor, td3.num_updates
        half = (spec.space.high - spec.space.low) / 2
        noise = _Noise(spec, td3.exploration_noise * half)
        self.explorer = TensorDictSequential(actor, TensorDictModule(noise, ["action"], ["action"]))
        self.policy = GaussianPolicy(actor, scale=td3.imitation_scale, spec=spec)
        loss = TD3Loss(
            actor,
            make_qvalues(env, spec, td3.num_cells, device, num=2),
            action_spec=spec,
            num_qvalue_nets=2,
            policy_noise=td3.policy_noise * half,
            noise_clip=td3.noise_clip * half,
            loss_function="l2",
            delay_actor=True,
        )
        loss.make_value_estimator(gamma=td3.gamma)
        loss.to(device)
        super().__init__(
            loss,
            lr=config.optim.lr,
            policy_delay=td3.policy_delay,
            critic_losses=lambda data: TensorDict({"loss_qvalue": loss.value_loss(data)[0]}),
            policy_losses=lambda data: TensorDict({"loss_actor": loss.actor_loss(data)[0]}),
            critic_targets=None,
            policy_targets=SoftUpdate(loss, tau=td3.target_update_tau),
            compile=bool(config.compile),
        )


class _Noise(nn.Module):
    """Module that adds Gaussian noise to actions while exploring."""

    low: Tensor
    high: Tensor
    scale: Tensor

    def __init__(self, spec: TensorSpec, scale: Tensor) -> None:
        super().__init__()
        for name, value in (("low", spec.space.low), ("high", spec.space.high), ("scale", scale)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        if exploration_type() is not ExplorationType.RANDOM:
            return action
        noisy = action + self.scale * torch.randn_like(action)
        return noisy.clamp(self.low, self.high)


class REDQ(DelayedPolicy):
    """TorchRL's ``REDQLoss`` (Chen et al., 2021): many critics, with many steps for each frame.

    Args:
        env: environment that gives the specs.
        config: configuration with ``redq``, ``optim`` and ``compile``.
        device: device of the networks.
    """

    def __init__(self, env: EnvBase, config: SACRecallConfig, device: torch.device) -> None:
        spec, redq = env.action_spec_unbatched.to(device), config.redq
        self.actor = self.policy = self.explorer = squashed_actor(env, spec, redq.num_cells, device)
        self.num_updates = redq.num_updates
        loss = REDQLoss(
            self.actor,
            make_qvalues(env, spec, redq.num_cells, device, num=redq.num_qvalue_nets),
            num_qvalue_nets=redq.num_qvalue_nets,
            sub_sample_len=redq.sub_sample_len,
            loss_function="l2",
            alpha_init=redq.alpha_init,
            min_alpha=_SMALLEST_ALPHA,  # TorchRL's bounds are 0.1 and 10, Chen et al. have none
            max_alpha=1 / _SMALLEST_ALPHA,
            action_spec=spec,
        )
        loss.make_value_estimator(gamma=redq.gamma)
        loss.to(device)
        _ = loss.target_entropy  # a buffer that is made at its first use, and part of the state
        super().__init__(
            loss,
            lr=config.optim.lr,
            policy_delay=redq.num_updates,
            critic_losses=_only(loss, ["loss_qvalue"]),
            policy_losses=_only(loss, ["loss_actor", "loss_alpha"]),
            critic_targets=SoftUpdate(loss, tau=redq.target_update_tau),
            policy_targets=None,
            compile=bool(config.compile),
        )


def _only(loss: LossModule, keys: Sequence[str]) -> Losses:
    """Return a function that computes all losses of a module and returns some of them."""
    return lambda data: loss(data).select(*keys)
