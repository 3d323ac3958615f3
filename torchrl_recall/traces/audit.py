"""Audit of recall traces by the simulator: where their actions lead, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import at_least, next_key, positive, require
from torchrl_recall.envs.simulators import make_simulator
from torchrl_recall.traces.filters import check_traces, narrow, unbroken

__all__ = ["AuditedLength", "ExactDynamics", "TraceAuditor"]

Scale = Tensor | Callable[[], Tensor] | None
_CURE = "Name it with observation_key= or action_key=."


@dataclass(frozen=True)
class AuditedLength:
    """Findings of the simulator on traces, begun some steps before their end states.

    Distances are root mean squares over dimensions, and medians over traces, since a simulator that
    is put far off the data may throw a few of them anywhere. They are NaN where no trace was
    audited.

    Attributes:
        num_traces: traces whose step is left by filters, at this length.
        impossible: share of them whose state cannot be. They count in nothing below.
        landing_error: from where the actions lead to the end state.
        displacement: from the state to the end state.
        missed: share whose actions lead no nearer to the end state than the state was.
        step_error: from where the first action alone leads to the trace's next state.
    """

    num_traces: int
    impossible: float
    landing_error: float
    displacement: float
    missed: float
    step_error: float


class TraceAuditor:
    r"""Audit of recall traces by the simulator.

    For each length k it puts the simulator into the state :math:`s_{T-k}` of a trace and takes the
    trace's actions forward,

    .. math:: \hat s_{T-k} = s_{T-k}, \qquad \hat s_{t+1} = f(\hat s_t, a_t)

    The landing error is the distance from :math:`\hat s_T` to the end state :math:`s_T`. Beside it
    stands the distance that the trace was to cover. Steps that filters have masked out are not
    audited; their actions are taken on the way from earlier ones. It draws no random number.

    Args:
        simulator: of the task, or the task itself; see
            :func:`~torchrl_recall.envs.make_simulator`.

    Keyword Args:
        lengths: steps before the end state; those beyond a trace are left out.
        scale: divides states before distances are taken, shape ``[state_dim]``, or a callable that
            is asked each time. ``model.observations.scale`` gives standard deviations. Environment
            units by default.
        observation_key: key of the states.
        action_key: key of the actions.
        mask_key: key of the mask, which may be absent.

    Raises:
        ValueError: the task cannot be put into a state, or a length is below one.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import TraceAuditor
        >>> from torchrl_recall.envs import PointMassEnv
        >>> path = torch.tensor([[[0.0], [0.05], [0.2]]])      # the second step is too long
        >>> traces = TensorDict({
        ...     "observation": path[:, :-1], "action": torch.tensor([[[0.5], [1.0]]]),
        ...     "next": {"observation": path[:, 1:]},
        ... }, [1, 2])
        >>> audit = TraceAuditor(PointMassEnv(1, step_size=0.1), lengths=[1, 2])
        >>> found = audit(traces)
        >>> [round(found[k].landing_error, 3) for k in (1, 2)]
        [0.05, 0.05]
    """

    def __init__(
        self,
        simulator: Any,
        *,
        lengths: Sequence[int] = (1, 5, 10, 20),
        scale: Scale = None,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        mask_key: NestedKey = "mask",
    ) -> None:
        if not lengths:
            raise ValueError("lengths is empty; give steps before the end state, as [1, 5, 20].")
        for length in lengths:
            at_least(1, lengths=length)
        self.simulator, self.lengths, self.scale = make_simulator(simulator), lengths, scale
        self.observation_key, self.action_key = observation_key, action_key
        self.next_observation_key, self.mask_key = next_key(observation_key), mask_key

    @torch.no_grad()
    def __call__(self, traces: TensorDictBase) -> dict[int, AuditedLength]:
        """Audit traces in forward time.

        Args:
            traces: shape ``[num_traces, trace_length]``, on any device.

        Returns:
            What was found at each length.

        Raises:
            KeyError: an entry is missing.
            ValueError: they are not in this order.
        """
        check_traces(traces)
        keys = self.observation_key, self.action_key, self.next_observation_key
        states, actions, following = (
            require(traces, key, "TraceAuditor", _CURE).cpu() for key in keys
        )
        mask = traces.get(self.mask_key, None)
        kept = torch.ones(traces.shape, dtype=torch.bool) if mask is None else mask.cpu()
        return {
            k: self._audit(states[:, -k], actions[:, -k:], following[:, -k:], kept[:, -k])
            for k in self.lengths
            if k <= traces.shape[1]
        }

    def metrics(self, traces: TensorDictBase) -> dict[str, float]:
        """Audit traces for a log, as a call does.

        Returns:
            ``traces/landing_error_5``, ``traces/displacement_5``, ``traces/impossible_5`` and so
            on.
        """
        return {
            f"traces/{name}_{k}": asdict(found)[name]
            for k, found in self(traces).items()
            for name in ("landing_error", "displacement", "impossible")
        }

    def _audit(
        self, states: Tensor, actions: Tensor, following: Tensor, kept: Tensor
    ) -> AuditedLength:
        """Audit from the states on: ``[num]``, ``[num, k]``, ``[num, k]`` and ``[num]``."""
        states, actions, following = states[kept], actions[kept], following[kept]
        nan, num = torch.nan, len(states)
        if not num:
            return AuditedLength(0, nan, nan, nan, nan, nan)
        valid = self.simulator.is_valid(states)
        impossible = 1 - float(valid.float().mean())
        if not valid.any():
            return AuditedLength(num, impossible, nan, nan, nan, nan)
        states, following = states[valid], following[valid]
        path = self.simulator.replay(states, actions[valid])
        distance = Distance(self.simulator, self.scale)
        landing = distance(path[:, -1], following[:, -1]).nan_to_num(torch.inf)
        displacement = distance(states, following[:, -1])
        return AuditedLength(
            num,
            impossible,
            float(landing.median()),
            float(displacement.median()),
            float(((landing >= displacement) & (landing > 0)).float().mean()),
            float(distance(path[:, 0], following[:, 0]).median()),
        )


class ExactDynamics(TensorDictModuleBase):
    r"""Filter that cuts each trace where the simulator does not lead from it where it goes.

    .. math:: \lVert f(s_t, a_t) - s_{t+1} \rVert \le \text{tolerance}

    It walks back from the end state, as :class:`~torchrl_recall.Agreement` does with a learned
    forward model, which it bounds from above: who has such a simulator needs no model. A state that
    cannot be ends a trace too.

    Args:
        simulator: of the task, or the task itself; see
            :func:`~torchrl_recall.envs.make_simulator`.
        tolerance: the largest distance that is kept, as a root mean square over dimensions.

    Keyword Args:
        scale: divides states before distances are taken, see :class:`TraceAuditor`.
        observation_key: key of the states.
        action_key: key of the actions.
        mask_key: key of the mask.

    Raises:
        ValueError: the tolerance is not positive, or the task cannot be put into a state.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import ExactDynamics
        >>> from torchrl_recall.envs import PointMassEnv
        >>> path = torch.tensor([[[0.0], [0.2], [0.25]]])      # the first step is too long
        >>> traces = TensorDict({
        ...     "observation": path[:, :-1], "action": torch.tensor([[[1.0], [0.5]]]),
        ...     "next": {"observation": path[:, 1:]},
        ... }, [1, 2])
        >>> ExactDynamics(PointMassEnv(1, step_size=0.1), 0.01)(traces)["mask"]
        tensor([[False,  True]])
    """

    walks_back = True  # from the end state, so that order matters

    def __init__(
        self,
        simulator: Any,
        tolerance: float,
        *,
        scale: Scale = None,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        positive(tolerance=tolerance)
        self.simulator, self.tolerance = make_simulator(simulator), tolerance
        self.scale, self.mask_key = scale, mask_key
        self.in_keys = [observation_key, action_key, next_key(observation_key)]
        self.out_keys = [mask_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of traces of shape ``[num_traces, trace_length]``."""
        check_traces(tensordict)
        states, actions, following = (
            require(tensordict, key, "ExactDynamics", _CURE).cpu().flatten(0, 1)
            for key in self.in_keys
        )
        possible = self.simulator.is_valid(states)
        if possible.any():
            path = self.simulator.replay(states[possible], actions[possible].unsqueeze(1))
            distance = Distance(self.simulator, self.scale)(path[:, 0], following[possible])
            possible = possible.masked_scatter(possible, distance <= self.tolerance)
        keep = unbroken(possible.reshape(tensordict.shape))
        device = tensordict.get(self.in_keys[0]).device
        return narrow(tensordict, self.mask_key, keep.to(device))


class Distance:
    """Root mean square over the dimensions that a simulator compares, in units of a scale."""

    def __init__(self, simulator: Any, scale: Scale) -> None:
        self._coordinates = simulator.coordinates
        scale = scale() if callable(scale) else scale
        self._scale = None if scale is None else self._coordinates(scale.detach().cpu())

    def __call__(self, states: Tensor, others: Tensor) -> Tensor:
        """Measure states of shape ``[num, *state_shape]``; shape ``[num]``."""
        difference = self._coordinates(states) - self._coordinates(others)
        if self._scale is not None:
            difference = difference / self._scale
        return difference.square().flatten(1).mean(-1).sqrt()
