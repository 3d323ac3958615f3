"""Simulator of the four rooms."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout

__all__ = ["GridSimulator"]


class GridSimulator:
    """Simulator of the four rooms, with cells as indices or one-hot vectors."""

    def __init__(self, layout: FourRoomsLayout) -> None:
        if layout.slip:
            raise ValueError(
                f"the four rooms slip with probability {layout.slip}, so that a trace's actions "
                "lead elsewhere each time. Audit with slip=0."
            )
        self._layout = layout

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for cells that are neither walls nor the goal."""
        cells = self._cells(states)
        return ~self._layout.walls.flatten()[cells] & (cells != self._layout.goal)

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take actions from cells, and return the cells after each."""
        cells, path = self._cells(states), []
        for action in actions.cpu().unbind(1):
            action = _index(action) if action.ndim > 1 else action.long()
            cells = self._layout.next_cell[cells, action]
            path.append(cells)
        cells = torch.stack(path, 1) if path else cells.new_empty(len(cells), 0)
        if self._is_one_hot(states):
            cells = torch.nn.functional.one_hot(cells, self._layout.num_cells)
        return cells.to(states)

    def coordinates(self, states: Tensor) -> Tensor:
        """Return row and column, shape ``[*batch, 2]``."""
        cells, size = self._cells(states), self._layout.size
        return torch.stack([cells // size, cells % size], -1).float()

    def _cells(self, states: Tensor) -> Tensor:
        states = states.cpu()
        return _index(states) if self._is_one_hot(states) else states.long()

    def _is_one_hot(self, states: Tensor) -> bool:
        return states.ndim > 1 and states.shape[-1] == self._layout.num_cells


def _index(one_hot: Tensor) -> Tensor:
    return one_hot.to(torch.uint8 if one_hot.dtype is torch.bool else one_hot.dtype).argmax(-1)
