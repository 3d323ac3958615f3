"""Imitation of recall traces (Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from torch import Tensor
from torchrl.data import Composite, TensorSpec
from torchrl.modules import MaskedOneHotCategorical, OneHotCategorical
from torchrl.objectives import LossModule

from torchrl_recall.checks import require
from torchrl_recall.modules.evaluation import evaluating
from torchrl_recall.objectives.backtracking import check_reduction, zero_masked

__all__ = ["ImitationLoss"]


class ImitationLoss(LossModule):
    r"""Negative log-likelihood of a policy on the pairs of recall traces (Eq. 3).

    .. math:: -\mathcal{L}_I = -\sum_t \log \pi_\theta(a_t \mid s_t)

    where :math:`(s_t, a_t)` comes from a recall trace. Recalled actions may lie on or beyond the
    bounds of the action space. A squashed policy has no finite likelihood there, so actions are
    clamped to a small distance inside the bounds.

    The policy is evaluated in evaluation mode, and its mode is restored afterwards. So states of
    traces do not move its running statistics, and no pair depends on the others of its batch.

    From Goyal et al., *Recall Traces*, ICLR 2019.

    Args:
        actor_network: the stochastic policy, with ``get_dist``.

    Keyword Args:
        action_spec: spec whose bounds clamp the actions; the actor's own by default. Actions
            without bounds, and discrete ones, are not clamped.
        action_margin: distance kept from each bound, as a fraction of half the range: 0.01 clamps
            to ±0.99 for bounds of ±1. The loss of a tanh-normal policy of mean 0 and scale 1 is
            0.5 nats per dimension at 0.99, and 14 at 0.999999.
        reduction: ``"mean"`` over pairs, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: the actor has no distribution.
        ValueError: the margin is not in [0, 1), the reduction is unknown, or a batched spec has
            other bounds in each environment.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import ImitationLoss
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> traces = TensorDict(
        ...     {"observation": torch.randn(4, 20, 3), "action": torch.ones(4, 20, 2)}, [4, 20]
        ... )
        >>> ImitationLoss(actor)(traces)["loss_imitation"].isfinite()
        tensor(True)
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` may rename.

        Attributes:
            action: a_t.
            mask: optional booleans of the batch's shape; False ignores a pair.
        """

        action: NestedKey = "action"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_imitation"]  # noqa: RUF012

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        action_spec: TensorSpec | None = None,
        action_margin: float = 0.01,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if not isinstance(actor_network, ProbabilisticTensorDictSequential):
            raise TypeError(
                f"ImitationLoss scores actions under a distribution, but "
                f"{type(actor_network).__name__} is not a ProbabilisticTensorDictSequential. Use a "
                "ProbabilisticActor; wrap a deterministic actor in GaussianPolicy, and a network "
                "of action values in BoltzmannPolicy."
            )
        if not 0.0 <= action_margin < 1.0:
            raise ValueError(f"action_margin must be in [0, 1), got {action_margin}.")
        self.reduction = check_reduction(reduction)
        self.convert_to_functional(actor_network, "actor_network")
        low, high = _bounds(action_spec or getattr(actor_network, "spec", None), actor_network)
        if low is not None and high is not None:
            span = high - low
            margin = torch.where(span.isfinite(), action_margin * span / 2, torch.zeros_like(span))
            low, high = low + margin, high - margin
        self.register_buffer("action_low", low, persistent=False)
        self.register_buffer("action_high", high, persistent=False)
        action_keys = getattr(actor_network, "dist_sample_keys", None) or ["action"]
        self.set_keys(action=action_keys[0])

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        self.in_keys = [*self.actor_network.in_keys, self.tensor_keys.action]

    def _loss_mask_keys(self) -> tuple[NestedKey, ...]:
        return (self.tensor_keys.mask, *super()._loss_mask_keys())

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute Eq. 3.

        Args:
            tensordict: pairs in forward time, any batch shape, environment units.

        Returns:
            ``loss_imitation``, a scalar unless the reduction is ``"none"``.

        Raises:
            KeyError: the action or an input of the policy is missing.
            ValueError: the action has another shape than the policy's own.
        """
        cure = "Rename it with loss.set_keys(action=...)."
        require(tensordict, self.tensor_keys.action, "ImitationLoss", cure)
        cure = (
            "The policy reads it. Traces hold observations and actions: complete them with a "
            "filter, as HindsightGoal does, or give a policy without recurrent state."
        )
        for key in self.actor_network.in_keys:
            require(tensordict, key, "ImitationLoss", cure)
        data = zero_masked(tensordict, self._loss_mask_keys(), self.in_keys)
        action = data.get(self.tensor_keys.action)  # before the actor may write one of its own
        states = data.select(*self.actor_network.in_keys)  # the actor writes into these
        params, actor = self.actor_network_params, self.actor_network
        with evaluating(actor), params.to_module(actor, preserve_module_state=False):
            dist = actor.get_dist(states)
        _check_shape(dist, action, self.tensor_keys.action)
        log_prob = dist.log_prob(self._clamp(action))
        if 0 < tensordict.ndim < log_prob.ndim:  # one for each part of the action
            log_prob = log_prob.flatten(tensordict.ndim).sum(-1)
        elif not tensordict.ndim and action.is_floating_point() and log_prob.shape == action.shape:
            log_prob = log_prob.sum(-1)  # of tensors without a batch size, given by their names
        loss = self._reduce_loss(-log_prob, tensordict)
        return TensorDict({"loss_imitation": loss}, batch_size=loss.shape)

    def _clamp(self, action: Tensor) -> Tensor:
        if action.dtype is torch.bool:  # refused by argmax in OneHotCategorical.log_prob
            action = action.long()
        return (
            action if self.action_low is None else action.clamp(self.action_low, self.action_high)
        )


def _bounds(spec: TensorSpec | None, actor) -> tuple[Tensor | None, Tensor | None]:
    """Return the bounds of the actor's actions, or (None, None) without bounds."""
    if isinstance(spec, Composite):
        keys = getattr(actor, "dist_sample_keys", None) or ["action"]
        spec = spec[keys[0]] if keys[0] in spec.keys(True, True) else None
    if spec is None or not spec.dtype.is_floating_point or not hasattr(spec.space, "low"):
        return None, None
    return _of_one(spec.space.low), _of_one(spec.space.high)


def _of_one(bound: Tensor) -> Tensor:
    """Reduce the bounds of a batch of environments, ``[*batch, dim]``, to those of one action."""
    rows = bound.reshape(-1, *bound.shape[-1:])
    if (rows != rows[:1]).any():
        raise ValueError(
            f"the action spec, of shape {tuple(bound.shape)}, has other bounds in each row, so "
            "those of one action are unknown. Give the spec of one environment, "
            "ImitationLoss(action_spec=env.action_spec_unbatched)."
        )
    return rows[0].clone()


def _check_shape(dist: Any, action: Tensor, key: NestedKey) -> None:
    """Refuse actions that a distribution would broadcast instead of scoring them."""
    own = dist.batch_shape + dist.event_shape
    if isinstance(dist, OneHotCategorical | MaskedOneHotCategorical):
        own = (*own, dist.num_samples)  # to TorchRL the vector is no event
    if action.shape != own:
        raise ValueError(
            f"the action at {key!r} has shape {tuple(action.shape)}, but the policy's own have "
            f"{tuple(own)}. Give actions of the policy's action space."
        )
