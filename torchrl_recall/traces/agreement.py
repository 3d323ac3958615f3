"""Filters that ask how sure models are, by what they say of real transitions."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import at_least
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.ensemble import EnsembleDistribution
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.traces.filters import check_traces, narrow, unbroken

__all__ = ["Agreement", "Disagreement", "QuantileFilter"]


class QuantileFilter(TensorDictModuleBase):
    r"""Filter that cuts each trace where an error is larger than those of real transitions.

    .. math:: e_t \le Q_q(\{e : \text{real transitions}\})

    It walks back from the end state. The quantile is of the newest real transitions, each measured
    before anything was trained on it: :class:`~torchrl_recall.Recall` shows them to :meth:`observe`
    before their round. While models learn fast, they are better by now than they were then, so that
    more is kept than the quantile says.

    Args:
        model: that the error is of.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: the newest errors that the quantile is taken of.
        mask_key: key of the mask.

    Raises:
        ValueError: a number is out of its range.
    """

    walks_back = True  # from the end state, so that order matters
    errors: Tensor
    count: Tensor

    def __init__(
        self,
        model: BacktrackingModel,
        *,
        quantile: float = 0.95,
        window: int = 200,
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {quantile}.")
        at_least(1, window=window)
        self.__dict__["model"] = model  # not a submodule: its owner trains and saves it
        self.quantile, self.window, self.mask_key = quantile, window, mask_key
        device = next((p.device for p in model.parameters()), None)
        self.register_buffer("errors", torch.full((window,), torch.nan, device=device))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.in_keys = [model.observation_key, model.action_key, model.next_observation_key]
        self.out_keys = [mask_key]

    @abstractmethod
    def error(self, tensordict: TensorDictBase) -> Tensor:
        """Measure transitions, real or not: shape ``[*batch]``."""

    @property
    def threshold(self) -> Tensor:
        """Return the largest error that is kept.

        Raises:
            RuntimeError: no real transition has been observed.
        """
        if not self.count:
            raise RuntimeError(
                f"{type(self).__name__} has seen no real transitions, by which it judges traces. "
                "Call observe(data) with collected ones; Recall does."
            )
        return self.errors.nanquantile(self.quantile)

    @torch.no_grad()
    def observe(self, data: TensorDictBase) -> None:
        """Measure real transitions, before a model is trained on them.

        Args:
            data: ``observation``, ``action`` and ``("next", "observation")``, any batch shape.
        """
        data = valid_steps(data)
        if data.ndim > 1:  # the newest of each stream, not all of the last one
            data = data[..., -self._per_stream(data) :]
        rows = data.reshape(-1)[-self.window :].select(*self.in_keys)
        if not len(rows):
            return
        index = (self.count + torch.arange(len(rows))) % self.window
        self.errors[index.to(self.errors.device)] = self.error(rows).to(self.errors.dtype)
        self.count += len(rows)

    def _per_stream(self, data: TensorDictBase) -> int:
        return math.ceil(self.window / data.shape[:-1].numel())

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of traces of shape ``[num_traces, trace_length]``."""
        check_traces(tensordict)
        sure = self.error(tensordict.select(*self.in_keys)) <= self.threshold
        return narrow(tensordict, self.mask_key, unbroken(sure))


