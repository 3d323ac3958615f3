"""Pictures of a four-room grid."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout

__all__ = ["draw"]


def draw(
    layout: FourRoomsLayout,
    *,
    agents: Tensor | None = None,
    values: Tensor | None = None,
    traces: Tensor | None = None,
    pixels: int = 16,
) -> np.ndarray:
    """Draw a grid with black walls, a green goal, orange agents, and traces as red dots.

    Args:
        layout: the grid.

    Keyword Args:
        agents: cells of agents, any shape.
        values: a number for each cell, shape ``[size**2]``, drawn as a colour from white to blue;
            NaN and infinity are white.
        traces: cells of traces, any shape.
        pixels: side of a cell, in pixels.

    Returns:
        An image, uint8, shape ``[size * pixels, size * pixels, 3]``.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import FourRoomsLayout
        >>> from torchrl_recall.envs.four_rooms.drawing import draw
        >>> layout = FourRoomsLayout(5)
        >>> image = draw(layout, agents=torch.tensor([layout.index((1, 1))]), pixels=8)
        >>> image.shape, image[12, 12].tolist()
        ((40, 40, 3), [240, 140, 30])
    """
    # Cells: values, then walls and the goal on top of them.
    colors = np.full((layout.num_cells, 3), 255.0)
    if values is not None:
        share = values.detach().flatten().double().nan_to_num(0.0, 0.0, 0.0).numpy()
        share = (share / max(float(share.max()), 1e-12)).clip(0, 1)[:, None]
        colors = (1 - share) * colors + share * np.array([33.0, 82.0, 165.0])
    colors[layout.walls.flatten().numpy()] = 0
    colors[layout.goal] = (60, 170, 90)

    # Pixels, with a square in the middle of each occupied cell.
    size = layout.size
    image = colors.reshape(size, size, 3).repeat(pixels, 0).repeat(pixels, 1).astype(np.uint8)
    for cells, color, inset in (
        (traces, (200, 40, 60), 3 * pixels // 8),
        (agents, (240, 140, 30), pixels // 4),
    ):
        for cell in [] if cells is None else cells.unique().tolist():
            top, left = (x * pixels + inset for x in divmod(cell, size))
            side = max(1, pixels - 2 * inset)
            image[top : top + side, left : left + side] = color
    return image
