"""Soft actor-critic, from TorchRL's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.objectives import SACLoss, SoftUpdate

from torchrl_recall.data.returns_to_go import BoundedTD0
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.hosts.actors import squashed_actor
from torchrl_recall.trainers.hosts.networks import make_qvalues
from torchrl_recall.trainers.hosts.trace_rows import with_traces
from torchrl_recall.trainers.schema import GoalGANRecallConfig, SACRecallConfig
from torchrl_recall.trainers.schema.parts import SACHostConfig

__all__ = ["SAC"]


class SAC(Stateful):
    """TorchRL's ``SACLoss``, one Adam over actor, critics and entropy coefficient, soft targets.

    Args:
        env: environment that gives the specs.
        config: configuration with ``sac``, ``optim`` and ``compile``.
        device: device of the networks.

    Attributes:
        actor: the policy, which also explores and imitates.
        loss_module: the losses.
    """

    def __init__(
        self, env: EnvBase, config: SACRecallConfig | GoalGANRecallConfig, device: torch.device
    ) -> None:
        action_spec = env.action_spec_unbatched.to(device)
        # The policy, and two critics with independent initial weights.
        sizes = config.sac.num_cells, device
        self.actor = self.policy = self.explorer = squashed_actor(env, action_spec, *sizes)
        qvalues = make_qvalues(env, action_spec, *sizes, num=2)
        self.loss_module = SACLoss(
            self.actor,
            qvalues,
            num_qvalue_nets=2,
            loss_function="l2",
            alpha_init=config.sac.alpha_init,
            fixed_alpha=config.sac.fixed_alpha,
            action_spec=action_spec,
        )
        if isinstance(config.sac, SACHostConfig) and config.sac.return_bound:
            self.loss_module.make_value_estimator(
                BoundedTD0, gamma=config.sac.gamma, value_network=None
            )
        else:
            self.loss_module.make_value_estimator(gamma=config.sac.gamma)
        self.loss_module.to(device)
        self.num_updates = config.sac.num_updates
        self.optimizer = make_adam(self.loss_module, config.optim.lr)
        targets = SoftUpdate(self.loss_module, tau=config.sac.target_update_tau)
        self._step = make_update(
            self.loss_module,
            self.optimizer,
            targets,
            loss_fn=_losses(self.loss_module),
            compile=bool(config.compile),
        )

    def update(self, batch: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        """Take one gradient step, then move the targets (Alg. 1, lines 6 and 7).

        Args:
            batch: real transitions. Without traces, ``td_error`` is written for them.
            traces: transitions of traces, from which the critics alone learn.

        Returns:
            Detached losses.
        """
        return self._step(batch) if traces is None else self._step(batch, traces)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets, entropy coefficient and optimiser."""
        return {"loss": self.loss_module, "optimizer": self.optimizer}


def _losses(loss: SACLoss) -> Callable[..., TensorDictBase]:
    """Return a function of the losses: of real transitions, and of traces for the critics."""
    critic_losses = with_traces(
        lambda rows: TensorDict({"loss_qvalue": loss.qvalue_v2_loss(rows)[0]}), loss.in_keys
    )

    def losses(real: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        if traces is None:
            return loss(real)
        found = critic_losses(real, traces)
        loss_actor, metadata = loss.actor_loss(real)
        loss_alpha = loss.alpha_loss(metadata["log_prob"]).mean()
        told = {"alpha": loss.log_alpha.detach().exp(), "entropy": -metadata["log_prob"].mean()}
        return found.update({"loss_actor": loss_actor, "loss_alpha": loss_alpha, **told})

    return losses
