"""Filters of recall traces, which choose the pairs that are worth imitating.

Each filter reads traces and narrows their boolean ``"mask"``; it changes nothing else. Filters
therefore compose in any order with :class:`torch.nn.Sequential` or
:class:`~tensordict.nn.TensorDictSequential`. The paper uses none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import next_key, positive, require
from torchrl_recall.modules.backtracking_model import BacktrackingModel

__all__ = [
    "AdvantageGate",
    "ConfidentSteps",
    "LoopErasure",
    "NearVisited",
    "WithinSupport",
]


class LoopErasure(TensorDictModuleBase):
    """Filter that removes loops: going back from the end state, each state is kept only once.

    A pair is dropped if its state lies within ``radius`` of the end state or of a state already
    kept. A long trace of a near-random backward policy goes toward its end state about as often as
    away from it. Imitating both directions teaches the policy nothing.

    Args:
        radius: distance at which two states count as the same, in units of ``scale``. Zero drops
            exact revisits, which suits discrete states. About 0.75 of the largest step worked for
            a point mass.

    Keyword Args:
        scale: divides the states before distances are computed, shape ``[state_dim]``, so that no
            dimension dominates. A callable is called each time, such as
            ``model.observations.scale``, the model's running standard deviation.
        observation_key: key of the states.
        mask_key: key of the mask.

    Raises:
        ValueError: the radius is negative, or the scale does not have one positive number for each
            dimension.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingModel, LoopErasure
        >>> path = torch.tensor([[[1.0], [2.0], [1.0], [2.0], [3.0]]])
        >>> traces = TensorDict(
        ...     {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 4]
        ... )
        >>> LoopErasure()(traces)["mask"]
        tensor([[False, False,  True,  True]])

        In units of what a model has seen:

        >>> model = BacktrackingModel.from_specs(Unbounded((1,)), Bounded(-1, 1, (2,)))
        >>> erase = LoopErasure(0.5, scale=model.observations.scale)
        >>> erase(traces)["mask"]
        tensor([[False, False,  True,  True]])
    """

    walks_back = True  # from the end state; traces must be in order of time

    def __init__(
        self,
        radius: float = 0.0,
        *,
        scale: Tensor | Callable[[], Tensor] | None = None,
        observation_key: NestedKey = "observation",
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        if not radius >= 0:
            raise ValueError(f"radius must be zero or positive, got {radius}.")
        self.radius = radius
        self.scale = scale
        self.mask_key = mask_key
        self.in_keys = _path_keys(observation_key)
        self.out_keys = [mask_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of traces.

        Args:
            tensordict: traces of shape ``[num_traces, trace_length]`` in forward time.

        Returns:
            The same tensordict with its mask.
        """
        # Paths as vectors, shape [num_traces, trace_length + 1, state_dim], the end state last.
        path = _path(tensordict, self.in_keys)
        length = path.shape[1] - 1
        path = path.flatten(2 if path.ndim > 2 else 1)
        if path.ndim == 2:
            path = path.unsqueeze(-1)
        path = path.double() if self.scale is None else path.double() / self._scale(path)

        # Radius zero: equality is transitive, so a state may be compared with all later ones.
        if not self.radius:
            equal = (path.unsqueeze(1) == path.unsqueeze(2)).all(-1)
            return narrow(tensordict, self.mask_key, ~equal.triu(1).any(-1)[:, :-1])

        # Walk back: nearness is not transitive, so each state is compared with kept ones only.
        near = torch.cdist(path, path, compute_mode=_EXACT) <= self.radius
        kept = torch.zeros_like(near[:, 0])  # [num_traces, trace_length + 1]
        kept[:, length] = True  # the end state itself
        for t in range(length - 1, -1, -1):
            kept[:, t] = ~(near[:, t] & kept).any(-1)
        return narrow(tensordict, self.mask_key, kept[:, :length])

    def _scale(self, path: Tensor) -> Tensor:
        scale = self.scale() if callable(self.scale) else self.scale
        shapes = (), path.shape[-1:]
        if not (isinstance(scale, Tensor) and scale.shape in shapes and (scale > 0).all()):
            raise ValueError(
                f"scale must be a positive number for each of the {path.shape[-1]} dimensions of a "
                f"state, got {scale}. Take the model's: LoopErasure(radius, "
                "scale=model.observations.scale)."
            )
        return scale


