"""Exact reverse dynamics of the four-room grid, as a state predictor (Sec. 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl.data import Categorical

from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.seeds import SeededCategorical

__all__ = [
    "DisplacementPredictor",
    "ExactPredecessors",
    "PossibleActions",
    "PredecessorDistribution",
    "four_rooms_model",
]

Rand = Callable[[Sequence[int]], Tensor]


class ExactPredecessors(nn.Module):
    r"""Table of the cells from which an action leads into a cell, with their probabilities.

    .. math:: q(s_t \mid a_t, s_{t+1}) \propto p(s_{t+1} \mid s_t, a_t)

    Without slips the distribution is uniform over all cells from which the action leads into the
    given cell. These are the cell behind it, and the cell itself if the action bumps into a wall.

    Args:
        layout: the grid.

    Examples:
        >>> from torchrl_recall.envs import ExactPredecessors, FourRoomsLayout
        >>> layout = FourRoomsLayout(5)
        >>> exact = ExactPredecessors(layout)
        >>> exact.of(layout.index((1, 2)), action=1)  # moving right into the door
        {6: 1.0}
        >>> exact.of(layout.index((1, 3)), action=1)  # into the corner, or bumping there
        {7: 0.5, 8: 0.5}
    """

    def __init__(self, layout: FourRoomsLayout) -> None:
        super().__init__()
        self.layout = layout

        # Group the transitions by (next cell, action); slot numbers the transitions of one group.
        source, action, following, probability = layout.transitions()
        pair = following * 4 + action
        order = pair.argsort(stable=True)
        counts = torch.bincount(pair, minlength=4 * layout.num_cells)
        first = counts.cumsum(0) - counts
        slot = torch.arange(len(pair)) - first[pair[order]]

        # A row for each group, padded with weight zero to the largest one.
        width = int(counts.max())
        cells = torch.zeros(len(counts), width, dtype=torch.long)
        weights = torch.zeros(len(counts), width, dtype=torch.float64)
        cells[pair[order], slot] = source[order]
        weights[pair[order], slot] = probability[order]
        weights /= weights.sum(1, keepdim=True).clamp_min(1e-300)
        self.cells: Tensor
        self.log_weights: Tensor
        self.register_buffer("cells", cells)  # [num_cells * 4, width]
        self.register_buffer("log_weights", weights.log().float())

    def forward(self, action: Tensor, next_observation: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the predecessors of cells by actions.

        Args:
            action: actions, shape ``[*batch]``.
            next_observation: next cells, shape ``[*batch]``.

        Returns:
            Cells and their log-probabilities, shape ``[*batch, width]`` each. If the action cannot
            lead into a cell, all its log-probabilities are minus infinity.
        """
        pair = next_observation * 4 + action
        return self.cells[pair], self.log_weights[pair]

    def possible(self) -> Tensor:
        """Return True for actions that can lead into a cell, shape ``[num_cells, 4]``."""
        return self.log_weights.isfinite().any(-1).reshape(-1, 4)

    def of(self, next_cell: int, *, action: int) -> dict[int, float]:
        """Look up the predecessors of a cell by an action, with their probabilities.

        Args:
            next_cell: index of the next cell.

        Keyword Args:
            action: 0, 1, 2 or 3.

        Returns:
            Probabilities by cell.

        Raises:
            ValueError: the cell is a wall or outside the grid, or there is no such action.
        """
        if not 0 <= next_cell < self.layout.num_cells:
            raise ValueError(f"cell {next_cell} is outside the {self.layout.num_cells} cells.")
        if self.layout.walls.flatten()[next_cell]:
            raise ValueError(
                f"cell {divmod(next_cell, self.layout.size)} is a wall: nothing leads into it. "
                "Ask for the predecessors of a free cell."
            )
        if not 0 <= action < 4:
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action}.")
        pair = next_cell * 4 + action
        cells, weights = self.cells[pair].tolist(), self.log_weights[pair].exp().tolist()
        return {cell: weight for cell, weight in zip(cells, weights, strict=True) if weight}


