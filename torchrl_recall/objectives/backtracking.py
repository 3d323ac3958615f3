"""Maximum-likelihood objective of the backtracking model (Eq. 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_recall.checks import next_key, require
from torchrl_recall.modules.backtracking_model import BacktrackingModel

__all__ = ["BacktrackingLoss"]


class BacktrackingLoss(LossModule):
    r"""Negative log-likelihood of the backtracking model on real transitions (Eq. 2).

    .. math::
        -\mathcal{L}_B = -\sum_t \log q(a_t \mid s_{t+1}) + \log q(\Delta s_t \mid a_t, s_{t+1})

    The first term is ``loss_backward_policy`` and the second ``loss_state_predictor``; both are
    minimised. The two factors share no parameters. So :meth:`backward_policy_loss` and
    :meth:`state_predictor_loss` can train them on different data. The state predictor can learn
    from all transitions, while the backward policy should learn from good trajectories only.

    From Goyal et al., *Recall Traces*, ICLR 2019.

    Args:
        backtracking_model: the model to train.

    Keyword Args:
        reduction: ``"mean"`` over transitions, ``"sum"`` or ``"none"``.
        bootstrap: whether each member of an ensemble learns from its own batch, drawn from the
            given one with replacement. The loss is then the mean of the members' losses, which is
            an upper bound on the loss of their mixture.

    Raises:
        TypeError: the model is not a :class:`~torchrl_recall.BacktrackingModel`.
        ValueError: the reduction is unknown, or ``bootstrap`` is given without an ensemble.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3),
        ...     "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64])
        >>> model.update_statistics(data)
        >>> loss = BacktrackingLoss(model)
        >>> sorted(loss(data).keys())
        ['loss_backward_policy', 'loss_state_predictor']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` may rename.

        Attributes:
            observation: s_t; s_{t+1} is the same key under ``"next"``. The model's by default.
            action: a_t. The model's by default.
            mask: optional booleans of the batch's shape; False ignores a transition.
        """

        observation: NestedKey | None = None
        action: NestedKey | None = None
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_backward_policy", "loss_state_predictor"]  # noqa: RUF012

    backtracking_model: BacktrackingModel
    backtracking_model_params: TensorDictParams
    target_backtracking_model_params: TensorDictParams

    def __init__(
        self,
        backtracking_model: BacktrackingModel,
        *,
        reduction: Literal["none", "mean", "sum"] = "mean",
        bootstrap: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(backtracking_model, BacktrackingModel):
            raise TypeError(
                f"BacktrackingLoss trains a BacktrackingModel, got "
                f"{type(backtracking_model).__name__}. Build one with "
                "BacktrackingModel.from_specs(observation_spec, action_spec)."
            )
        if bootstrap and getattr(backtracking_model, "num_models", 1) < 2:
            raise ValueError(
                "bootstrap=True draws a batch for each member of an ensemble; build one with "
                "BacktrackingModel.from_specs(..., num_models=5), or leave it False."
            )
        self.reduction, self.bootstrap = check_reduction(reduction), bootstrap
        self.convert_to_functional(backtracking_model, "backtracking_model")
        self.set_keys()

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        keys, model = self.tensor_keys, self.backtracking_model
        keys.observation = keys.observation or model.observation_key
        keys.action = keys.action or model.action_key
        self.in_keys = [keys.observation, keys.action, next_key(keys.observation)]

    def _loss_mask_keys(self) -> tuple[NestedKey, ...]:
        return (self.tensor_keys.mask, *super()._loss_mask_keys())

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both terms of Eq. 2.

        Args:
            tensordict: real transitions in forward time, any batch shape, environment units.

        Returns:
            ``loss_backward_policy`` and ``loss_state_predictor``, scalars unless the reduction is
            ``"none"``.
        """
        losses = {
            "loss_backward_policy": self.backward_policy_loss(tensordict),
            **self.dynamics_losses(tensordict),
        }
        shape = tensordict.batch_size if self.reduction == "none" else torch.Size([])
        return TensorDict(losses, batch_size=shape)

    def backward_policy_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Compute the first term of Eq. 2, -log q(a_t | s_{t+1}).

        Args:
            tensordict: real transitions in forward time, any batch shape, environment units.

        Returns:
            The loss in nats, a scalar unless the reduction is ``"none"``.
        """
        with self._functional_model() as model:
            log_prob = model.backward_policy_log_prob(self._data(tensordict), each_member=True)
        return self._reduce_loss(-self._over_members(log_prob, tensordict), tensordict)

    def state_predictor_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Compute the second term of Eq. 2, -log q(Δs_t | a_t, s_{t+1}).

        Args:
            tensordict: real transitions in forward time, any batch shape, environment units.

        Returns:
            The loss in nats, a scalar unless the reduction is ``"none"``.
        """
        with self._functional_model() as model:
            log_prob = model.state_predictor_log_prob(self._data(tensordict), each_member=True)
        return self._reduce_loss(-self._over_members(log_prob, tensordict), tensordict)

    def dynamics_losses(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        """Compute all terms but that of the backward policy; they may learn from all experience.

        Args:
            tensordict: real transitions in forward time, any batch shape, environment units.

        Returns:
            The losses by name.
        """
        return {"loss_state_predictor": self.state_predictor_loss(tensordict)}

    def _over_members(self, log_prob: Tensor, tensordict: TensorDictBase) -> Tensor:
        """Average over the members of an ensemble; a row may occur repeatedly in their batches."""
        action = tensordict.get(self.tensor_keys.action)
        if log_prob.ndim == action.ndim - len(self.backtracking_model.action_spec.shape):
            return log_prob  # of one model
        if self.bootstrap:
            rows = log_prob.flatten(0, -2)
            drawn = torch.randint(len(rows), rows.shape, device=rows.device)
            times = torch.zeros_like(rows).scatter_add(0, drawn, torch.ones_like(rows))
            log_prob = log_prob * times.reshape(log_prob.shape)
        return log_prob.mean(-1)

    @contextmanager
    def _functional_model(self) -> Iterator[BacktrackingModel]:
        # preserve_module_state=False, as TorchRL's own losses do: it compiles.
        params, model = self.backtracking_model_params, self.backtracking_model
        with params.to_module(model, preserve_module_state=False):
            yield model

    def _data(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the transitions under the model's keys, with zeros in place of masked ones."""
        keys, model = self.tensor_keys, self.backtracking_model
        tensordict = zero_masked(tensordict, self._loss_mask_keys(), self.in_keys)
        if keys.observation == model.observation_key and keys.action == model.action_key:
            return tensordict
        renamed = TensorDict({}, batch_size=tensordict.batch_size)
        cure = "Rename it with loss.set_keys(observation=..., action=...)."
        for key, own in (
            (keys.observation, model.observation_key),
            (keys.action, model.action_key),
            (next_key(keys.observation), model.next_observation_key),
        ):
            renamed.set(own, require(tensordict, key, type(self).__name__, cure))
        return renamed


def zero_masked(
    tensordict: TensorDictBase, mask_keys: Sequence[NestedKey], keys: Sequence[NestedKey]
) -> TensorDictBase:
    """Replace masked entries by zeros, because a masked NaN would still make gradients NaN.

    Args:
        tensordict: data of any batch shape.
        mask_keys: entries with booleans of the batch's shape, where False masks; any may be absent.
        keys: entries to change; any may be absent.

    Returns:
        A copy, or ``tensordict`` itself if it has no mask.

    Raises:
        ValueError: the batch is empty.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.objectives.backtracking import zero_masked
        >>> data = TensorDict({
        ...     "action": torch.tensor([1.0, torch.nan]), "mask": torch.tensor([True, False])
        ... }, [2])
        >>> zero_masked(data, ["mask"], ["action"])["action"]
        tensor([1., 0.])
    """
    if not tensordict.shape.numel():
        raise ValueError("the batch is empty, so that it has no loss; give at least one row.")
    masks = [m for m in (tensordict.get(key, None) for key in mask_keys) if m is not None]
    if not masks:
        return tensordict
    out = tensordict.copy()
    for key in keys:
        value = tensordict.get(key, None)
        if value is None:
            continue
        for mask in masks:
            valid = mask.reshape(*tensordict.shape, *(1,) * (value.ndim - tensordict.ndim))
            value = torch.where(valid, value, torch.zeros_like(value))
        out.set(key, value)
    return out


def check_reduction(reduction: str) -> str:
    """Return the reduction, or refuse one that does not exist.

    Args:
        reduction: name of a reduction of a loss over its batch.

    Returns:
        The same name.

    Raises:
        ValueError: there is no such reduction.

    Examples:
        >>> from torchrl_recall.objectives.backtracking import check_reduction
        >>> check_reduction("mean")
        'mean'
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}.")
    return reduction
