"""Pictures of learning curves, with a panel for each task and a mean for each method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torchrl_recall.results.extra import plots_extra
from torchrl_recall.results.statistics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_band", "draw_curves", "save_figure"]

Curve = tuple[Sequence[int], NDArray]  # frames, and values of shape [seeds, evaluations]


def draw_curves(curves: Mapping[tuple[str, str], Curve], *, ylabel: str) -> Figure:
    """Draw the mean, the interval and every seed of each method.

    Args:
        curves: frames and values, shape ``[seeds, evaluations]``, by task and method.

    Keyword Args:
        ylabel: label of the vertical axis.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    with plots_extra():
        from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for task, _ in curves))
    methods = list(dict.fromkeys(method for _, method in curves))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(5 * columns, 4.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(panels, tasks, strict=False):
        for (name, method), (frames, values) in curves.items():
            if name == task and len(frames):
                color = f"C{methods.index(method)}"
                draw_band(axes, frames, values, color=color, label=method)
                axes.plot(frames, values.T, color=color, alpha=0.25, linewidth=0.7)
        axes.set(title=task, xlabel="environment steps", ylabel=ylabel)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e3:g}k")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def draw_band(
    axes: Axes, frames: Sequence[int], values: NDArray, *, color: str, label: str
) -> None:
    """Draw the mean over seeds and its 95 % interval.

    Args:
        axes: axes of the picture.
        frames: frames of the evaluations.
        values: values of shape ``[seeds, evaluations]``.

    Keyword Args:
        color: colour of line and band.
        label: text of the legend.
    """
    bands = [interval(list(column)) for column in np.asarray(values).T]
    axes.plot(frames, [band.value for band in bands], color=color, label=label)
    edges = [band.low for band in bands], [band.high for band in bands]
    axes.fill_between(frames, *edges, color=color, alpha=0.2)


def save_figure(figure: Figure, path: Path, caption: str, *, width: int = 160) -> None:
    """Write a picture with a caption.

    Args:
        figure: the picture.
        path: file of the picture.
        caption: text below the picture.

    Keyword Args:
        width: length of a line of the caption, in characters.
    """
    figure.supxlabel(textwrap.fill(caption, width), fontsize=7)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)
