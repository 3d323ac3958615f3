"""Trust region policy optimisation (Schulman et al., 2015), which TorchRL lacks."""

from __future__ import annotations

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, dispatch
from torch import Tensor
from torchrl.objectives import PPOLoss
from torchrl.objectives.ppo import (
    _broadcast_advantage_to_log_weight,
    _check_advantage_broadcast,
)

from torchrl_recall.checks import require

__all__ = ["TRPOLoss"]


class TRPOLoss(PPOLoss):
    r"""Surrogate objective, divergence, entropy and critic of TRPO.

    .. math:: L(\theta) = \mathbb{E}_{s, a \sim \pi_\text{old}} \left[
        \frac{\pi_\theta(a \mid s)}{\pi_\text{old}(a \mid s)} A(s, a) \right]
        \quad\text{subject to}\quad
        \mathbb{E}_s \left[ D_\text{KL}(\pi_\text{old}(\cdot \mid s) \,\|\,
        \pi_\theta(\cdot \mid s)) \right] \le \delta

    This is Eq. 14 of Schulman et al., *Trust Region Policy Optimization*, 2015. ``loss_objective``
    is :math:`-L`. :class:`~torchrl_recall.TrustRegion` takes the step on :meth:`actor_loss` and
    keeps the constraint. Gradient descent alone would ignore the constraint. Keys, reductions,
    value estimators and masks are those of :class:`~torchrl.objectives.PPOLoss`.

    Args:
        actor_network: the stochastic policy.
        critic_network: V(s), which shares no parameters with the actor; None leaves
            ``loss_critic`` out.

    Keyword Args:
        entropy_bonus: whether to add an entropy bonus to the objective.
        kwargs: other arguments of :class:`~torchrl.objectives.PPOLoss`.

    Raises:
        TypeError: the actor has no distribution.
        ValueError: actor and critic share parameters.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
        >>> from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
        >>> from torchrl_recall import TRPOLoss, TrustRegion
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), AddStateIndependentNormalScale(2))
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]), ["loc", "scale"],
        ...     distribution_class=IndependentNormal, return_log_prob=True,
        ... )
        >>> critic = ValueOperator(torch.nn.Linear(3, 1), ["observation"])
        >>> data = actor(TensorDict({"observation": torch.randn(64, 3)}, [64])).detach()
        >>> data["advantage"] = data["action"].sum(-1, keepdim=True)
        >>> loss = TRPOLoss(actor, critic)
        >>> region = TrustRegion(loss, loss_fn=loss.actor_loss, max_kl=0.01)
        >>> statistics = region.step(data)
        >>> bool(statistics["accepted"]), bool(statistics["kl"] <= 0.01)
        (True, True)
    """

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        critic_network: TensorDictModule | None = None,
        *,
        entropy_bonus: bool = False,
        **kwargs,
    ) -> None:
        if not isinstance(actor_network, ProbabilisticTensorDictSequential):
            raise TypeError(
                f"TRPO needs a stochastic policy, but {type(actor_network).__name__} is not a "
                "ProbabilisticTensorDictSequential. Use a ProbabilisticActor."
            )
        if critic_network is not None:
            of_actor = {id(p) for p in actor_network.parameters()}
            if shared := sum(id(p) in of_actor for p in critic_network.parameters()):
                raise ValueError(
                    f"the critic shares {shared} parameters with the actor, so that fitting it "
                    "would move the policy out of the trust region. Give it a network of its own."
                )
        super().__init__(actor_network, critic_network, entropy_bonus=entropy_bonus, **kwargs)
        entropy = ["entropy", "loss_entropy"] if entropy_bonus else []
        critic = ["loss_critic"] if self._has_critic else []
        self.out_keys = ["loss_objective", "kl_approx", *entropy, *critic]

    def actor_loss(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the losses of the policy.

        Args:
            tensordict: observations, actions, ``action_log_prob`` and ``advantage`` of any batch
                shape. The advantage has a last dimension of one, as GAE writes it.

        Returns:
            ``loss_objective``, ``kl_approx`` and, with the bonus, ``entropy`` and
            ``loss_entropy``.

        Raises:
            KeyError: the advantage or the log-probability is missing.
            ValueError: the advantage has another shape than the log-probability's, with one more
                dimension.
        """
        return self._actor_loss(tensordict, update_norm=False)

    def _actor_loss(self, tensordict: TensorDictBase, *, update_norm: bool) -> TensorDict:
        """Compute :meth:`actor_loss`, and move the scale of new advantages first if asked."""
        cure = (
            "Write it with GAE or loss.value_estimator, or rename it with "
            "loss.set_keys(advantage=...)."
        )
        tensordict = tensordict.copy()  # the actor writes into it
        advantage = require(tensordict, self.tensor_keys.advantage, "TRPOLoss", cure)
        advantage = self._maybe_normalize_advantage(advantage, tensordict, update_norm=update_norm)
        shape = advantage.shape[:-1]
        log_weight, dist, kl_approx, correction = self._log_weight(tensordict, adv_shape=shape)
        advantage = _broadcast_advantage_to_log_weight(advantage, log_weight)
        _check_advantage_broadcast(advantage, log_weight)
        if advantage.shape[-1:] != (1,):
            raise ValueError(
                f"the advantage has the shape {tuple(advantage.shape)}; its last dimension must be "
                "one, as GAE writes it."
            )
        if correction is not None:
            log_weight = log_weight + correction
        out = TensorDict(
            {"loss_objective": self._reduced(-log_weight.exp() * advantage, tensordict)}
        )
        out["kl_approx"] = kl_approx.detach().mean()
        if self.entropy_bonus:
            entropy = self._get_entropy(dist, adv_shape=shape)
            out["loss_entropy"] = self._reduced(self._weighted_loss_entropy(entropy), tensordict)
            out["entropy"] = (
                sum(entropy.values(True, True)) if isinstance(entropy, TensorDictBase) else entropy
            ).detach().mean()  # fmt: skip
        return out

    def critic_loss(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the loss of the critic, the distance of V(s) from ``value_target``.

        Args:
            tensordict: observations and ``value_target`` of any batch shape.

        Returns:
            ``loss_critic``, a scalar unless the reduction is ``"none"``.
        """
        loss, *_ = self.loss_critic(tensordict)
        return TensorDict({"loss_critic": self._reduced(loss, tensordict)})

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses, and the advantage first if it is missing.

        Args:
            tensordict: observations, actions and ``action_log_prob`` of any batch shape, with
                ``advantage`` or with what the value estimator reads.

        Returns:
            The entries of :meth:`actor_loss` and, with a critic, of :meth:`critic_loss`.
        """
        tensordict = tensordict.clone(False)
        is_new = tensordict.get(self.tensor_keys.advantage, None) is None
        if is_new and self._has_critic:
            self.value_estimator(
                tensordict,
                params=self._cached_critic_network_params_detached,
                target_params=self.target_critic_network_params,
            )
        out = self._actor_loss(tensordict, update_norm=is_new)
        return out.update(self.critic_loss(tensordict)) if self._has_critic else out

    def _reduced(self, loss: Tensor, tensordict: TensorDictBase) -> Tensor:
        return self._reduce_loss(loss, tensordict).squeeze(-1)
