"""Draw the first picture of README and site, from rows of docs/results.

``python docs/drawings/first_picture.py`` writes ``first_picture.png``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchrl_recall.results.names import Look, looks, task_name
from torchrl_recall.results.picture import add_legend, draw_band, finish, save_figure
from torchrl_recall.results.rows import read_rows

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results"
# Looks are those of all pictures; a reader of this one knows no host yet.
HOST, SELF_IMITATION, RECALL = looks(["none", "self_imitation", "backtracking"]).values()
FOUR_ROOMS = {("2", "none"): HOST, ("2", "self_imitation"): SELF_IMITATION,
              ("14", "backtracking"): RECALL}  # fmt: skip
POINT_MASS = {"none": HOST, "self_imitation+recall.max_kl=0.12": SELF_IMITATION,
              "backtracking": RECALL}  # fmt: skip


def draw_four_rooms(axes: Axes) -> None:
    """Draw the share of seeds that are near the optimum, after each number of steps."""
    frames: dict[Look, list[float]] = defaultdict(list)
    for row in read_rows(RESULTS / "four_rooms.csv"):
        look = FOUR_ROOMS.get((row["figure"], row["method"]))
        if look and row["task"] == "15_uniform" and row["metric"] == "frames_to_target":
            frames[look].append(float(row["value"] or np.inf))
    for look in (HOST, SELF_IMITATION, RECALL):
        found = np.sort(frames[look])
        known = found[np.isfinite(found)]
        share = np.arange(1, len(known) + 1) / len(found)
        axes.step(
            [0, *known, 20_000], [0, *share, share[-1]], where="post", color=look.color,
            linestyle=look.line, linewidth=1.6,
        )  # fmt: skip
    axes.set(title=f"four rooms, 15 x 15, {len(found)} seeds", xlim=(0, 20_000))
    finish(axes, "environment steps", "share of seeds near the optimum")


def draw_point_mass(axes: Axes) -> None:
    """Draw the share of goals that are reached, over training."""
    rows = [
        row
        for row in read_rows(RESULTS / "figure_13.csv")
        if (row["task"], row["metric"]) == ("point_free4", "coverage")
    ]
    for method, look in POINT_MASS.items():
        curves: dict[str, dict[int, float]] = defaultdict(dict)
        for row in rows:
            if row["method"] == method:
                curves[row["seed"]][int(row["frames"])] = float(row["value"])
        frames = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        values = np.array([[curve[frame] for frame in frames] for curve in curves.values()])
        draw_band(axes, frames, values, color=look.color, line=look.line)
    axes.set_title(f"{task_name('point_free4')}, {len(curves)} seeds")
    finish(axes, "environment steps", "share of goals reached")
    axes.set_ylabel("share of goals reached", fontsize=9)


def first_picture() -> Figure:
    """Draw both tasks, with the host alone and the control without a model."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    for axes, draw in zip(figure.subplots(1, 2), (draw_four_rooms, draw_point_mass), strict=True):
        draw(axes)
        axes.title.set_fontsize(10)
    add_legend(figure, [RECALL, SELF_IMITATION, HOST])
    return figure


if __name__ == "__main__":
    save_figure(first_picture(), FOLDER / "first_picture.png")
