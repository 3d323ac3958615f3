"""Draw pictures of methods: panels for tasks, one legend, and the looks of ``names``."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torchrl_recall.results.extra import plots_extra
from torchrl_recall.results.names import HOSTS, Line, Look, looks, split_method, task_name
from torchrl_recall.results.statistics import interval
from torchrl_recall.trainers.runs.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["add_legend", "draw_band", "draw_curves", "draw_shares", "finish", "save_figure"]

Key = tuple[str, str]  # task and method
Curve = tuple[Sequence[int], NDArray]  # frames, and values of shape [seeds, evaluations]
Times = tuple[Sequence[float | None], int]  # frames to the target of each seed, and at the end
FEW = 12  # seeds in a panel, above which their lines would hide the means
DPI = 200  # a picture of 8.4 inches has two pixels for each of a page's 840


def draw_curves(
    curves: Mapping[Key, Curve],
    *,
    ylabel: str,
    host: str = "",
    xlabel: str = "environment steps",
    target: float | None = None,
) -> Figure:
    """Draw mean and interval of each method, and every seed as a thin line if they are few.

    Args:
        curves: frames and values, shape ``[seeds, evaluations]``, by task and method.

    Keyword Args:
        ylabel: label of the vertical axis.
        host: host of the methods that name none.
        xlabel: label of the horizontal axis.
        target: level to mark with a line.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    figure, panels, shown = _make_panels(curves, host)
    seeds = Counter(dict.fromkeys(panels.values(), 0))
    for key, (_, values) in curves.items():
        seeds[panels[key]] += len(values)
    for key, (frames, values) in curves.items():
        axes, look = panels[key], shown[key]
        if len(frames):
            draw_band(axes, frames, values, color=look.color, line=look.line)
            if seeds[axes] <= FEW:
                axes.plot(frames, values.T, color=look.color, alpha=0.3, linewidth=0.6)
    for axes in dict.fromkeys(panels.values()):
        if target is not None:
            axes.axhline(target, color="black", linewidth=0.6)
        finish(axes, xlabel, ylabel)
    return figure


def draw_shares(
    times: Mapping[Key, Times],
    *,
    ylabel: str = "share of seeds at the target",
    host: str = "",
    log: bool = False,
) -> Figure:
    """Draw the share of seeds that have reached their target, against frames.

    Args:
        times: frames to the target of each seed, None without it, and frames at the end, by task
            and method.

    Keyword Args:
        ylabel: what the share is of.
        host: of the methods that name none.
        log: whether frames are on a logarithmic axis.
    """
    figure, panels, shown = _make_panels(times, host)
    ends: dict[Axes, int] = {}
    for key, (_, end) in times.items():
        ends[panels[key]] = max(end, ends.get(panels[key], 0))
    for key, (frames, end) in times.items():
        axes, look = panels[key], shown[key]
        reached = sorted(number for number in frames if number is not None)
        share = np.arange(len(reached) + 1) / len(frames)
        last = ends[axes] if len(reached) == len(frames) else end
        axes.step(
            [0, *reached, last], [*share, share[-1]], where="post",
            color=look.color, linestyle=look.line, linewidth=1.6,
        )  # fmt: skip
    for axes in dict.fromkeys(panels.values()):
        axes.set_ylim(-0.02, 1.04)
        if log:
            reached = [f for k, (fs, _) in times.items() if panels[k] is axes for f in fs if f]
            first = min(reached, default=ends[axes] / 10)
            axes.set(xscale="log", xlim=(0.7 * first, ends[axes]))
        finish(axes, "environment steps", ylabel)
    return figure


