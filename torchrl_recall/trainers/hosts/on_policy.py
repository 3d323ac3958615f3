"""TRPO and PPO, from TorchRL's parts and this package's ``TRPOLoss``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.distributions import Distribution
from torchrl.envs import EnvBase
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss, PPOLoss
from torchrl.objectives.value import GAE

from torchrl_recall.objectives.trpo import TRPOLoss
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.optim.natural_gradient import kl_divergence
from torchrl_recall.optim.trust_region import TrustRegion
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.hosts.actors import gaussian_actor
from torchrl_recall.trainers.hosts.networks import policy_inputs, tanh_mlp
from torchrl_recall.trainers.schema import (
    GoalGANRecallConfig,
    OnPolicyRecallConfig,
    PPORecallConfig,
    TRPORecallConfig,
)

__all__ = ["PPO", "TRPO", "OnPolicy", "minibatches"]

_ADAM_EPS = 1e-5  # as in Stable-Baselines3


class OnPolicy(Stateful):
    """Base of on-policy hosts, with a Gaussian policy, a critic and generalised advantages.

    If the task has goals, policy and critic read the goal too. ``update`` is lines 6 and 7 of
    Alg. 1.

    Args:
        env: environment that gives the specs.
        config: configuration with ``policy``, ``gae``, ``optim`` and the group of the host.
        device: device of the networks.
    """

    loss_module: PPOLoss
    optimizer: torch.optim.Adam

    def __init__(
        self,
        env: EnvBase,
        config: OnPolicyRecallConfig | GoalGANRecallConfig,
        device: torch.device,
    ) -> None:
        action_spec = env.action_spec_unbatched.to(device)
        self.in_keys, in_features = policy_inputs(env)
        cells = config.policy.num_cells
        self.actor = gaussian_actor(env, action_spec, cells, device)
        self.critic = ValueOperator(tanh_mlp(in_features, cells, 1, 1.0, device), self.in_keys)
        self.gae = GAE(gamma=config.gae.gamma, lmbda=config.gae.lmbda, value_network=None)

    @abstractmethod
    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Learn from the newest experience.

        Args:
            data: transitions of the current policy, shape ``[time]`` or ``[num_envs, time]``.

        Returns:
            Metrics for the log.
        """

    @torch.no_grad()
    def with_advantages(self, data: TensorDictBase) -> TensorDictBase:
        """Add values, advantages and log-probabilities; return the batch as ``[num_frames]``."""
        data = data.select("action", "next", *self.in_keys)
        data["action_log_prob"] = self.actor.get_dist(data).log_prob(data["action"])
        self.critic(data)
        self.critic(data["next"])
        return self.gae(data).reshape(-1)

    @torch.no_grad()
    def policy_on(self, data: TensorDictBase) -> Distribution:
        """Return the policy's distributions on the states of a batch, one for each state."""
        return self.actor.get_dist(data.select(*self.in_keys).reshape(-1))

    @torch.no_grad()
    def moved(self, before: Distribution, data: TensorDictBase) -> Tensor:
        """Compute the divergence of the policy from an earlier one, in nats.

        Args:
            before: the result of :meth:`policy_on` for the same batch and the earlier policy.
            data: the batch.

        Returns:
            The mean Kullback-Leibler divergence over the states of the batch.
        """
        return kl_divergence(before, self.policy_on(data)).mean()

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights and optimiser."""
        return {"loss": self.loss_module, "optimizer": self.optimizer}


class TRPO(OnPolicy):
    """TRPO: a step in the trust region, then some epochs of the critic (Schulman et al., 2015).

    Args:
        env: environment that gives the specs.
        config: configuration with ``policy``, ``gae``, ``optim`` and ``trpo``.
        device: device of the networks.
    """

    def __init__(
        self, env: EnvBase, config: TRPORecallConfig | GoalGANRecallConfig, device: torch.device
    ) -> None:
        super().__init__(env, config, device)
        self.config = config.trpo
        self.loss_module = TRPOLoss(
            self.actor,
            self.critic,
            loss_critic_type="l2",
            normalize_advantage=True,
            log_explained_variance=False,
        ).to(device)
        self.region = TrustRegion(
            self.loss_module,
            loss_fn=self.loss_module.actor_loss,
            max_kl=config.trpo.max_kl,
            damping=config.trpo.damping,
            cg_iterations=config.trpo.cg_iterations,
            line_search_steps=config.trpo.line_search_steps,
            line_search_shrink=config.trpo.line_search_shrink,
            fisher_subsampling=config.trpo.fisher_subsampling,
        )
        self.optimizer = make_adam(self.critic, config.optim.lr, eps=_ADAM_EPS)
        self.update_critic = make_update(
            self.loss_module,
            self.optimizer,
            loss_fn=self.loss_module.critic_loss,
            compile=bool(config.compile),
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Take one step of the policy, then some of the critic; see :class:`OnPolicy`."""
        data = self.with_advantages(data)
        statistics = self.region.step(data)
        data = data.select("value_target", *self.in_keys)
        for batch in minibatches(data, self.config.num_epochs, self.config.batch_size):
            statistics.update(self.update_critic(batch))
        return {f"trpo/{key}": value for key, value in statistics.items()}


class PPO(OnPolicy):
    """PPO: some epochs of the clipped objective and the critic together (Schulman et al., 2017).

    Args:
        env: environment that gives the specs.
        config: configuration with ``policy``, ``gae``, ``optim`` and ``ppo``.
        device: device of the networks.
    """

    def __init__(self, env: EnvBase, config: PPORecallConfig, device: torch.device) -> None:
        super().__init__(env, config, device)
        self.config = config.ppo
        self.loss_module = ClipPPOLoss(
            self.actor,
            self.critic,
            clip_epsilon=config.ppo.clip_epsilon,
            entropy_bonus=config.ppo.entropy_coeff > 0,
            entropy_coeff=config.ppo.entropy_coeff,
            critic_coeff=config.ppo.critic_coeff,
            loss_critic_type="l2",
            normalize_advantage=True,
            log_explained_variance=False,
        ).to(device)
        self.optimizer = make_adam(self.loss_module, config.optim.lr, eps=_ADAM_EPS)
        self.update_once = make_update(
            self.loss_module,
            self.optimizer,
            max_grad_norm=config.ppo.max_grad_norm,
            compile=bool(config.compile),
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Take some steps of policy and critic together; see :class:`OnPolicy`."""
        keys = "action", "action_log_prob", "advantage", "value_target"
        data = self.with_advantages(data).select(*keys, *self.in_keys)
        for batch in minibatches(data, self.config.num_epochs, self.config.batch_size):
            losses = self.update_once(batch)
        return {f"ppo/{key}": value for key, value in losses.items()}


def minibatches(data: TensorDictBase, num_epochs: int, batch_size: int) -> Iterator[TensorDictBase]:
    """Split all rows into batches, in a new order in each epoch.

    Args:
        data: transitions of shape ``[num_frames]``.
        num_epochs: number of passes over the data.
        batch_size: transitions in each batch.

    Yields:
        Batches of shape ``[batch_size]``; the last one of an epoch may be smaller.
    """
    for _ in range(num_epochs):
        yield from data[torch.randperm(len(data))].split(batch_size)