class Agreement(QuantileFilter):
    r"""Filter that cuts each trace where a forward model does not lead from it where it goes.

    .. math:: e_t = -\log p(s_{t+1} \mid s_t, a_t) \le Q_q

    A backward model alone cannot notice that no action leads from what it imagines to where it
    came from. What is kept of a trace lies next to its end state.
    :class:`~torchrl_recall.Recall` trains the forward model beside its own, as often and on as many
    transitions.

    After Lyu et al., *Double check your state before trusting it: confidence-aware bidirectional
    offline model-based imagination*, NeurIPS 2022.

    Args:
        model: a :class:`~torchrl_recall.JointModel`, or a forward model: q(s_t | a_t, s_{t+1}) by
            its names, where s_{t+1} is where a step begins. See
            :class:`~torchrl_recall.forward_updates.ForwardUpdates`.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: the newest errors that the quantile is taken of.
        mask_key: key of the mask.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import Agreement, BacktrackingModel
        >>> from torchrl_recall.forward_updates import ForwardUpdates
        >>> states = torch.randn(64, 3)
        >>> data = TensorDict({
        ...     "observation": states, "action": torch.rand(64, 2),
        ...     "next": {"observation": states + 0.1},
        ... }, [64])
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> ForwardUpdates(model).update_statistics(data)
        >>> agreement = Agreement(model, quantile=0.9)
        >>> agreement.observe(data)
        >>> agreement(data.unsqueeze(1))["mask"].float().mean()     # traces of one real step
        tensor(0.8906)
    """

    def error(self, tensordict: TensorDictBase) -> Tensor:
        """Return the forward model's negative log-likelihood."""
        if isinstance(self.model, JointModel):
            return -self.model.forward_log_prob(tensordict)
        observation, action, following = (tensordict.get(key) for key in self.in_keys)
        reversed_step = tensordict.empty()
        reversed_step.set(self.in_keys[0], following).set(self.in_keys[1], action)
        reversed_step.set(self.in_keys[2], observation)
        return -self.model.state_predictor_log_prob(reversed_step)


class Disagreement(QuantileFilter):
    r"""Filter that cuts each trace where the members of an ensemble part.

    .. math:: e_t = \operatorname{std}_m \operatorname{E}_m[\Delta s_t \mid a_t, s_{t+1}] \le Q_q

    in standard deviations of Δs, as a root mean square over dimensions. Of categories it is the
    information that a sample has of its member, H(mean of p) - mean of H(p).

    Args:
        model: an ensemble, ``BacktrackingModel.from_specs(..., num_models=5)``.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: the newest errors that the quantile is taken of.
        mask_key: key of the mask.

    Raises:
        ValueError: a number is out of its range, or the model is no ensemble.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingModel, Disagreement
        >>> states = torch.randn(64, 3)
        >>> data = TensorDict({
        ...     "observation": states, "action": torch.rand(64, 2),
        ...     "next": {"observation": states + 0.1},
        ... }, [64])
        >>> specs = Unbounded((3,)), Bounded(-1, 1, (2,))
        >>> model = BacktrackingModel.from_specs(*specs, num_models=5)
        >>> model.update_statistics(data)
        >>> disagreement = Disagreement(model, quantile=0.9)
        >>> disagreement.observe(data)
        >>> disagreement(data.unsqueeze(1))["mask"].float().mean()
        tensor(0.8906)
    """

    def __init__(
        self,
        model: BacktrackingModel,
        *,
        quantile: float = 0.95,
        window: int = 200,
        mask_key: NestedKey = "mask",
    ) -> None:
        if getattr(model, "num_models", 1) < 2:
            raise ValueError(
                "Disagreement is of several models; build them with "
                "BacktrackingModel.from_specs(..., num_models=5)."
            )
        super().__init__(model, quantile=quantile, window=window, mask_key=mask_key)

    def error(self, tensordict: TensorDictBase) -> Tensor:
        """Return how far the members are apart."""
        dist = self.model.state_predictor_dist(tensordict)
        assert isinstance(dist, EnsembleDistribution)
        if self.model.deltas is not None:
            return dist.members.mean.std(-2).square().mean(-1).sqrt()
        probs = dist.members.probs  # type: ignore[attr-defined]  # [*batch, num_models, categories]
        return _entropy(probs.mean(-2)) - _entropy(probs).mean(-1)


def _entropy(probs: Tensor) -> Tensor:
    """Compute the entropy of categories, in nats."""
    return -torch.special.xlogy(probs, probs).sum(-1)