class AdvantageGate(TensorDictModuleBase):
    r"""Filter that keeps a pair if the critic prefers its action: :math:`Q(s_t, a_t) > V(s_t)`.

    The filter helps hosts with a state-action critic, such as SAC, and hurts PPO.

    Args:
        critic: module that reads states and actions and writes both values, such as
            :class:`~torchrl_recall.StateValues`.

    Keyword Args:
        state_action_value_key: key under which the critic writes Q(s, a).
        value_key: key under which the critic writes V(s).
        mask_key: key of the mask.

    Raises:
        ValueError: the critic's V(s) is the largest Q(s, a), so no pair could be kept.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_recall import AdvantageGate
        >>> critic = TensorDictModule(             # Q(s, a) = s + a, V(s) = s
        ...     lambda s, a: (s + a, s),
        ...     in_keys=["observation", "action"],
        ...     out_keys=["state_action_value", "state_value"],
        ... )
        >>> pairs = TensorDict({"observation": torch.zeros(2, 1),
        ...                     "action": torch.tensor([[1.0], [-1.0]])}, [2])
        >>> AdvantageGate(critic)(pairs)["mask"]
        tensor([ True, False])
    """

    def __init__(
        self,
        critic: TensorDictModuleBase,
        *,
        state_action_value_key: NestedKey = "state_action_value",
        value_key: NestedKey = "state_value",
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        if getattr(critic, "is_greedy", False):
            raise ValueError(
                "V(s) of this critic is the largest Q(s, a), so that no action has an advantage "
                "and no pair would be left. Give StateValues the temperature of the "
                "BoltzmannPolicy that is imitated by: StateValues(loss, temperature=1.0)."
            )
        self.critic = critic
        self.state_action_value_key = state_action_value_key
        self.value_key = value_key
        self.mask_key = mask_key
        self.in_keys = list(critic.in_keys)
        self.out_keys = [mask_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of pairs; the critic does not evaluate masked pairs.

        Args:
            tensordict: pairs of any batch shape.

        Returns:
            The same tensordict with its mask.

        Raises:
            KeyError: the critic does not write Q(s, a) or V(s) under the keys.
            ValueError: the critic writes more or less than one value for each pair.
        """
        mask = tensordict.get(self.mask_key, None)
        if mask is None:
            cure = "The critic reads it; give traces that have it."
            device = require(tensordict, self.in_keys[0], "AdvantageGate", cure).device
            mask = torch.ones(tensordict.shape, dtype=torch.bool, device=device)
        mask = mask.reshape(tensordict.shape)
        if not mask.any():
            return tensordict.set(self.mask_key, mask)
        values = self.critic(tensordict.select(*self.in_keys, strict=False)[mask])
        cure = "Give a critic that writes Q(s, a) and V(s), or name them with the keys."
        state_action_value, value = (
            require(values, key, "AdvantageGate", cure)
            for key in (self.state_action_value_key, self.value_key)
        )
        num = values.shape.numel()
        if not state_action_value.numel() == value.numel() == num:
            raise ValueError(
                f"the critic of AdvantageGate writes {self.state_action_value_key!r} of shape "
                f"{tuple(state_action_value.shape)} and {self.value_key!r} of shape "
                f"{tuple(value.shape)} for {num} pairs; one value for each pair is needed."
            )
        agrees = state_action_value.reshape(-1) > value.reshape(-1)
        return tensordict.set(self.mask_key, mask.masked_scatter(mask, agrees))


class WithinSupport(TensorDictModuleBase):
    """Filter that cuts each trace where it leaves the range of the data.

    Going back from the end state, steps are kept until the first state outside the range. A model
    drifts when it is rolled out on its own predictions. Far from the data its states grow without
    bound, and the likelihood of a policy is meaningless there. Leaving the data is a more common
    failure of traces than a large one-step error.

    Args:
        normalize: maps states to standardised ones, such as ``model.observations.normalize``.
        max_deviation: largest distance from the mean that is kept, in standard deviations of each
            dimension.

    Keyword Args:
        observation_key: key of the states.
        mask_key: key of the mask.

    Raises:
        ValueError: ``max_deviation`` is not positive.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import WithinSupport
        >>> traces = TensorDict({"observation": torch.tensor([[[0.0], [9.0], [1.0]]])}, [1, 3])
        >>> WithinSupport(lambda state: state, max_deviation=5.0)(traces)["mask"]
        tensor([[False, False,  True]])
    """

    walks_back = True  # from the end state; traces must be in order of time

    def __init__(
        self,
        normalize: Callable[[Tensor], Tensor],
        max_deviation: float = 5.0,
        *,
        observation_key: NestedKey = "observation",
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        positive(max_deviation=max_deviation)
        self.normalize = normalize
        self.max_deviation = max_deviation
        self.mask_key = mask_key
        self.in_keys = [observation_key]
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
        states = require(tensordict, self.in_keys[0], "WithinSupport", _CURE)
        deviation = self.normalize(states).abs().amax(-1)
        return narrow(tensordict, self.mask_key, unbroken(deviation <= self.max_deviation))


class NearVisited(TensorDictModuleBase):
    """Filter that cuts each trace at a state that is far from all visited states.

    Going back from the end state, steps are kept until the first such state. A learned model does
    not know walls, and its traces pass through them where there is no experience.
    :class:`WithinSupport` bounds each dimension on its own, while this filter detects holes between
    visited states. If the end state is far from all visited states, the whole trace is dropped.

    Args:
        visited: function that returns visited states, shape ``[num_visited, state_dim]``, such as
            a sample of the replay buffer. It is called each time.
        radius: largest Euclidean distance of a near visited state, in the units of ``project``.

    Keyword Args:
        project: maps states ``[*batch, state_dim]`` to the part that is compared, such as
            positions, ``[*batch, dim]``; the identity by default. In many dimensions no state is
            near another, so compare few.
        observation_key: key of the states.
        mask_key: key of the mask.

    Raises:
        ValueError: the radius is not positive.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import NearVisited
        >>> path = torch.tensor([[[0.0], [4.0], [1.0], [2.0]]])
        >>> traces = TensorDict(
        ...     {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 3]
        ... )
        >>> NearVisited(lambda: torch.tensor([[0.0], [1.0], [2.0]]), radius=0.5)(traces)["mask"]
        tensor([[False, False,  True]])
    """

    walks_back = True  # from the end state; traces must be in order of time

    def __init__(
        self,
        visited: Callable[[], Tensor],
        radius: float,
        *,
        project: Callable[[Tensor], Tensor] | None = None,
        observation_key: NestedKey = "observation",
        mask_key: NestedKey = "mask",
    ) -> None:
        super().__init__()
        positive(radius=radius)
        self.visited = visited
        self.radius = radius
        self.project = project
        self.mask_key = mask_key
        self.in_keys = _path_keys(observation_key)
        self.out_keys = [mask_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Narrow the mask of traces.

        Args:
            tensordict: traces of shape ``[num_traces, trace_length]`` in forward time.

        Returns:
            The same tensordict with its mask.
        """
        path, visited = _path(tensordict, self.in_keys), self.visited()
        if self.project is not None:
            path, visited = self.project(path), self.project(visited)
        distances = torch.cdist(path.flatten(0, 1), visited, compute_mode=_EXACT)
        near = (distances <= self.radius).any(-1).reshape(path.shape[:2])
        return narrow(tensordict, self.mask_key, unbroken(near)[:, :-1])


class ConfidentSteps(TensorDictModuleBase):
    r"""Filter that cuts each trace where a discrete state predictor is unsure.

    A pair is kept if :math:`q(s_t \mid a_t, s_{t+1})` is at least ``min_probability`` for it and
    for all later pairs of the trace. A learned model can only guess a predecessor if it never saw
    the action lead into the state. All steps before such a guess are unreliable too.

    Args:
        model: a backtracking model of categorical states.
        min_probability: smallest probability of a kept pair, in (0, 1].

    Keyword Args:
        mask_key: key of the mask.

    Raises:
        ValueError: the probability is out of range, or states are continuous.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import ConfidentSteps, RecallTraceGenerator
        >>> from torchrl_recall.envs import FourRoomsLayout, four_rooms_model
        >>> layout = FourRoomsLayout(5)
        >>> model = four_rooms_model(layout, torch.nn.Embedding(25, 4))  # exact: one cell or two
        >>> goal = TensorDict({"observation": torch.tensor([layout.goal])}, [1])
        >>> traces = RecallTraceGenerator(model, trace_length=3)(goal)
        >>> ConfidentSteps(model, 0.4)(traces)["mask"]
        tensor([[True, True, True]])
    """

    walks_back = True  # from the end state; traces must be in order of time

    def __init__(
        self, model: BacktrackingModel, min_probability: float, *, mask_key: NestedKey = "mask"
    ) -> None:
        super().__init__()
        if not 0 < min_probability <= 1:
            raise ValueError(f"min_probability must be in (0, 1], got {min_probability}.")
        if model.deltas is not None:
            raise ValueError(
                "ConfidentSteps needs a model of categorical states, since a density is not a "
                "probability; use WithinSupport for continuous ones."
            )
        self.__dict__["model"] = model  # not a submodule: its owner trains and saves it
        self.min_log_prob = math.log(min_probability)
        self.mask_key = mask_key
        self.in_keys = [model.observation_key, model.action_key, model.next_observation_key]
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
        sure = self.model.state_predictor_log_prob(tensordict) >= self.min_log_prob
        return narrow(tensordict, self.mask_key, unbroken(sure))


def _path_keys(observation_key: NestedKey) -> list[NestedKey]:
    return [observation_key, next_key(observation_key)]


def _path(tensordict: TensorDictBase, keys: list[NestedKey]) -> Tensor:
    """Join traces and their end states, ``[num_traces, trace_length + 1, *state_shape]``."""
    check_traces(tensordict)
    states, next_states = (require(tensordict, key, "the filter", _CURE) for key in keys)
    return torch.cat([states, next_states[:, -1:]], 1)


_EXACT = "donot_use_mm_for_euclid_dist"  # matrix products lose digits of small distances
_CURE = "Name the states with observation_key=."


def check_traces(tensordict: TensorDictBase) -> None:
    """Refuse pairs that are not traces in order of time, ``[num_traces, trace_length]``."""
    if tensordict.ndim != 2:
        raise ValueError(
            f"this filter needs traces of shape [num_traces, trace_length], got "
            f"{tuple(tensordict.shape)}. Filter traces before they are flattened."
        )


def unbroken(keep: Tensor) -> Tensor:
    """Keep only the unbroken run of True at the end of each row."""
    return keep.flip(-1).long().cumprod(-1).flip(-1).bool()


def narrow(tensordict: TensorDictBase, mask_key: NestedKey, keep: Tensor) -> TensorDictBase:
    """Write the mask; a mask that exists already keeps its False entries."""
    mask = tensordict.get(mask_key, None)
    keep = keep if mask is None else mask.reshape(keep.shape) & keep
    return tensordict.set(mask_key, keep)
