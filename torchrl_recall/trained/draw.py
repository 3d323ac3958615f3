"""Pictures of recall traces: paths of some dimensions of the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.trained.load import TrainedRun
from torchrl_recall.trained.roll_out import path_of
from torchrl_recall.trainers.runs.atomic import atomic_file, check_writable
from torchrl_recall.trainers.runs.log import installed
from torchrl_recall.trainers.schema import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_dims", "check_drawing", "draw_traces", "save_figure"]

_VISITED = 2_000  # number of really visited states that are drawn behind the traces


def draw_traces(
    run: TrainedRun, traces: TensorDictBase, dims: Sequence[int], num_traces: int, path: Path
) -> None:
    """Draw traces over the states that the run visited.

    Two dimensions are drawn as a plane. Any other number of dimensions is drawn over time, with one
    panel for each.

    Args:
        run: the run, whose replay buffer has the visited states.
        traces: traces of shape ``[num_states * num_traces, trace_length]``. Traces to the same end
            state are adjacent.
        dims: indices of the dimensions of the state.
        num_traces: number of traces to each end state.
        path: file of the picture.

    Raises:
        ConfigError: a dimension does not exist, the format is unknown, or Matplotlib is missing.
    """
    check_drawing("out", path)
    check_dims(run, dims)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    paths = path_of(traces).cpu()
    num_states = len(paths) // num_traces
    cmap = colormaps["viridis"]
    colours = [cmap(i / max(1, num_states - 1)) for i in range(num_states)]
    colours = [colours[i // num_traces] for i in range(len(paths))]
    if len(dims) == 2:
        figure = Figure(figsize=(6, 5), layout="constrained")
        _plane(figure.subplots(), paths[..., list(dims)], _visited(run)[:, list(dims)], colours)
        figure.axes[0].set(xlabel=f"observation[{dims[0]}]", ylabel=f"observation[{dims[1]}]")
    else:
        figure = Figure(figsize=(6, 1 + 1.8 * len(dims)), layout="constrained")
        panels = figure.subplots(len(dims), 1, squeeze=False, sharex=True)[:, 0]
        for axes, dim in zip(panels, dims, strict=True):
            _over_time(axes, paths[..., dim], colours)
            axes.set_ylabel(f"observation[{dim}]")
        panels[-1].set_xlabel("steps before the end state")
    figure.suptitle(
        f"{run.parts.name}, recall={run.config.recall.name}, {run.frames:,} frames: {len(paths)} "
        f"traces of {traces.shape[1]} steps",
        fontsize=9,
    )
    save_figure(figure, path)


def _plane(axes: Axes, paths: Tensor, visited: Tensor, colours: Sequence) -> None:
    axes.scatter(visited[:, 0], visited[:, 1], s=3, color="0.85", label="visited states")
    for path, colour in zip(paths, colours, strict=True):
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.8, alpha=0.8)
    begin, end = paths[:, 0], paths[:, -1]
    axes.scatter(begin[:, 0], begin[:, 1], s=8, c=list(colours), label="beginnings")
    axes.scatter(
        end[:, 0], end[:, 1], s=70, marker="*", color="tab:red", zorder=3, label="end states"
    )
    axes.legend(fontsize=7)


def _over_time(axes: Axes, paths: Tensor, colours: Sequence) -> None:
    steps = range(1 - paths.shape[1], 1)
    for path, colour in zip(paths, colours, strict=True):
        axes.plot(steps, path, color=colour, linewidth=0.8, alpha=0.8)
    axes.scatter([0] * len(paths), paths[:, -1], s=40, marker="*", color="tab:red", zorder=3)


def _visited(run: TrainedRun) -> Tensor:
    """Return states of the replay buffer, evenly spaced in time."""
    experience = run.parts.experience
    rows = torch.linspace(0, len(experience) - 1, min(_VISITED, len(experience))).long()
    return experience[rows]["observation"].cpu()


def check_dims(run: TrainedRun, dims: Sequence[int]) -> None:
    """Refuse dimensions that a state does not have.

    Args:
        run: the run.
        dims: indices of dimensions of the state.

    Raises:
        ConfigError: a dimension does not exist.
    """
    model = run.needs_model()
    if not isinstance(model.observations, ContinuousCodec):
        raise ConfigError(
            f"the states of {run.parts.name} are categories, which have no dimensions to draw. "
            "Take a run whose task observes a vector of floats."
        )
    size = model.observation_spec.shape[-1]
    if not dims or [dim for dim in dims if not 0 <= dim < size]:
        raise ConfigError(
            f"dims={list(dims)}: a state of {run.parts.name} has the dimensions 0 to {size - 1}; "
            "name one or more of them."
        )


def check_drawing(key: str, path: Path) -> None:
    """Refuse a picture that could not be written, before any work is done.

    Args:
        key: name of the command's option, for the error.
        path: file of the picture.

    Raises:
        ConfigError: the format is unknown, the folder is none, or Matplotlib is missing.
    """
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"{key}={path} must end in .png, .pdf or .svg.")
    check_writable(key, path)
    if not installed("matplotlib"):
        raise ConfigError(f"{key}= needs Matplotlib: pip install 'torchrl-recall[plots]'.")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture; the file gets its name when it is complete.

    Args:
        figure: the picture.
        path: file of the picture.
    """
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=100)
