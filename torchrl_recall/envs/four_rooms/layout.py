"""Walls, doors, starts and dynamics of a four-room grid, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from torchrl_recall.checks import at_least

__all__ = ["Cell", "FourRoomsLayout", "Start", "step_limit"]

Cell = tuple[int, int]
Start = Literal["opposite", "uniform"] | Cell

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


class FourRoomsLayout:
    """Walls, doors, starts and dynamics of a four-room grid, as tables.

    A grid of ``size`` × ``size`` cells has an outer wall and a cross of walls. Each of the four
    arms of the cross has a door of one cell. Cells are numbered row by row from the top left. The
    goal is terminal: no transition leaves it.

    Args:
        size: number of cells along each side, walls included; odd and at least 5.

    Keyword Args:
        start: cells in which episodes begin. ``"opposite"`` draws a cell in the room diagonally
            opposite the goal. ``"uniform"`` draws any free cell but the goal. A cell (row, column)
            is used always.
        goal: cell of the goal (row, column); the bottom right corner by default.
        slip: probability in [0, 1) that a step goes in a direction drawn uniformly from all four.
        blocked: further wall cells, for example to close a door.

    Raises:
        ValueError: the doors do not fit, the start or the goal is a wall, or the goal cannot be
            reached from every start.

    Examples:
        >>> from torchrl_recall.envs import FourRoomsLayout
        >>> print(FourRoomsLayout(5))
        #####
        #S..#
        #.#.#
        #..G#
        #####
    """

    def __init__(
        self,
        size: int,
        *,
        start: Start = "opposite",
        goal: Cell | None = None,
        slip: float = 0.0,
        blocked: Sequence[Cell] = (),
    ) -> None:
        if not isinstance(size, int) or size < 5 or size % 2 == 0:
            raise ValueError(
                f"size must be an odd integer of at least 5, so that a cross of walls with four "
                f"doors fits, got {size!r}."
            )
        if not 0 <= slip < 1:
            raise ValueError(f"slip must be in [0, 1), got {slip}.")
        self.size, self.slip, self.start = size, slip, start
        self.num_cells = size * size
        self.walls = _walls(size)
        for cell in blocked:
            self.walls[self._inside(cell, "a blocked cell")] = True
        self.goal = self._free((size - 2, size - 2) if goal is None else goal, "the goal")
        self.free = (~self.walls).flatten().nonzero().squeeze(-1)
        self.next_cell = self._next_cell()  # [num_cells, 4]
        self.starts = self._starts(start)
        self._check_reachable()

    def index(self, cell: Cell) -> int:
        """Return the index of a cell.

        Args:
            cell: row and column.
        """
        return cell[0] * self.size + cell[1]

    def transitions(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """List all transitions as columns: cell, action, next cell, probability.

        There are transitions from every free cell but the goal. Transitions with the same cells and
        the same action are joined.

        Returns:
            Four tensors of shape ``[num_transitions]``: three of indices, and one of float64.
        """
        # Every intended action with every move that may result from it.
        cells = self.free[self.free != self.goal]
        source, action, move = (
            axis.flatten() for axis in torch.meshgrid(cells, *[torch.arange(4)] * 2, indexing="ij")
        )
        probability = self.slip / 4 + (1 - self.slip) * (action == move)
        following = self.next_cell[source, move]

        # Join the moves that lead to the same cell.
        rows, inverse = torch.stack([source, action, following], 1)[probability > 0].unique(
            dim=0, return_inverse=True
        )
        joined = torch.zeros(len(rows), dtype=torch.float64)
        joined.index_add_(0, inverse, probability[probability > 0].double())
        return (*rows.unbind(1), joined)

    def distances(self) -> Tensor:
        """Return the number of moves to the goal from each cell; infinite without a path."""
        distance = torch.full((self.num_cells,), float("inf"))
        distance[self.goal] = 0
        for _ in range(self.num_cells):
            closer = 1 + distance[self.next_cell].amin(-1)
            closer[self.walls.flatten()] = float("inf")
            shorter = torch.minimum(distance, closer)
            if shorter.equal(distance):
                break
            distance = shorter
        return distance

    def __str__(self) -> str:
        marks = np.where(self.walls.numpy(), "#", ".")
        marks.flat[self.starts.numpy()] = "S"
        marks.flat[self.goal] = "G"
        return "\n".join("".join(row) for row in marks)

    def _inside(self, cell: Cell, name: str) -> Cell:
        try:
            row, column = (index(x) for x in cell)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a pair (row, column), got {cell!r}.") from error
        if not (0 <= row < self.size and 0 <= column < self.size):
            raise ValueError(
                f"{name} is {(row, column)}, outside the grid of {self.size} x {self.size}."
            )
        return row, column

    def _free(self, cell: Cell, name: str) -> int:
        if self.walls[self._inside(cell, name)]:
            raise ValueError(f"{name} is {tuple(cell)}, which is a wall; choose a free cell.")
        return self.index(cell)

    def _next_cell(self) -> Tensor:
        cells = torch.arange(self.num_cells)
        row, column = cells // self.size, cells % self.size
        columns = []
        for down, right in MOVES:
            target_row = (row + down).clamp(0, self.size - 1)
            target = target_row * self.size + (column + right).clamp(0, self.size - 1)
            columns.append(torch.where(self.walls.flatten()[target], cells, target))
        return torch.stack(columns, 1)

    def _starts(self, start: Start) -> Tensor:
        if isinstance(start, str):
            if start == "uniform":
                return self.free[self.free != self.goal]
            if start != "opposite":
                raise ValueError(
                    f"start must be 'opposite', 'uniform' or a cell (row, column), got {start!r}."
                )
            middle = self.size // 2
            row, column = divmod(self.goal, self.size)
            if middle in (row, column):
                raise ValueError(
                    f"start='opposite' needs a goal inside a room, but {(row, column)} is a door; "
                    "use start='uniform' or a cell."
                )
            there = (self.free // self.size < middle) != (row < middle)
            there &= (self.free % self.size < middle) != (column < middle)
            there &= (self.free // self.size != middle) & (self.free % self.size != middle)
            return self.free[there]
        index = self._free(start, "the start")
        if index == self.goal:
            raise ValueError(f"the start is the goal, {tuple(start)}; episodes would have no step.")
        return torch.tensor([index])

    def _check_reachable(self) -> None:
        lost = self.starts[self.distances()[self.starts].isinf()]
        if len(lost) or not len(self.starts):
            where = [divmod(int(cell), self.size) for cell in lost[:3]]
            raise ValueError(
                f"the goal {divmod(self.goal, self.size)} cannot be reached from {len(lost)} of "
                f"the {len(self.starts)} start cells, such as {where}. Open a way, or choose other "
                "starts."
            )


def step_limit(size: int, max_steps: int | None = None) -> int:
    """Return the largest number of steps of an episode.

    Args:
        size: number of cells along each side of the grid.
        max_steps: the limit; ``10 * size`` by default.

    Returns:
        The limit.

    Raises:
        ValueError: ``max_steps`` is below one.

    Examples:
        >>> from torchrl_recall.envs.four_rooms.layout import step_limit
        >>> step_limit(11), step_limit(11, 30)
        (110, 30)
    """
    max_steps = 10 * size if max_steps is None else max_steps
    at_least(1, max_steps=max_steps)
    return max_steps


def _walls(size: int) -> Tensor:
    """Return a mask of the outer wall and the cross with its four doors, ``[size, size]``."""
    middle, near, far = size // 2, size // 4, (3 * size) // 4
    walls = torch.zeros(size, size, dtype=torch.bool)
    for edge in (0, middle, size - 1):
        walls[edge, :] = walls[:, edge] = True
    for door in (near, far):
        walls[middle, door] = walls[door, middle] = False
    return walls
