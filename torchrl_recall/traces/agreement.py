"""Filters of traces by a model's error, compared with its error on real transitions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import at_least
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.devices import device_of
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.ensemble import EnsembleDistribution
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.traces.filters import check_traces, narrow, unbroken

__all__ = ["Agreement", "Disagreement", "QuantileFilter", "refuse_judges"]


class QuantileFilter(TensorDictModuleBase):
    r"""Filter that cuts each trace where an error exceeds a quantile of its values on real data.

    A step is kept while

    .. math:: e_t \le Q_q(\{e : \text{real transitions}\})

    holds for it and for all later steps of the trace. The quantile is taken over the newest real
    transitions. :class:`~torchrl_recall.Recall` passes them to :meth:`observe` before any model is
    trained on them. While models learn fast, their present errors are smaller than the stored ones,
    and more steps are kept than the quantile suggests.

    Args:
        model: the model whose error is measured.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: number of the newest errors from which the quantile is taken.
        mask_key: key of the mask.

    Raises:
        TypeError: the model is no backtracking model.
        ValueError: a number is out of its range.
    """

    walks_back = True  # from the end state; traces must be in order of time
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
        if not isinstance(model, BacktrackingModel):
            raise TypeError(
                f"{type(self).__name__} measures the error of a BacktrackingModel, got "
                f"{type(model).__name__}. Build one with BacktrackingModel.from_specs(...)."
            )
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {quantile}.")
        at_least(1, window=window)
        self.__dict__["model"] = model  # not a submodule: its owner trains and saves it
        self.quantile, self.window, self.mask_key = quantile, window, mask_key
        device = device_of(model)
        self.register_buffer("errors", torch.full((window,), torch.nan, device=device))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.in_keys = [model.observation_key, model.action_key, model.next_observation_key]
        self.out_keys = [mask_key]

    @abstractmethod
    def error(self, tensordict: TensorDictBase) -> Tensor:
        """Compute the error of transitions, real or imagined.

        Args:
            tensordict: transitions in forward time, any batch shape, environment units.

        Returns:
            The errors, shape ``[*batch]``.
        """

    @property
    def threshold(self) -> Tensor:
        """The largest error that is kept.

        Raises:
            RuntimeError: no real transition has been observed, or all errors are NaN.
        """
        if not self.count:
            raise RuntimeError(
                f"{type(self).__name__} has seen no real transitions, by which it judges traces. "
                "Call observe(data) with collected ones; Recall does."
            )
        threshold = self.errors.nanquantile(self.quantile)
        if threshold.isnan():
            raise RuntimeError(
                f"the errors that {type(self).__name__} measured on real transitions are all NaN, "
                "so it cannot judge traces: the model has diverged, or the data hold NaN."
            )
        return threshold

    @torch.no_grad()
    def observe(self, data: TensorDictBase) -> None:
        """Measure the errors of real transitions; call it before a model is trained on them.

        Args:
            data: ``observation``, ``action`` and ``("next", "observation")``, any batch shape.
        """
        data = valid_steps(data)
        if not data.shape.numel():
            return
        if data.ndim > 1:  # the newest of each stream, not all of the last one
            data = data[..., -self._per_stream(data) :]
        rows = data.reshape(-1)[-self.window :].select(*self.in_keys)
        index = (self.count + torch.arange(len(rows))) % self.window
        self.errors[index.to(self.errors.device)] = self.error(rows).to(self.errors.dtype)
        self.count += len(rows)

    def _per_stream(self, data: TensorDictBase) -> int:
        return math.ceil(self.window / data.shape[:-1].numel())

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of traces.

        Args:
            tensordict: traces of shape ``[num_traces, trace_length]`` in forward time.

        Returns:
            The same tensordict with its mask.
        """
        check_traces(tensordict)
        sure = self.error(tensordict.select(*self.in_keys)) <= self.threshold
        return narrow(tensordict, self.mask_key, unbroken(sure))


