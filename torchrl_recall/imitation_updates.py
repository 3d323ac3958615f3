"""Imitation of good pairs, by steps of Adam or within a trust region (Alg. 1, l.12 and 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import at_least, check_masks, positive
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.modules.evaluation import evaluating
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.batches import BatchSource, Draws, mean_losses
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.optim.trust_region import TrustRegion
from torchrl_recall.stateful import Part, Stateful

__all__ = ["AdamSteps", "ImitationUpdates", "TrustRegionSteps", "make_steps"]

_ENOUGH_STATES = 4_096  # that measure a divergence well


class ImitationSteps(Protocol):
    """Interface of the gradient steps of imitation (Eq. 3)."""

    def begin(self, share: float, num_updates: int) -> None:
        """Set the length of the steps of one round.

        Args:
            share: factor of the length, in (0, 1].
            num_updates: number of steps in the round.
        """

    def observe(self, data: TensorDictBase) -> None:
        """Receive the newest experience.

        Args:
            data: transitions, of any batch shape.
        """

    def __call__(self, pairs: TensorDictBase) -> TensorDictBase:
        """Take one step on a batch of pairs, and return its losses."""

    def state_dict(self) -> dict:
        """Return the state."""

    def load_state_dict(self, state: dict, /) -> None:
        """Restore :meth:`state_dict`."""


class AdamSteps(Stateful):
    """Imitation steps by Adam, as in the paper, without a bound on the policy's change.

    Annealing lowers the learning rate, because Adam ignores the scale of a loss.

    Args:
        loss: Eq. 3, holding the policy.

    Keyword Args:
        lr: the learning rate; the paper uses that of the host.
        optimizer: an optimiser of the policy's parameters, with learning rates of its own; Adam by
            default.
        draws: reduces the losses of a batch to one number.
        compile: whether steps are compiled.

    Raises:
        ValueError: the learning rate is not positive.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import ImitationLoss
        >>> from torchrl_recall.imitation_updates import AdamSteps
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]), ["loc", "scale"],
        ...     spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> states, action = torch.rand(64, 3), torch.zeros(64, 2)
        >>> pairs = TensorDict({"observation": states, "action": action}, [64])
        >>> steps = AdamSteps(ImitationLoss(actor), lr=1e-2)
        >>> steps.begin(share=0.5, num_updates=20)  # half of the learning rate
        >>> losses = [steps(pairs)["loss_imitation"] for _ in range(20)]
        >>> bool(losses[-1] < losses[0])
        True
    """

    def __init__(
        self,
        loss: ImitationLoss,
        *,
        lr: float = 3e-4,
        optimizer: torch.optim.Optimizer | None = None,
        draws: BatchSource | None = None,
        compile: bool = False,
    ) -> None:
        positive(lr=lr)
        self.loss = loss
        self.draws: BatchSource = Draws() if draws is None else draws
        self.optimizer = make_adam(loss, lr) if optimizer is None else optimizer
        self._lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._update = make_update(loss, self.optimizer, loss_fn=self._losses, compile=compile)

    def begin(self, share: float, num_updates: int) -> None:
        """Set the learning rates of a round to ``share`` of their full values.

        Args:
            share: factor of the length, in (0, 1].
            num_updates: ignored.
        """
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * share

    def observe(self, data: TensorDictBase) -> None:
        """Do nothing: no divergence is measured.

        Args:
            data: ignored.
        """

    def __call__(self, pairs: TensorDictBase) -> TensorDictBase:
        """Take one step on a batch of pairs, and return its losses."""
        return self._update(pairs)

    def _losses(self, pairs: TensorDictBase) -> TensorDictBase:
        loss = self.loss(pairs)["loss_imitation"]
        return TensorDict({"loss_imitation": self.draws.total(loss, pairs.get("weight", None))})

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the optimiser; the policy belongs to the host."""
        return {"optimizer": self.optimizer}


