"""Draw the first picture of README and site, from rows of docs/results.

``python docs/drawings/first_picture.py`` writes ``first_picture.png``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchrl_recall.results.picture import draw_band
from torchrl_recall.results.rows import read_rows

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results"
# Colours of Okabe and Ito, which are told apart by colour-blind readers.
METHODS = {
    "host alone": "#767b84",
    "self-imitation": "#e69f00",
    "recall traces": "#0072b2",
}
FOUR_ROOMS = {"none": "host alone", "self_imitation": "self-imitation"}
POINT_MASS = {
    "none": "host alone",
    "self_imitation+recall.max_kl=0.12": "self-imitation",
    "backtracking": "recall traces",
}


def draw_four_rooms(axes: Axes) -> None:
    """Draw the share of seeds that are near the optimum, after each number of steps."""
    frames: dict[str, list[float]] = defaultdict(list)
    for row in read_rows(RESULTS / "four_rooms.csv"):
        if row["task"] == "15_uniform" and row["metric"] == "frames_to_target":
            name = FOUR_ROOMS.get(row["method"]) if row["figure"] == "2" else None
            if (row["figure"], row["method"]) == ("14", "backtracking"):
                name = "recall traces"
            if name is not None:
                frames[name].append(float(row["value"] or np.inf))
    for name, color in METHODS.items():
        found = np.sort(frames[name])
        known = found[np.isfinite(found)]
        share = np.arange(1, len(known) + 1) / len(found)
        axes.step(
            [0, *known, 20_000], [0, *share, share[-1]], where="post", color=color, label=name
        )
    axes.set(
        title=f"four rooms, 15 x 15, {len(found)} seeds",
        xlabel="environment steps",
        ylabel="share of seeds near the optimum",
        xlim=(0, 20_000),
    )


def draw_point_mass(axes: Axes) -> None:
    """Draw the share of goals that are reached, over training."""
    rows = [
        row
        for row in read_rows(RESULTS / "figure_13.csv")
        if (row["task"], row["metric"]) == ("point_free4", "coverage")
    ]
    for method, name in POINT_MASS.items():
        curves: dict[str, dict[int, float]] = defaultdict(dict)
        for row in rows:
            if row["method"] == method:
                curves[row["seed"]][int(row["frames"])] = float(row["value"])
        frames = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        values = np.array([[curve[frame] for frame in frames] for curve in curves.values()])
        draw_band(axes, frames, values, color=METHODS[name], label=name)
    axes.set(
        title=f"goals of a point mass, four dimensions, {len(curves)} seeds",
        xlabel="environment steps",
        ylabel="share of goals reached",
    )


def first_picture() -> Figure:
    """Draw both tasks, with the host alone and the control without a model."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, draw in zip(figure.subplots(1, 2), (draw_four_rooms, draw_point_mass), strict=True):
        draw(axes)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e3:g}k")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    first_picture().savefig(FOLDER / "first_picture.png", dpi=110)
