"""Audit of recall traces by the simulator: where their actions lead, and impossible states."""

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
    """Result of an audit of traces, replayed from a number of steps before their end states.

    Distances are root mean squares over dimensions and medians over traces. Medians are used
    because a few traces may land anywhere if the simulator starts far from real states. Numbers are
    NaN if no trace was audited.

    Attributes:
        num_traces: number of traces whose step at this length is kept by filters.
        impossible: share of these traces whose state is impossible. They are left out below.
        landing_error: distance of the state that the actions lead to from the end state.
        displacement: distance of the replay's first state from the end state.
        missed: share of traces whose actions lead no nearer to the end state.
        step_error: distance of the state that the first action leads to from the trace's next
            state.
    """

    num_traces: int
    impossible: float
    landing_error: float
    displacement: float
    missed: float
    step_error: float


class TraceAuditor:
    r"""Audit of recall traces by the simulator.

    For each length k, the simulator starts in the state :math:`s_{T-k}` of a trace and takes the
    trace's actions forward:

    .. math:: \hat s_{T-k} = s_{T-k}, \qquad \hat s_{t+1} = f(\hat s_t, a_t)

    The landing error is the distance of :math:`\hat s_T` from the end state :math:`s_T`. It is
    reported beside the displacement, the distance of :math:`s_{T-k}` from :math:`s_T`. No replay
    starts at a step that filters have masked out, but replays from earlier steps take its action.
    The audit draws no random number.

    Args:
        simulator: a simulator of the task, or the task itself; see
            :func:`~torchrl_recall.envs.make_simulator`.

    Keyword Args:
        lengths: numbers of steps before the end state; those longer than a trace are left out.
        scale: divides states before distances are computed, shape ``[state_dim]``. A callable is
            called each time, such as ``model.observations.scale``, which returns standard
            deviations. By default distances are in environment units.
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
            The result for each length.

        Raises:
            KeyError: an entry is missing.
            ValueError: traces do not have the shape ``[num_traces, trace_length]``, or their states
                or actions, or the scale, are of another task.
        """
        check_traces(traces)
        keys = self.observation_key, self.action_key, self.next_observation_key
        states, actions, following = (
            require(traces, key, "TraceAuditor", _CURE).cpu() for key in keys
        )
        mask = traces.get(self.mask_key, None)
        kept = (
            torch.ones(traces.shape, dtype=torch.bool)
            if mask is None
            else mask.cpu().reshape(traces.shape)
        )
        return {
            k: self._audit(states[:, -k], actions[:, -k:], following[:, -k:], kept[:, -k])
            for k in self.lengths
            if k <= traces.shape[1]
        }

    def metrics(self, traces: TensorDictBase) -> dict[str, float]:
        """Audit traces, and return the result as metrics for a log.

        Args:
            traces: shape ``[num_traces, trace_length]``, on any device.

        Returns:
            ``traces/landing_error_5``, ``traces/displacement_5``, ``traces/impossible_5`` and so
            on, one for each length.
        """
        return {
            f"traces/{name}_{k}": asdict(found)[name]
            for k, found in self(traces).items()
            for name in ("landing_error", "displacement", "impossible")
        }

    def _audit(
        self, states: Tensor, actions: Tensor, following: Tensor, kept: Tensor
    ) -> AuditedLength:
        """Replay from states ``[num]`` by actions ``[num, k]``, and compare with ``following``."""
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
            float(distance(path[:, 0], following[:, 0]).nan_to_num(torch.inf).median()),
        )


class ExactDynamics(TensorDictModuleBase):
    r"""Filter that cuts each trace at a step that the simulator cannot reproduce.

    Going back from the end state, steps are kept while

    .. math:: \lVert f(s_t, a_t) - s_{t+1} \rVert \le \text{tolerance}

    The filter shows the best that :class:`~torchrl_recall.Agreement` could do with a perfect
    forward model. It is meant for studies, because a learned model is not needed where a simulator
    can be put into any state. An impossible state also ends a trace.

    Args:
        simulator: a simulator of the task, or the task itself; see
            :func:`~torchrl_recall.envs.make_simulator`.
        tolerance: the largest distance that is kept, as a root mean square over dimensions, in
            units of ``scale``.

    Keyword Args:
        scale: divides states before distances are computed, see :class:`TraceAuditor`.
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

    walks_back = True  # from the end state; traces must be in order of time

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
        """Narrow the mask of traces.

        Args:
            tensordict: traces of shape ``[num_traces, trace_length]`` in forward time.

        Returns:
            The same tensordict with its mask.
        """
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
    """Root-mean-square distance over the dimensions that a simulator compares, in scaled units."""

    def __init__(self, simulator: Any, scale: Scale) -> None:
        self._coordinates = simulator.coordinates
        scale = scale() if callable(scale) else scale
        self._shape = None if scale is None else scale.shape
        self._scale = None if scale is None else self._coordinates(scale.detach().cpu())

    def __call__(self, states: Tensor, others: Tensor) -> Tensor:
        """Compute distances ``[num]`` of states ``[num, *state_shape]``."""
        if self._shape and self._shape[-1] not in (1, states.shape[-1]):
            raise ValueError(
                f"scale= has {self._shape[-1]} numbers, states have {states.shape[-1]}; give one "
                "number for each dimension of the state."
            )
        difference = self._coordinates(states) - self._coordinates(others)
        if self._scale is not None:
            difference = difference / self._scale
        return difference.square().flatten(1).mean(-1).sqrt()