class TrustRegionSteps:
    r"""Imitation steps within a trust region, which bounds the policy's change in one round.

    A round has ``n`` steps. The radius of each step is

    .. math:: \delta = \text{max\_kl} \, (\text{share} / n)^2

    The divergence grows with the square of the distance. So ``n`` steps in one direction change the
    policy as much as one step of radius ``max_kl``.

    Args:
        loss: Eq. 3, holding the policy.

    Keyword Args:
        max_kl: bound on the policy's change in one round, in nats, measured on the newest
            experience. Large batches are thinned to between 4,096 and 8,192 states.

    Raises:
        ValueError: ``max_kl`` is not positive.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import ImitationLoss
        >>> from torchrl_recall.imitation_updates import TrustRegionSteps
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]), ["loc", "scale"],
        ...     spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> states, action = torch.rand(64, 3), torch.zeros(64, 2)
        >>> pairs = TensorDict({"observation": states, "action": action}, [64])
        >>> steps = TrustRegionSteps(ImitationLoss(actor), max_kl=0.01)
        >>> steps.begin(share=1.0, num_updates=1)
        >>> steps.observe(pairs)  # where the divergence is measured
        >>> steps(pairs)["kl"] <= 0.01
        tensor(True)
    """

    def __init__(self, loss: ImitationLoss, *, max_kl: float = 0.01) -> None:
        positive(max_kl=max_kl)
        self.max_kl = max_kl
        self.region = TrustRegion(loss, max_kl=max_kl)
        self._actor, self._keys = loss.actor_network, loss.actor_network.in_keys
        self._newest: TensorDictBase | None = None

    def begin(self, share: float, num_updates: int) -> None:
        """Set the radius of each step of a round.

        Args:
            share: factor of the length, in (0, 1].
            num_updates: number of steps in the round.
        """
        self.region.max_kl = self.max_kl * (share / num_updates) ** 2

    def observe(self, data: TensorDictBase) -> None:
        """Keep the newest experience; the divergence is measured on it.

        Args:
            data: transitions, of any batch shape.
        """
        data = valid_steps(data).select(*self._keys)
        if not data.shape.numel():  # which cannot be reshaped
            return
        newest = data.reshape(-1)
        newest = newest[:: max(1, len(newest) // _ENOUGH_STATES)]
        self._newest = newest.to(self.region.parameters[0].device)

    def __call__(self, pairs: TensorDictBase) -> TensorDictBase:
        """Take one step on a batch of pairs, and return its losses."""
        with evaluating(self._actor):  # the divergence too
            return self.region.step(pairs, self._newest)

    def state_dict(self) -> dict:
        """Return the region's state and the newest experience."""
        newest = None if self._newest is None else self._newest.clone()
        return {"region": self.region.state_dict(), "newest": newest}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.region.load_state_dict(state["region"])
        newest = state["newest"]
        self._newest = None if newest is None else newest.to(self.region.parameters[0].device)


def make_steps(
    loss: ImitationLoss, *, lr: float = 3e-4, max_kl: float | None = None, compile: bool = False
) -> AdamSteps | TrustRegionSteps:
    """Build steps within a trust region if there is a bound, and steps of Adam otherwise.

    Args:
        loss: Eq. 3, holding the policy.

    Keyword Args:
        lr: Adam's learning rate.
        max_kl: bound on the policy's change in one round, in nats; None takes steps of Adam.
        compile: whether Adam's steps are compiled.

    Returns:
        :class:`AdamSteps` or :class:`TrustRegionSteps`.

    Raises:
        TypeError: the loss is not an :class:`~torchrl_recall.ImitationLoss`.
    """
    if not isinstance(getattr(loss, "_orig_mod", loss), ImitationLoss):
        raise TypeError(
            f"imitation takes steps of ImitationLoss, got a {type(loss).__name__}; give "
            "ImitationLoss(policy)."
        )
    positive(lr=lr)
    if max_kl is None:
        return AdamSteps(loss, lr=lr, compile=compile)
    return TrustRegionSteps(loss, max_kl=max_kl)


class ImitationUpdates:
    r"""Imitation of state-action pairs that pass all filters (Alg. 1, lines 12 and 13; Eq. 3).

    .. math:: -\sum_t \log \pi_\theta(a_t \mid s_t)

    Args:
        loss: Eq. 3, holding the host's policy.
        steps: :class:`AdamSteps` or :class:`TrustRegionSteps`.

    Keyword Args:
        num_updates: steps in each round.
        batch_size: pairs in each step.
        transforms: modules that add entries to the pairs or narrow their mask, applied in order.
        draws: the source of random batches.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl.modules import OneHotCategorical, ProbabilisticActor
        >>> from torchrl_recall import ImitationLoss, LoopErasure
        >>> from torchrl_recall.imitation_updates import AdamSteps, ImitationUpdates
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(torch.nn.Linear(3, 4), ["observation"], ["logits"]), ["logits"],
        ...     distribution_class=OneHotCategorical,
        ... )
        >>> path = torch.randn(8, 21, 3)
        >>> traces = TensorDict({
        ...     "observation": path[:, :-1],
        ...     "action": torch.eye(4)[torch.zeros(8, 20).long()],
        ...     "next": {"observation": path[:, 1:]},
        ... }, [8, 20])
        >>> loss = ImitationLoss(actor)
        >>> imitate = ImitationUpdates(loss, AdamSteps(loss, lr=0.01), transforms=[LoopErasure()])
        >>> first, last = (imitate(traces)["recall/loss_imitation"] for _ in range(2))
        >>> bool(last < first)
        True
    """

    def __init__(
        self,
        loss: ImitationLoss,
        steps: ImitationSteps,
        *,
        num_updates: int = 10,
        batch_size: int = 256,
        transforms: Sequence[TensorDictModuleBase] = (),
        draws: BatchSource | None = None,
    ) -> None:
        at_least(0, num_updates=num_updates)
        at_least(1, batch_size=batch_size)
        self.loss, self.steps = loss, steps
        self.num_updates, self.batch_size = num_updates, batch_size
        self.transforms = check_masks(transforms)
        self.draws: BatchSource = Draws() if draws is None else draws

    def __call__(self, pairs: TensorDictBase, share: float = 1.0) -> dict[str, Tensor]:
        """Take the imitation steps of one round.

        Args:
            pairs: states and actions, of any batch shape.
            share: factor of the steps' length, in (0, 1].

        Returns:
            ``recall/kept``, the share of pairs that the transforms kept, and the mean loss if any
            pair was kept; empty without updates.
        """
        if not self.num_updates:
            return {}
        for transform in self.transforms:
            pairs = transform(pairs)
        mask = pairs.get("mask", None)
        metrics = {"recall/kept": torch.ones(()) if mask is None else mask.float().mean()}
        self.steps.begin(share, self.num_updates)
        size = self.num_updates, self.batch_size
        batches = self.draws.pairs(pairs, *size, self.loss.in_keys)
        losses = [self.steps(batch) for batch in batches]
        return metrics | mean_losses(losses, "recall") if losses else metrics

    def state_dict(self) -> dict:
        """Return the state of the steps."""
        return self.steps.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.steps.load_state_dict(state)
