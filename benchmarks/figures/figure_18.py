"""Figure 18: trace length against the number of imitation updates in a round of recall.

python benchmarks/figures/figure_18.py seeds=20 first_seed=0 out=runs/figure_18 \
        sizes=[15] start=uniform num_updates=[1,4,16] trace_lengths=[5,10,20,40,80]
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from runs.evidence import save
from runs.four_rooms import experiment, ratio, table
from torchrl_recall.results.names import looks, task_name
from torchrl_recall.results.picture import add_legend, finish
from torchrl_recall.results.statistics import Interval


def name(num_updates: int, trace_length: int) -> str:
    """Return the method of a point of the figure."""
    return f"exact+recall.num_updates={num_updates}+recall.trace_length={trace_length}"


def draw(points: Mapping[tuple[str, int], Mapping[int, Interval]]) -> Figure:
    """Draw times fewer steps than actor-critic against trace lengths.

    Args:
        points: by task and number of imitation updates, then by trace length.
    """
    tasks = list(dict.fromkeys(task for task, _ in points))
    shown = looks(f"exact+recall.num_updates={n}" for n in dict.fromkeys(n for _, n in points))
    of_updates = dict(zip(dict.fromkeys(n for _, n in points), shown.values(), strict=True))
    figure = Figure(figsize=(max(6.4, 2.8 * len(tasks)), 3.0), layout="constrained")
    panels = dict(zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True))
    for (task, updates), of_length in points.items():
        axes, look, values = panels[task], of_updates[updates], list(of_length.values())
        axes.plot(list(of_length), [p.value for p in values], color=look.color, marker="o")
        band = [p.low for p in values], [p.high for p in values]
        axes.fill_between(list(of_length), *band, color=look.color, alpha=0.18, linewidth=0)
        axes.set(xscale="log", yscale="log", title=task_name(task))
    for axes in panels.values():
        axes.axhline(1, color="black", linewidth=0.6)
        finish(axes, "trace length", "times fewer steps than\nactor-critic alone")
        lengths = sorted({length for each in points.values() for length in each})
        axes.set_xticks(lengths, lengths)
        axes.set_yticks([1, 2, 4, 8], [1, 2, 4, 8])
        axes.minorticks_off()
    named = [replace(look, name=str(n)) for n, look in of_updates.items()]
    add_legend(figure, named, title="imitation updates\nin a round", beside=len(tasks) == 1)
    return figure


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "18",
            "out": "runs/figure_18",
            "sizes": [15],
            "start": "uniform",
            "num_updates": [1, 4, 16],
            "trace_lengths": [5, 10, 20, 40, 80],
        },
        lambda config: (
            ["none"]
            + [name(n, length) for n in config.num_updates for length in config.trace_lengths]
        ),
    )
    points = {
        (task, updates): {
            length: ratio(results, task, "none", name(updates, length), config.frames)
            for length in config.trace_lengths
            if (task, name(updates, length)) in results
        }
        for task in dict.fromkeys(task for task, _ in results)
        for updates in config.num_updates
    }
    caption = f"{config.seeds} seeds, bootstrap 95 % intervals of the paired geometric mean."
    save(draw(points), Path(config.out) / "figure.png", caption)
    print(table(results, "none", config.frames))


if __name__ == "__main__":
    main()
