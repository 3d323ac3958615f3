"""The hosts of the on-policy recipes, from TorchRL's parts, and recall wired to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from tensordict import TensorDictBase
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.envs import EnvBase
from torchrl.modules import (
    MLP,
    IndependentNormal,
    ProbabilisticActor,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss, PPOLoss
from torchrl.objectives.value import GAE

from torchrl_recall import RewardStates, TRPOLoss, TrustRegion
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.self_imitation import ImitationOfGoodPairs
from torchrl_recall.trainers.build_recall import wire_recall
from torchrl_recall.trainers.hosts.networks import Joined, inputs_of
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.on_policy import (
    OnPolicyRecallConfig,
    PPORecallConfig,
    TRPORecallConfig,
)
from torchrl_recall.trainers.tasks.gym import longest_episode

__all__ = ["PPO", "TRPO", "OnPolicy", "make_host", "make_recall"]

_ADAM_EPS = 1e-5  # as Stable-Baselines3


class OnPolicy(ABC):
    """A Gaussian policy, a critic and generalised advantages; both see the goal if there is one.

    ``update`` is lines 6 and 7 of Alg. 1.

    Args:
        env: gives the specs.
        config: ``policy``, ``gae``, ``optim`` and the host's own group.
        device: where the networks are.
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
        self.in_keys, in_features = inputs_of(env)
        action_dim = action_spec.shape[-1]
        cells = config.policy.num_cells
        scale = AddStateIndependentNormalScale(action_dim, scale_mapping="exp", device=device)
        self.actor = ProbabilisticActor(
            TensorDictModule(
                Joined(_mlp(in_features, cells, action_dim, 0.01, device), scale),
                in_keys=self.in_keys,
                out_keys=["loc", "scale"],
            ),
            in_keys=["loc", "scale"],
            spec=action_spec,
            distribution_class=IndependentNormal,
            return_log_prob=False,
        )
        self.critic = ValueOperator(_mlp(in_features, cells, 1, 1.0, device), self.in_keys)
        self.gae = GAE(gamma=config.gae.gamma, lmbda=config.gae.lmbda, value_network=None)

    @abstractmethod
    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Learn from the policy's newest experience, shape ``[time]`` or ``[num_envs, time]``.

        Returns:
            What to log.
        """

    @torch.no_grad()
    def with_advantages(self, data: TensorDictBase) -> TensorDictBase:
        """Values, advantages and log-probabilities, a whole batch at a time: ``[num_frames]``."""
        data = data.select("action", "next", *self.in_keys)
        data["action_log_prob"] = self.actor.get_dist(data).log_prob(data["action"])
        self.critic(data)
        self.critic(data["next"])
        return self.gae(data).reshape(-1)

    @torch.no_grad()
    def policy_on(self, data: TensorDictBase) -> Distribution:
        """The policy's distributions on the states of a batch, one row for each."""
        return self.actor.get_dist(data.select(*self.in_keys).reshape(-1))

    def state_dict(self) -> dict:
        """Weights and optimiser."""
        return {"loss": self.loss_module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])


class TRPO(OnPolicy):
    """One step within the trust region, then some epochs of the critic (Schulman et al., 2015)."""

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
            max_kl=config.trpo.max_kl,
            damping=config.trpo.damping,
            cg_iterations=config.trpo.cg_iterations,
            line_search_steps=config.trpo.line_search_steps,
            line_search_shrink=config.trpo.line_search_shrink,
            fisher_subsampling=config.trpo.fisher_subsampling,
        )
        parameters = list(self.critic.parameters())
        self.optimizer = torch.optim.Adam(parameters, config.optim.lr, eps=_ADAM_EPS, fused=True)
        self.update_critic = make_update(
            self.loss_module,
            self.optimizer,
            loss_fn=self.loss_module.critic_loss,
            compile=bool(config.compile),
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """See :class:`OnPolicy`."""
        data = self.with_advantages(data)
        statistics = self.region.step(data)
        data = data.select("value_target", *self.in_keys)
        for batch in minibatches(data, self.config.num_epochs, self.config.batch_size):
            statistics.update(self.update_critic(batch))
        return {f"trpo/{key}": value for key, value in statistics.items()}


class PPO(OnPolicy):
    """Some epochs of the clipped objective and the critic together (Schulman et al., 2017)."""

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
        parameters = [p for p in self.loss_module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, config.optim.lr, eps=_ADAM_EPS, fused=True)
        self.update_once = make_update(
            self.loss_module,
            self.optimizer,
            max_grad_norm=config.ppo.max_grad_norm,
            compile=bool(config.compile),
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """See :class:`OnPolicy`."""
        keys = "action", "action_log_prob", "advantage", "value_target"
        data = self.with_advantages(data).select(*keys, *self.in_keys)
        for batch in minibatches(data, self.config.num_epochs, self.config.batch_size):
            losses = self.update_once(batch)
        return {f"ppo/{key}": value for key, value in losses.items()}


def make_host(env: EnvBase, config: OnPolicyRecallConfig, device: torch.device) -> OnPolicy:
    """The host that the configuration is of."""
    if isinstance(config, TRPORecallConfig):
        return TRPO(env, config, device)
    assert isinstance(config, PPORecallConfig)
    return PPO(env, config, device)


def make_recall(
    env: EnvBase, config: OnPolicyRecallConfig, host: OnPolicy, device: torch.device
) -> ImitationOfGoodPairs | None:
    """Recall from states of high reward (E.1), or its control; None for ``recall.method=none``."""
    if config.recall.method == "none":
        return None
    return wire_recall(
        env,
        config,
        host.actor,
        device,
        high_value_states=RewardStates(config.recall.num_high_value_states),
        critic=host.critic,
        interval=config.recall.interval,
        longest_episode=longest_episode(config.env.name),
    )


def minibatches(data: TensorDictBase, num_epochs: int, batch_size: int) -> Iterator[TensorDictBase]:
    """All rows in a new order in each epoch."""
    for _ in range(num_epochs):
        yield from data[torch.randperm(len(data))].split(batch_size)


def _mlp(
    in_features: int, num_cells: list[int], out_features: int, gain: float, device: torch.device
) -> MLP:
    """Hyperbolic tangents and orthogonal weights, as TRPO and PPO are usually run."""
    mlp = MLP(
        in_features=in_features,
        out_features=out_features,
        num_cells=num_cells,
        activation_class=nn.Tanh,
        device=device,
    )
    *hidden, last = (layer for layer in mlp if isinstance(layer, nn.Linear))
    for layer in (*hidden, last):
        nn.init.orthogonal_(layer.weight, gain if layer is last else 2**0.5)
        nn.init.zeros_(layer.bias)
    return mlp
