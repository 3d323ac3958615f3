"""Length of traces, as long as the model can be trusted."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl_recall.checks import at_least, next_key, positive
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.stateful import from_containers, to_containers

__all__ = ["MeasuredLength"]

_MASK = ("collector", "mask")
_DECAY = 0.9  # of what older writes count: about ten are remembered


class MeasuredLength(nn.Module):
    r"""Number of steps over which a model finds its way back along real trajectories.

    From the end of a real piece of a trajectory, the model is rolled back along the actions that
    were taken. Where it lands is compared with where the trajectory was. The length is the largest
    L for which all shorter ones hold too:

    .. math:: \mathbb{E} \lVert \hat s_{T-k} - s_{T-k} \rVert
        \le f \, \mathbb{E} \lVert s_T - s_{T-k} \rVert, \qquad k = 1, \dots, L

    Distances are in standard deviations of the observation; those of categories are zero or one.
    It is at least one, and at most ``max_length``. Pieces are measured before anything was trained
    on them, and newer ones count more, so that the length grows as the model learns. Give it as the
    ``trace_length`` of :class:`~torchrl_recall.Recall`, or of a generator.

    Args:
        model: the backtracking model.

    Keyword Args:
        max_length: the largest length.
        max_error: f, the error as a fraction of the displacement.
        num_pieces: pieces that are measured in each write.
        done_key: where the end of a trajectory is, under ``"next"``.

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
        device = next((p.device for p in model.parameters()), None)
        # Of each length: decayed sums of errors and of displacements.
        self.register_buffer("sums", torch.zeros(2, max_length, device=device))
        self._value = 1
        self._newest: TensorDictBase | None = None  # steps that a piece of the next write may need

    def __int__(self) -> int:
        return self._value

    @property
    def relative_errors(self) -> Tensor:
        """Return errors as fractions of displacements, ``[max_length]``; NaN if not measured."""
        return self.sums[0] / self.sums[1]

    @torch.no_grad()
    def observe(self, data: TensorDictBase) -> None:
        """Measure real trajectories, before a model is trained on them.

        Args:
            data: ``observation``, ``action``, ``("next", "observation")`` and the done flag of
                steps in order, ``[time]`` or ``[batch, time]``. Pieces end where trajectories do.

        Raises:
            KeyError: an entry is missing.
        """
        keys = [*self._keys, self.done_key]
        if missing := [key for key in keys if data.get(key, None) is None]:
            raise KeyError(
                f"MeasuredLength measures {missing}, which the data do not hold. Give transitions "
                "in order, as a collector does, and name their done flag with done_key=."
            )
        mask = data.get(_MASK, None)
        rows = data.select(*keys).reshape(-1, data.shape[-1])
        real = torch.ones(rows.shape, dtype=torch.bool, device=self.sums.device)
        rows = rows.to(self.sums.device).set("real", real if mask is None else mask.view_as(real))
        new = rows.shape[1]
        if self._newest is not None and len(self._newest) == len(rows):
            rows = torch.cat([self._newest, rows], 1)
        self._newest = rows[:, -self.max_length :].clone()
        pieces = self._pieces(rows, new)
        if not len(pieces):
            return
        error, displacement = self._roll_back(pieces)
        self.sums.mul_(_DECAY).add_(torch.stack([error, displacement]))
        self._measure()

    def _measure(self) -> None:
        error, displacement = self.sums
        trusted = (displacement > 0) & (error <= self.max_error * displacement)
        self._value = max(1, int(trusted.cumprod(0).sum()))

    def _pieces(self, rows: TensorDictBase, new: int) -> TensorDictBase:
        """Take pieces that end in new steps, each from its end backwards, ``[num, max_length]``."""
        old = rows.shape[1] - new
        ends = rows["real"][:, old:].nonzero()  # of each: its row and its time
        if not len(ends):
            return rows[:0, :1]
        chosen = torch.linspace(0, len(ends) - 1, min(self.num_pieces, len(ends))).long()
        row, end = ends[chosen.to(ends.device)].T
        times = (end + old).unsqueeze(1) - torch.arange(self.max_length, device=ends.device)
        pieces = rows[row.unsqueeze(1), times.clamp(min=0)]
        state, _, following = (pieces[key] for key in self._keys)
        done = pieces[self.done_key].reshape(*pieces.shape, -1).any(-1)
        goes_on = torch.isclose(following[:, 1:], state[:, :-1], rtol=1e-3, atol=1e-6)
        goes_on = goes_on.reshape(*goes_on.shape[:2], -1).all(-1)
        goes_on &= ~done[:, 1:] & pieces["real"][:, 1:] & (times[:, 1:] >= 0)
        known = torch.cat([torch.ones_like(done[:, :1]), goes_on], 1).cumprod(1)
        return pieces.set("known", known)

    def _roll_back(self, pieces: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return sums of errors and of displacements for each length."""
        state, action, following = (pieces[key] for key in self._keys)
        now, landed = following[:, 0], []
        for k in range(self.max_length):
            now = self.model.sample_observation(action[:, k], now)
            landed.append(now)
        known = pieces["known"].to(self.sums.dtype)
        error = self._distance(torch.stack(landed, 1), state)
        displacement = self._distance(following[:, :1].expand_as(state), state)
        # What is not known may be anything, such as infinite.
        unknown = known == 0
        return tuple(d.masked_fill(unknown, 0.0).sum(0) for d in (error, displacement))  # type: ignore[return-value]

    def _distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Compute distances of states, ``[num, max_length]``."""
        codec = self.model.observations
        if isinstance(codec, ContinuousCodec):
            return ((one - other) / codec.scale()).norm(dim=-1)
        differs = (one != other).to(self.sums.dtype)
        return differs.reshape(*one.shape[:2], -1).amax(-1)

    def get_extra_state(self) -> dict:
        """Return the steps that pieces of the next write may need."""
        return {} if self._newest is None else to_containers(self._newest)

    def set_extra_state(self, state: dict) -> None:
        """Restore :meth:`get_extra_state`, and the length that follows from the sums."""
        self._newest = from_containers(state).to(self.sums.device) if state else None
        self._measure()