class PredecessorDistribution(torch.distributions.Distribution):
    """Categorical distribution over a short list of cells.

    Args:
        cells: indices of cells, shape ``[*batch, width]``.
        logits: log-probabilities of the cells, of the same shape.
        rand: function of a shape that draws numbers in [0, 1).

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs.four_rooms.exact_model import PredecessorDistribution
        >>> half = torch.tensor([[0.5, 0.5]]).log()
        >>> dist = PredecessorDistribution(torch.tensor([[7, 8]]), half)
        >>> dist.log_prob(torch.tensor([8])).exp()
        tensor([0.5000])
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, cells: Tensor, logits: Tensor, rand: Rand = torch.rand) -> None:
        self.cells, self.logits = cells, logits
        self.choice = SeededCategorical(logits, rand)
        super().__init__(cells.shape[:-1], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw cells of shape ``[*sample_shape, *batch]``.

        Args:
            sample_shape: leading dimensions of the result.

        Returns:
            Cells of shape ``[*sample_shape, *batch]``.

        Raises:
            ValueError: a list has no possible cell.
        """
        if not torch.compiler.is_compiling():
            possible = self.logits.isfinite().any(-1)
            if not possible.all():
                raise ValueError(
                    f"{int((~possible).sum())} of {possible.numel()} cells have no predecessor by "
                    "the given action, because it cannot lead into them. Take the actions of the "
                    "backward policy (actions='backward_policy'), and end states that are no walls."
                )
        index = self.choice.sample(sample_shape)
        return (
            self.cells.expand(*sample_shape, *self.cells.shape)
            .gather(-1, index.unsqueeze(-1))
            .squeeze(-1)
        )

    @property
    def mode(self) -> Tensor:
        """Return the cell of highest probability."""
        return self.cells.gather(-1, self.logits.argmax(-1, keepdim=True)).squeeze(-1)

    @property
    def deterministic_sample(self) -> Tensor:
        """Return the cell of highest probability."""
        return self.mode

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log-probabilities of cells; they are minus infinity for cells not in the list.

        Args:
            value: cells of shape ``[*batch]``.

        Returns:
            Log-probabilities in nats, shape ``[*batch]``.
        """
        here = torch.where(self.cells == value.unsqueeze(-1), self.logits, -torch.inf)
        return here.logsumexp(-1)


class PossibleActions(nn.Module):
    """Backward policy whose logits are minus infinity for actions that cannot lead into the cell.

    Args:
        network: network that maps next cells, shape ``[*batch]``, to logits, shape ``[*batch, 4]``.
        possible: True for actions that can lead into a cell, shape ``[num_cells, 4]``. For stacked
            networks, which divide the batch equally and in order, its shape is
            ``[num_seeds, num_cells, 4]``. The tensor is not copied: change it in place to update
            the mask. In a row without any True, all actions are allowed.

    Keyword Args:
        smoothing: probability of a uniform draw from the possible actions instead. A backward
            policy that was trained on few successes goes back and forth among few cells. Smoothing
            lets traces leave them.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs.four_rooms.exact_model import PossibleActions
        >>> possible = torch.tensor([[True, True, False, False]])
        >>> PossibleActions(torch.nn.Embedding(1, 4), possible)(torch.tensor([0])).isfinite()
        tensor([[ True,  True, False, False]])
    """

    def __init__(self, network: nn.Module, possible: Tensor, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.smoothing = smoothing
        self.possible: Tensor
        self.register_buffer("possible", possible, persistent=False)

    def forward(self, next_observation: Tensor) -> Tensor:
        """Return masked logits of shape ``[*batch, 4]``.

        Args:
            next_observation: next cells, shape ``[*batch]``.
        """
        # Each seed has its own table.
        table = self.possible.reshape(-1, self.possible.shape[-2], 4)
        rows = next_observation.reshape(len(table), -1)
        seeds = torch.arange(len(table), device=rows.device).unsqueeze(-1)
        possible = table[seeds, rows].reshape(*next_observation.shape, 4)

        # Mask, except where nothing would be left.
        allowed = possible | ~possible.any(-1, keepdim=True)
        logits = torch.where(allowed, self.network(next_observation), -torch.inf)
        if not self.smoothing:
            return logits

        # Mix with the uniform distribution over the allowed actions.
        share = self.smoothing / allowed.sum(-1, keepdim=True)
        mixed = (1 - self.smoothing) * logits.softmax(-1) + share
        return torch.where(allowed, mixed.log(), -torch.inf)


class DisplacementPredictor(nn.Module):
    r"""Discrete state predictor of :math:`\Delta s_t = s_t - s_{t+1}` (Sec. 2.1).

    .. math:: q(s_t \mid a_t, s_{t+1}) = q(\Delta s_t = s_t - s_{t+1} \bmod n \mid a_t, s_{t+1})

    The prediction of displacements generalises: the effect of an action in one cell carries over to
    unseen cells.

    Args:
        network: network that maps the indices :math:`a_t` and :math:`s_{t+1}` to logits of the n
            displacements.
        num_cells: n, the number of cells.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import DisplacementPredictor
        >>> always_one = lambda action, cell: torch.tensor([[0.0, 9.0, 0.0, 0.0, 0.0]])
        >>> predict = DisplacementPredictor(always_one, 5)
        >>> predict(torch.tensor([0]), torch.tensor([4])).argmax(-1)  # 4 + 1 modulo 5
        tensor([0])
    """

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], num_cells: int) -> None:
        super().__init__()
        self.network = network
        self.cells: Tensor
        self.register_buffer("cells", torch.arange(num_cells), persistent=False)

    def forward(self, action: Tensor, next_observation: Tensor) -> Tensor:
        """Compute logits of previous cells.

        Args:
            action: actions, shape ``[*batch]``.
            next_observation: next cells, shape ``[*batch]``.

        Returns:
            Logits of shape ``[*batch, num_cells]``.
        """
        displacement = (self.cells - next_observation.unsqueeze(-1)) % len(self.cells)
        return self.network(action, next_observation).gather(-1, displacement)


def four_rooms_model(
    layout: FourRoomsLayout,
    backward_policy: nn.Module,
    state_predictor: nn.Module | None = None,
    *,
    possible: Tensor | None = None,
    smoothing: float = 0.0,
    rand: Rand = torch.rand,
) -> BacktrackingModel:
    r"""Build a backtracking model of the grid from networks, with exact or learned dynamics.

    Args:
        layout: the grid.
        backward_policy: network of the index :math:`s_{t+1}` that returns four logits.
        state_predictor: network of the indices :math:`a_t` and :math:`s_{t+1}` that returns a
            logit for each cell; None uses the exact reverse dynamics.

    Keyword Args:
        possible: actions that the backward policy may take, see ``PossibleActions``. By default
            these are the ones that exact dynamics allow, and all actions with learned dynamics.
        smoothing: probability of a uniform draw from the possible actions, see
            ``PossibleActions``. Without ``possible`` it needs exact dynamics.
        rand: function of a shape that draws numbers in [0, 1).

    Returns:
        The model; without a ``state_predictor`` only its backward policy has parameters.

    Raises:
        ValueError: ``smoothing`` is not in [0, 1], or has no possible actions to draw from.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import RecallTraceGenerator
        >>> from torchrl_recall.envs import FourRoomsLayout, four_rooms_model
        >>> layout = FourRoomsLayout(11)
        >>> model = four_rooms_model(layout, torch.nn.Embedding(layout.num_cells, 4))
        >>> goals = TensorDict({"observation": torch.full((8,), layout.goal)}, [8])
        >>> RecallTraceGenerator(model, trace_length=20)(goals).shape
        torch.Size([8, 20])
    """
    exact = ExactPredecessors(layout)
    next_observation_key = ("next", "observation")

    # Backward policy, q(a_t | s_{t+1}).
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be a probability in [0, 1], got {smoothing}.")
    if smoothing and possible is None and state_predictor is not None:
        raise ValueError(
            f"smoothing={smoothing} draws among possible actions, which learned dynamics do not "
            "know; give possible=."
        )
    if possible is None and state_predictor is None:
        possible = exact.possible()
    if possible is not None:
        backward_policy = PossibleActions(backward_policy, possible, smoothing=smoothing)
    policy = TensorDictModule(backward_policy, [next_observation_key], ["logits"])

    # State predictor, q(s_t | a_t, s_{t+1}).
    if state_predictor is None:
        predictor = _sequential(
            TensorDictModule(exact, ["action", next_observation_key], ["cells", "logits"]),
            PredecessorDistribution,
            "observation",
            rand,
        )
    else:
        module = TensorDictModule(state_predictor, ["action", next_observation_key], ["logits"])
        predictor = _sequential(module, SeededCategorical, "observation", rand)

    return BacktrackingModel(
        _sequential(policy, SeededCategorical, "action", rand),
        predictor,
        observation_spec=Categorical(layout.num_cells),
        action_spec=Categorical(4),
        as_index=True,
    )


def _sequential(
    module: TensorDictModule, distribution: type, out_key: str, rand: Rand
) -> ProbabilisticTensorDictSequential:
    """Build a stochastic module from a network and a distribution that draws from ``rand``."""
    return ProbabilisticTensorDictSequential(
        module,
        ProbabilisticTensorDictModule(
            in_keys=list(module.out_keys),
            out_keys=[out_key],
            distribution_class=distribution,
            distribution_kwargs={"rand": rand},
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
