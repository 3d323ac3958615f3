"""Pictures of coverage, with reached goals in red and others in blue (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from torchrl_recall.trainers.runs.atomic import atomic_file

__all__ = ["draw_map", "draw_maps"]


def draw_maps(
    goals: Tensor, frames: Sequence[int], successes: Sequence[Tensor], run_dir: Path
) -> None:
    """Write ``coverage.png`` with up to six maps, and ``coverage.gif`` with all maps.

    Of goals with more than two dimensions, the first two are shown.

    Args:
        goals: goals of shape ``[num_goals, goal_dim]``.
        frames: environment steps at each evaluation.
        successes: for each evaluation, True for reached goals, shape ``[num_goals]``.
        run_dir: folder of the pictures.
    """
    if not frames:
        return
    chosen = torch.linspace(0, len(frames) - 1, min(6, len(frames))).round().int().tolist()
    figure = Figure(figsize=(2.6 * len(chosen), 2.9), layout="constrained")
    for axes, i in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        draw_map(axes, goals, frames[i], successes[i])
    with atomic_file(run_dir / "coverage.png") as partial:
        figure.savefig(partial, dpi=110)

    film = Figure(figsize=(3, 3.3), layout="constrained")
    axes = film.subplots()

    def show(i: int) -> list:
        axes.clear()
        draw_map(axes, goals, frames[i], successes[i])
        return []

    animation = FuncAnimation(film, show, frames=len(frames))
    with atomic_file(run_dir / "coverage.gif") as partial:
        animation.save(partial, writer=PillowWriter(fps=4))


def draw_map(axes: Axes, goals: Tensor, frames: int, reached: Tensor) -> None:
    """Draw one map of the goals that were reached after a number of frames.

    Args:
        axes: axes of the picture.
        goals: goals of shape ``[num_goals, goal_dim]``.
        frames: number of frames, for the title.
        reached: True for reached goals, shape ``[num_goals]``.
    """
    x, y = goals[:, 0], goals[:, min(1, goals.shape[1] - 1)]
    size = 2_000 / len(goals)
    axes.scatter(x, y, c=reached.float(), cmap="coolwarm", vmin=0, vmax=1, s=size, marker="s")
    axes.set(title=f"{frames:,}: {float(reached.float().mean()):.0%}", aspect="equal")
    axes.set(xticks=[], yticks=[])
