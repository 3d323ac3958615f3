"""IQL, CQL and TD3+BC: hosts that learn from a data set, from TorchRL's losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.modules import ValueOperator
from torchrl.objectives import CQLLoss, IQLLoss, LossModule, SoftUpdate, TD3BCLoss

from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.hosts.actors import (
    bounded_gaussian_actor,
    deterministic_actor,
    squashed_actor,
)
from torchrl_recall.trainers.hosts.delayed_policy import DelayedPolicy
from torchrl_recall.trainers.hosts.networks import (
    HasSpecs,
    make_qvalues,
    mlp,
    policy_inputs,
    standardized_mlp,
)
from torchrl_recall.trainers.schema.offline import OfflineRecallConfig

__all__ = ["CQL", "IQL", "TD3BC", "OfflineHost"]


class OfflineHost(Stateful):
    """Base of hosts that learn from batches of a data set alone.

    Attributes:
        actor: the policy.
        loss_module: the losses.
    """

    actor: TensorDictModuleBase
    loss_module: LossModule

    @abstractmethod
    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Take one gradient step on a batch, and return its losses."""


class IQL(OfflineHost):
    """TorchRL's ``IQLLoss`` (Kostrikov et al., 2022): expectiles of Q, and weighted imitation.

    The policy is a Gaussian around an action within the bounds, with the same standard deviation in
    all states. There are two differences from the authors' code. The learning rate of the policy
    does not decay. Rewards are not scaled by 1000 / (best - worst return), as theirs are on MuJoCo,
    nor lowered by one, as theirs are on antmaze.

    Args:
        env: environment that gives the specs.
        config: configuration with ``iql`` and ``compile``.
        device: device of the networks.
    """

    def __init__(self, env: HasSpecs, config: OfflineRecallConfig, device: torch.device) -> None:
        spec, iql = env.action_spec_unbatched.to(device), config.iql
        self.actor = bounded_gaussian_actor(env, spec, iql.num_cells, device)
        in_keys, in_features = policy_inputs(env)
        value = ValueOperator(mlp(in_features, 1, iql.num_cells, device), in_keys=in_keys)
        loss = IQLLoss(
            self.actor,
            make_qvalues(env, spec, iql.num_cells, device, num=2),
            value,
            num_qvalue_nets=2,
            loss_function="l2",
            temperature=iql.temperature,
            expectile=iql.expectile,
        )
        loss.make_value_estimator(gamma=iql.gamma)
        self.loss_module = loss.to(device)
        self.optimizer = make_adam(loss, iql.lr)
        targets = SoftUpdate(loss, tau=iql.target_update_tau)
        self._step = make_update(loss, self.optimizer, targets, compile=bool(config.compile))

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Take one gradient step of policy, V and Q on a batch, and return its losses."""
        return self._step(batch)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets and optimiser."""
        return {"loss": self.loss_module, "optimizer": self.optimizer}


class CQL(OfflineHost):
    """TorchRL's ``CQLLoss`` (Kumar et al., 2020): SAC with a penalty on Q outside the data.

    There are three differences from the authors' code. The log-sum-exp of TorchRL 0.14.1 is over
    one action of each of three kinds, not over ``num_random`` of each, and random actions are drawn
    from [-1, 1]. For actions of the next state TorchRL uses Q(s', a'), while the authors use
    Q(s, a'). The first steps of the authors, which clone the data, are left out.

    Args:
        env: environment that gives the specs.
        config: configuration with ``cql`` and ``compile``.
        device: device of the networks.
    """

    def __init__(self, env: HasSpecs, config: OfflineRecallConfig, device: torch.device) -> None:
        spec, cql = env.action_spec_unbatched.to(device), config.cql
        self.actor = squashed_actor(env, spec, cql.num_cells, device)
        loss = CQLLoss(
            self.actor,
            make_qvalues(env, spec, cql.num_cells, device, num=2),
            loss_function="l2",
            action_spec=spec,
            min_q_weight=cql.min_q_weight,
            num_random=cql.num_random,
        )
        loss.make_value_estimator(gamma=cql.gamma)
        self.loss_module = loss.to(device)
        parameters = dict(loss.named_parameters())
        critics = [p for name, p in parameters.items() if name.startswith("qvalue_network_params")]
        rest = [p for p in parameters.values() if not any(p is critic for critic in critics)]
        self.optimizer = torch.optim.Adam(
            [{"params": critics, "lr": cql.lr}, {"params": rest, "lr": cql.policy_lr}], fused=True
        )
        targets = SoftUpdate(loss, tau=cql.target_update_tau)
        self._step = make_update(
            loss, self.optimizer, targets, loss_fn=self._losses, compile=bool(config.compile)
        )

    def _losses(self, batch: TensorDictBase) -> TensorDictBase:
        # TorchRL's forward writes into the batch, and returns a loss of cloning too.
        return self.loss_module(batch.copy()).exclude("loss_actor_bc")

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Take one gradient step of policy and Q on a batch, and return its losses."""
        return self._step(batch)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets and optimiser."""
        return {"loss": self.loss_module, "optimizer": self.optimizer}


class TD3BC(OfflineHost):
    """TorchRL's ``TD3BCLoss`` (Fujimoto and Gu, 2021): TD3 that stays near the actions of the data.

    Its networks read states that are standardised with the statistics of the data set.

    Args:
        env: environment that gives the specs.
        config: configuration with ``td3bc`` and ``compile``.
        device: device of the networks.
        states: states of the data set, shape ``[num_steps, state_dim]``.
    """

    def __init__(
        self, env: HasSpecs, config: OfflineRecallConfig, device: torch.device, states: Tensor
    ) -> None:
        spec, td3bc = env.action_spec_unbatched.to(device), config.td3bc
        loc, scale = states.mean(0), states.std(0, correction=0) + 1e-3  # as in the authors' code
        make, half = standardized_mlp(loc, scale), (spec.space.high - spec.space.low) / 2
        sizes = td3bc.num_cells, device
        self.actor = deterministic_actor(env, spec, *sizes, make=make)
        loss = TD3BCLoss(
            self.actor,
            make_qvalues(env, spec, *sizes, num=2, make=make),
            action_spec=spec,
            num_qvalue_nets=2,
            policy_noise=td3bc.policy_noise * half,
            noise_clip=td3bc.noise_clip * half,
            alpha=td3bc.alpha,
            loss_function="l2",
        )
        loss.make_value_estimator(gamma=td3bc.gamma)
        self.loss_module = loss.to(device)
        self._steps = DelayedPolicy(
            loss,
            lr=td3bc.lr,
            policy_delay=td3bc.policy_delay,
            critic_losses=lambda data: TensorDict({"loss_qvalue": loss.qvalue_loss(data)[0]}),
            policy_losses=lambda data: TensorDict({"loss_actor": loss.actor_loss(data)[0]}),
            critic_targets=None,
            policy_targets=SoftUpdate(loss, tau=td3bc.target_update_tau),
            compile=bool(config.compile),
        )

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Take the steps that are due on a batch, and return their losses."""
        return self._steps.update(batch)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets, optimisers and the counter of steps."""
        return self._steps.stateful_parts()