def _make_panels(keys: Iterable[Key], host: str) -> tuple[Figure, dict[Key, Axes], dict[Key, Look]]:
    """Make a panel for each task and host, with a legend above all; return those of each key."""
    with plots_extra():
        from matplotlib.figure import Figure

    keys = list(keys)
    hosts = {method: split_method(method)[0] or host for _, method in keys}
    several = len(set(hosts.values())) > 1
    split = {method: split_method(method) for method in hosts}  # a panel's title names its host
    short = {m: "+".join([recall, *s]) if several else m for m, (_, recall, s) in split.items()}
    found = looks(dict.fromkeys(short.values()), "" if several else host)
    places = list(dict.fromkeys((hosts[method] if several else "", task) for task, method in keys))
    order = list(dict.fromkeys(place[0] for place in places))
    places.sort(key=lambda place: order.index(place[0]))
    number = len(places)
    columns = len({task for _, task in places}) if several else number
    columns = columns if columns <= 3 else 4 if columns in (4, 7, 8) else 3
    lines = -(-number // columns)
    width = 7.4 if number == 1 else max(6.4, min(8.8, 2.8 * columns))
    names = [look.name for look in found.values()]
    legend = 0 if number == 1 else -(-len(names) // _columns(names, width))
    figure = Figure(figsize=(width, 2.4 * lines + 0.5 + 0.2 * legend), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in grid[number:]:
        axes.set_axis_off()
    of_place = dict(zip(places, grid, strict=False))
    for (of_host, task), axes in of_place.items():
        words = f"{HOSTS.get(of_host, of_host.upper())}, " if of_host else ""
        axes.set_title(textwrap.fill(f"{words}{task_name(task)}", 30), fontsize=10)
    add_legend(figure, found.values(), beside=number == 1)
    return (
        figure,
        {(t, m): of_place[hosts[m] if several else "", t] for t, m in keys},
        {(t, m): found[short[m]] for t, m in keys},
    )


def add_legend(
    figure: Figure, shown: Iterable[Look], *, title: str = "", beside: bool = False
) -> None:
    """Put one legend above all panels, or beside a single one.

    Args:
        figure: the picture.
        shown: looks of its methods.

    Keyword Args:
        title: of the legend.
        beside: whether it stands beside the panel.
    """
    from matplotlib.lines import Line2D

    shown = list(shown)
    handles = [
        Line2D([], [], color=look.color, linestyle=look.line, linewidth=1.8)  # type: ignore[arg-type]
        for look in shown
    ]
    names = [textwrap.fill(look.name, 34) if beside else look.name for look in shown]
    figure.legend(
        handles, names, loc="outside right center" if beside else "outside upper center",
        ncols=1 if beside else _columns(names, figure.get_figwidth()), fontsize=9,
        frameon=False, handlelength=2.6, title=title or None,
    )  # fmt: skip


def _columns(names: Sequence[str], width: float) -> int:
    """Return the columns of a legend that fit into some inches, filled as evenly as possible."""
    fitting = max(1, min(len(names), int(width / (max(map(len, names)) * 0.07 + 0.6))))
    return -(-len(names) // -(-len(names) // fitting))


def draw_band(
    axes: Axes, frames: Sequence[int], values: NDArray, *, color: str, line: Line = "-"
) -> None:
    """Draw the mean over seeds and its 95 % interval.

    Args:
        axes: axes of the picture.
        frames: frames of the evaluations.
        values: values of shape ``[seeds, evaluations]``.

    Keyword Args:
        color: colour of line and band.
        line: style of the line.
    """
    bands = [interval(list(column)) for column in np.asarray(values).T]
    axes.plot(frames, [b.value for b in bands], color=color, linestyle=line, linewidth=1.6)
    edges = [band.low for band in bands], [band.high for band in bands]
    axes.fill_between(frames, *edges, color=color, alpha=0.18, linewidth=0)


def finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label a panel; frames on its axis are in thousands and millions."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        ticks = [m * 10**e for e in range(1, 9) for m in (1, 3) if low <= m * 10**e <= high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda x, _: _thousands(x))
    axes.tick_params(which="both", labelsize=8)
    axes.set_xlabel(xlabel, fontsize=9)
    spec = axes.get_subplotspec()
    axes.set_ylabel(ylabel if spec is None or spec.is_first_col() else "", fontsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _thousands(x: float) -> str:
    for unit, word in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{word}"
    return f"{x:g}"


def save_figure(figure: Figure, path: Path, caption: str = "", *, command: str = "") -> None:
    """Write a picture of few colours, with a caption below it.

    Args:
        figure: the picture.
        path: file of the picture.
        caption: text below the picture.

    Keyword Args:
        command: command that makes the picture, stored in the file's description.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if caption:
        width = int(figure.get_figwidth() * 14)  # characters
        figure.supxlabel(textwrap.fill(caption, width), fontsize=8, color="#444444")
    drawn, about = io.BytesIO(), PngInfo()
    about.add_itxt("Description", command or caption)
    figure.savefig(drawn, dpi=DPI, format="png")
    image = Image.open(drawn).convert("RGB")
    # A palette of few colours alone would mix those of lines, and grey the white.
    lines = dict.fromkeys(to_rgb(line.get_color()) for line in figure.findobj(Line2D))
    kept = np.array([[255, 255, 255], *(np.rint(255 * np.array(color)) for color in lines)])
    found = np.array(image.quantize(160).getpalette()).reshape(-1, 3)
    apart = np.abs(found[:, None] - kept).sum(-1).min(-1) > 24
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([kept, found[apart]]).astype(int).flatten().tolist())
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    with atomic_file(path) as partial:
        image.save(partial, format="png", optimize=True, dpi=(DPI, DPI), pnginfo=about)
