"""CrossQ: a host without target networks, whose batches are normalised, from TorchRL's parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import BatchRenorm1d
from torchrl.objectives import CrossQLoss

from torchrl_recall.trainers.hosts.actors import squashed_actor
from torchrl_recall.trainers.hosts.delayed_policy import DelayedPolicy
from torchrl_recall.trainers.hosts.networks import ConcatInputs, MakeNetwork, make_qvalues
from torchrl_recall.trainers.schema import SACRecallConfig

__all__ = ["CrossQ", "normalised_mlp"]

# As in the authors' code, which uses flax's defaults; the paper does not give these settings.
_EPS, _MOMENTUM = 1e-3, 0.01


class CrossQ(DelayedPolicy):
    """TorchRL's ``CrossQLoss`` (Bhatt et al., 2024): wide critics with batch renormalisation.

    Both networks normalise their input and each hidden layer. The critics evaluate states and next
    states, each with their actions, in one batch. One set of statistics then fits both, and no
    target networks are needed. Outside its own gradient step, the policy uses running statistics.

    Args:
        env: environment that gives the specs.
        config: configuration with ``crossq``, ``optim`` and ``compile``.
        device: device of the networks.
    """

    def __init__(self, env: EnvBase, config: SACRecallConfig, device: torch.device) -> None:
        spec, crossq = env.action_spec_unbatched.to(device), config.crossq
        self.num_updates = crossq.num_updates
        actor = squashed_actor(
            env, spec, crossq.num_cells, device, make=normalised_mlp(crossq.warmup_steps)
        )
        qvalues = make_qvalues(
            env,
            spec,
            crossq.critic_num_cells,
            device,
            num=2,
            make=normalised_mlp(crossq.warmup_steps),
        )
        self.actor = self.policy = self.explorer = actor.eval()
        # The loss uses the same modules. The policy uses running statistics, except in step_policy.
        loss = CrossQLoss(
            actor,
            [qvalue.train() for qvalue in qvalues],
            num_qvalue_nets=2,
            loss_function="l2",
            alpha_init=crossq.alpha_init,
            action_spec=spec,
        )
        loss.make_value_estimator(gamma=crossq.gamma)
        loss.to(device)

        def policy_losses(data: TensorDictBase) -> TensorDictBase:
            loss_actor, metadata = loss.actor_loss(data)
            return TensorDict(
                {"loss_actor": loss_actor, "loss_alpha": loss.alpha_loss(metadata["log_prob"])}
            )

        super().__init__(
            loss,
            lr=config.optim.lr,
            beta1=crossq.adam_beta1,
            policy_delay=crossq.policy_delay,
            critic_losses=lambda data: TensorDict({"loss_qvalue": loss.qvalue_loss(data)[0]}),
            policy_losses=policy_losses,
            critic_targets=None,
            policy_targets=None,
            compile=bool(config.compile),
        )

    def step_policy(self, batch: TensorDictBase) -> TensorDictBase:
        """Take a step of the policy with statistics of the batch, and update the running ones."""
        self.actor.train()
        try:
            return super().step_policy(batch)
        finally:
            self.actor.eval()


class _BatchRenorm(BatchRenorm1d):
    r"""Batch renormalisation (Ioffe, 2017) for any batch shape, which compiles to one graph.

    .. math:: y = \frac{x - \mu_B}{\sigma_B} r + d, \quad
        r = \frac{\sigma_B}{\sigma}, \quad d = \frac{\mu_B - \mu}{\sigma}

    The corrections are r = 1 and d = 0 until the end of the warm-up. In TorchRL 0.14.1 they are
    multiplied by the number of warm-ups that have passed, so they count twice after twice its
    length. TorchRL also replaces its buffers at each step, with which ``torch.compile`` fails.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.num_features)
        running_std = (self.running_var + self.eps).sqrt()
        if not self.training:
            normal = (rows - self.running_mean) / running_std
            return (self.weight * normal + self.bias).reshape(x.shape)
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        std = (variance + self.eps).sqrt()
        with torch.no_grad():
            r = (std / running_std).clamp(1 / self.max_r, self.max_r)
            d = ((mean - self.running_mean) / running_std).clamp(-self.max_d, self.max_d)
            is_warm = self.num_batches_tracked >= self.warmup_steps
            r, d = torch.where(is_warm, r, 1.0), torch.where(is_warm, d, 0.0)
            unbiased = variance * len(rows) / (len(rows) - 1)
            self.running_mean.add_(self.momentum * (mean - self.running_mean))
            self.running_var.add_(self.momentum * (unbiased - self.running_var))
            self.num_batches_tracked.add_(1)
        normal = (rows - mean) / std * r + d
        return (self.weight * normal + self.bias).reshape(x.shape)


def normalised_mlp(warmup_steps: int) -> MakeNetwork:
    """Return the function that builds a perceptron with batch renormalisation.

    Args:
        warmup_steps: number of batches with plain normalisation before renormalisation begins.
    """

    def make(
        in_features: int, out_features: int, num_cells: Sequence[int], device: torch.device
    ) -> nn.Sequential:
        def normalise(features: int) -> nn.Module:
            return _BatchRenorm(features, momentum=_MOMENTUM, eps=_EPS, warmup_steps=warmup_steps)

        layers: list[nn.Module] = [normalise(in_features)]
        for cells in num_cells:
            layers += [nn.Linear(in_features, cells), nn.ReLU(), normalise(cells)]
            in_features = cells
        return ConcatInputs(*layers, nn.Linear(in_features, out_features)).to(device)

    return make
