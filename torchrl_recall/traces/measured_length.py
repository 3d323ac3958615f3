"""Length of traces, measured by how far back the model can be trusted."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl_recall.checks import at_least, next_key, positive
from torchrl_recall.data.step_order import same_states
from torchrl_recall.devices import device_of
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.stateful import from_containers, to_containers

__all__ = ["MeasuredLength"]

_MASK = ("collector", "mask")
_DECAY = 0.9  # weight of older writes, applied at each new one: about ten writes count


class MeasuredLength(nn.Module):
    r"""Trace length, the number of steps over which the model retraces real trajectories.

    The model is rolled back from the last state of a piece of a real trajectory, with the actions
    of that piece. Its states :math:`\hat s` are compared with the real ones. The length is the
    largest L with

    .. math:: \mathbb{E} \lVert \hat s_{T-k} - s_{T-k} \rVert
        \le f \, \mathbb{E} \lVert s_T - s_{T-k} \rVert, \qquad k = 1, \dots, L

    It is at least one and at most ``max_length``. Distances are in standard deviations of the
    observation; between categories they are zero or one. The error of one piece is capped at twice
    the mean displacement (times f, if f is above one), so that no single piece dominates the mean.

    Pieces are taken from the newest data, before any model is trained on them. If the newest data
    are shorter than ``max_length``, pieces begin in older data. Newer pieces have more weight, so
    the length grows as the model learns. Pass the object as ``trace_length`` of
    :class:`~torchrl_recall.Recall`, which then shows it all collected data. The measure holds for
    the actions that were taken; traces may take others.

    Args:
        model: the backtracking model.

    Keyword Args:
        max_length: the largest length, in steps.
        max_error: f, the largest error as a fraction of the displacement.
        num_pieces: number of pieces that are measured in each write.
        done_key: key that marks the end of a trajectory, under ``"next"``.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingModel, MeasuredLength, RecallTraceGenerator
        >>> path = torch.randn(41, 3).cumsum(0)
        >>> data = TensorDict({
        ...     "observation": path[:-1], "action": torch.rand(40, 2),
        ...     "next": {"observation": path[1:], "done": torch.zeros(40, 1, dtype=torch.bool)},
        ... }, [40])
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> model.update_statistics(data)
        >>> length = MeasuredLength(model, max_length=20)
        >>> length.observe(data)
        >>> int(length)                                   # the model has learned nothing yet
        1
        >>> generate = RecallTraceGenerator(model, trace_length=length)
        >>> generate(data[-1:]["next"]).shape
        torch.Size([1, 1])
    """

    model: BacktrackingModel
    sums: Tensor

    def __init__(
        self,
        model: BacktrackingModel,
        *,
        max_length: int = 20,
        max_error: float = 0.5,
        num_pieces: int = 64,
        done_key: NestedKey = "done",
    ) -> None:
        super().__init__()
        at_least(1, max_length=max_length, num_pieces=num_pieces)
        positive(max_error=max_error)
        self.__dict__["model"] = model  # not a submodule: its owner trains and saves it
        self.max_length, self.max_error, self.num_pieces = max_length, max_error, num_pieces
        self.done_key = next_key(done_key)
        self._keys = [model.observation_key, model.action_key, model.next_observation_key]
        device = device_of(model)
        # For each length: decayed sums of relative errors, and of the number of writes.
        self.register_buffer("sums", torch.zeros(2, max_length, device=device))
        self._value = 1
        self._newest: TensorDictBase | None = (
            None  # steps in which pieces of the next write may begin
        )

    def __int__(self) -> int:
        return self._value

    @property
    def relative_errors(self) -> Tensor:
        """Errors as fractions of displacements, shape ``[max_length]``; NaN if unknown."""
        return self.sums[0] / self.sums[1]

    @torch.no_grad()
    def observe(self, data: TensorDictBase) -> None:
        """Measure real trajectories; call it before a model is trained on them.

        Args:
            data: ``observation``, ``action``, ``("next", "observation")`` and the done flag, in
                order of time, shape ``[time]`` or ``[batch, time]``. No piece crosses the end of a
                trajectory.

        Raises:
            KeyError: an entry is missing.
        """
        keys = [*self._keys, self.done_key]
        if missing := [key for key in keys if data.get(key, None) is None]:
            raise KeyError(
                f"MeasuredLength measures {missing}, which the data do not hold. Give transitions "
                "in order, as a collector does, and name their done flag with done_key=."
            )
        if not data.shape.numel():
            return
        mask = data.get(_MASK, None)
        rows = data.select(*keys).reshape(-1, data.shape[-1])
        real = torch.ones(rows.shape, dtype=torch.bool, device=self.sums.device)
        rows = rows.to(self.sums.device).set("real", real if mask is None else mask.view_as(real))
        new = rows.shape[1]
        if self._newest is not None and len(self._newest) == len(rows):
            rows = torch.cat([self._newest.to(self.sums.device), rows], 1)
        self._newest = rows[:, -self.max_length :].clone()
        pieces = self._pieces(rows, new)
        if not len(pieces):
            return
        relative = self._roll_back(pieces)
        known = relative.isfinite()
        self.sums.mul_(_DECAY).add_(torch.stack([relative.masked_fill(~known, 0.0), known]))
        self._measure()

    def watch(self, trajectories: Any, model: BacktrackingModel) -> None:
        """Observe each write to a store of trajectories from now on.

        Args:
            trajectories: a :class:`~torchrl_recall.data.top_trajectories.TopTrajectories`.
            model: the model that generates traces.

        Raises:
            ValueError: the length measures another model, or the store does not report its writes.
        """
        if self.model is not model:
            raise ValueError(
                "trace_length= measures another model than the one that traces are generated by; "
                "give MeasuredLength(model) of the same model."
            )
        if not hasattr(trajectories, "on_write"):
            raise ValueError(
                f"{type(trajectories).__name__} does not show what is written to it, so that no "
                "length can be measured; take TopTrajectories, or a number as trace_length."
            )
        trajectories.on_write.append(self.observe)

    def _measure(self) -> None:
        trusted = self.relative_errors <= self.max_error  # False of NaN
        self._value = max(1, int(trusted.cumprod(0).sum()))

    def _pieces(self, rows: TensorDictBase, new: int) -> TensorDictBase:
        """Draw pieces that end in new steps, in backward time, shape ``[num, max_length]``."""
        old = rows.shape[1] - new
        ends = rows["real"][:, old:].nonzero()  # row and time of each step
        if not len(ends):
            return rows[:0, :1]
        inside = ends[ends[:, 1] >= self.max_length - 1]  # nothing was trained on these pieces
        ends = inside if len(inside) else ends
        chosen = torch.linspace(0, len(ends) - 1, min(self.num_pieces, len(ends))).long()
        row, end = ends[chosen.to(ends.device)].T
        times = (end + old).unsqueeze(1) - torch.arange(self.max_length, device=ends.device)
        pieces = rows[row.unsqueeze(1), times.clamp(min=0)]
        state, _, following = (pieces[key] for key in self._keys)
        done = pieces[self.done_key].reshape(*pieces.shape, -1).any(-1)
        goes_on = same_states(following[:, 1:], state[:, :-1], 2)
        goes_on &= ~done[:, 1:] & pieces["real"][:, 1:] & (times[:, 1:] >= 0)
        known = torch.cat([torch.ones_like(done[:, :1]), goes_on], 1).cumprod(1)
        return pieces.set("known", known)

    def _roll_back(self, pieces: TensorDictBase) -> Tensor:
        """Compute errors relative to displacements, ``[max_length]``; NaN if unknown."""
        state, action, following = (pieces[key] for key in self._keys)
        now, landed = following[:, 0], []
        for k in range(self.max_length):
            now = self.model.sample_observation(action[:, k], now)
            landed.append(now)
        unknown = pieces["known"] == 0
        displacement = self._distance(following[:, :1].expand_as(state), state)
        displacement = displacement.masked_fill(unknown, 0.0).sum(0) / (~unknown).sum(0)
        error = self._distance(torch.stack(landed, 1), state).nan_to_num(nan=torch.inf)
        # One piece on which the model diverges must not dominate the decayed mean.
        error = error.minimum(2 * max(1.0, self.max_error) * displacement)
        return error.masked_fill(unknown, 0.0).sum(0) / (~unknown).sum(0) / displacement

    def _distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Compute distances of states, ``[num, max_length]``."""
        codec = self.model.observations
        if isinstance(codec, ContinuousCodec):
            return ((one - other) / codec.scale()).norm(dim=-1)
        differs = (one != other).to(self.sums.dtype)
        return differs.reshape(*one.shape[:2], -1).amax(-1)

    def get_extra_state(self) -> dict:
        """Return the steps in which pieces of the next write may begin."""
        return {} if self._newest is None else to_containers(self._newest)

    def set_extra_state(self, state: dict) -> None:
        """Restore :meth:`get_extra_state`, and the length that follows from the sums."""
        self._newest = from_containers(state).to(self.sums.device) if state else None
        self._measure()