def refuse_judges(filters: Iterable[TensorDictModuleBase], owner: str) -> None:
    """Refuse filters that judge by a model or by real transitions which nobody gives them.

    Args:
        filters: modules that narrow the mask of traces.
        owner: name of the object that was given them, for the error.

    Raises:
        ValueError: there is such a filter.
    """
    judges = [type(each).__name__ for each in filters if isinstance(each, QuantileFilter)]
    if judges:
        raise ValueError(
            f"{owner} neither trains the model of {' and '.join(judges)} nor gives it real "
            "transitions. Give Recall(..., filters=) such filters, or leave them out."
        )


class Agreement(QuantileFilter):
    r"""Filter that cuts each trace at a step that a forward model finds unlikely.

    Going back from the end state, steps are kept while

    .. math:: e_t = -\log p(s_{t+1} \mid s_t, a_t) \le Q_q

    A backward model may imagine a predecessor from which no action leads to the given state. The
    backward model cannot notice this, but a forward model can. :class:`~torchrl_recall.Recall`
    trains the forward model with as many gradient steps, of the same batch size, as its own model.

    The filter follows Lyu et al., *Double check your state before trusting it: confidence-aware
    bidirectional offline model-based imagination*, NeurIPS 2022.

    Args:
        model: a :class:`~torchrl_recall.JointModel`, or a forward model. The latter is a
            backtracking model whose input s_{t+1} holds the state in which a step begins; see
            :class:`~torchrl_recall.forward_updates.ForwardUpdates`.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: number of the newest errors from which the quantile is taken.
        mask_key: key of the mask.

    Raises:
        TypeError: the model is no backtracking model.
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
        """Compute the forward model's negative log-likelihood, in nats.

        Args:
            tensordict: transitions in forward time, any batch shape, environment units.

        Returns:
            The errors, shape ``[*batch]``.
        """
        if isinstance(self.model, JointModel):
            return -self.model.forward_log_prob(tensordict)
        observation, action, following = (tensordict.get(key) for key in self.in_keys)
        reversed_step = tensordict.empty()
        reversed_step.set(self.in_keys[0], following).set(self.in_keys[1], action)
        reversed_step.set(self.in_keys[2], observation)
        return -self.model.state_predictor_log_prob(reversed_step)


class Disagreement(QuantileFilter):
    r"""Filter that cuts each trace at a step on which the members of an ensemble disagree.

    Going back from the end state, steps are kept while

    .. math:: e_t = \operatorname{std}_m \operatorname{E}_m[\Delta s_t \mid a_t, s_{t+1}] \le Q_q

    The disagreement is measured in standard deviations of Δs, as a root mean square over
    dimensions. For categorical states it is the mutual information of the sample and its member,
    H(mean of p) - mean of H(p), in nats.

    Args:
        model: an ensemble, ``BacktrackingModel.from_specs(..., num_models=5)``.

    Keyword Args:
        quantile: q, the share of real transitions that would be kept, in (0, 1].
        window: number of the newest errors from which the quantile is taken.
        mask_key: key of the mask.

    Raises:
        TypeError: the model is no backtracking model.
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
        super().__init__(model, quantile=quantile, window=window, mask_key=mask_key)
        if getattr(model, "num_models", 1) < 2:
            raise ValueError(
                "Disagreement is of several models; build them with "
                "BacktrackingModel.from_specs(..., num_models=5)."
            )

    def error(self, tensordict: TensorDictBase) -> Tensor:
        """Compute the disagreement of the members.

        Args:
            tensordict: transitions in forward time, any batch shape, environment units.

        Returns:
            The errors, shape ``[*batch]``.
        """
        dist = self.model.state_predictor_dist(tensordict)
        assert isinstance(dist, EnsembleDistribution)
        if (deltas := self.model.deltas) is not None:
            spread = dist.members.mean.std(-2)
            spread = spread if deltas.standardize else spread / deltas.scale()
            return spread.square().mean(-1).sqrt()
        probs = dist.members.probs  # type: ignore[attr-defined]  # [*batch, num_models, categories]
        return _entropy(probs.mean(-2)) - _entropy(probs).mean(-1)


def _entropy(probs: Tensor) -> Tensor:
    """Compute the entropy of categorical distributions, in nats."""
    return -torch.special.xlogy(probs, probs).sum(-1)
