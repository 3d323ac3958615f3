"""Figure 18: trace length against the number of imitation updates in a round of recall.

python benchmarks/figures/figure_18.py seeds=20 first_seed=0 out=runs/figure_18 \
        sizes=[15] start=uniform num_updates=[1,4,16] trace_lengths=[5,10,20,40,80]
"""

from pathlib import Path

from matplotlib.figure import Figure
from runs.evidence import save
from runs.four_rooms import experiment, ratio, table

from torchrl_recall.results.statistics import Interval


def name(num_updates: int, trace_length: int) -> str:
    """Return the method of a point of the figure."""
    return f"exact+recall.num_updates={num_updates}+recall.trace_length={trace_length}"


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
    tasks = list(dict.fromkeys(task for task, _ in results))
    figure = Figure(figsize=(4.5 * len(tasks), 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for number, updates in enumerate(config.num_updates):
            points: dict[int, Interval] = {
                length: ratio(results, task, "none", name(updates, length), config.frames)
                for length in config.trace_lengths
                if (task, name(updates, length)) in results
            }
            values = list(points.values())
            axes.plot(list(points), [p.value for p in values], f"C{number}o-", label=updates)
            band = [p.low for p in values], [p.high for p in values]
            axes.fill_between(list(points), *band, color=f"C{number}", alpha=0.2)
        axes.axhline(1, color="grey", linewidth=0.7)
        axes.set(title=task, xlabel="trace length", ylabel="times faster than actor-critic")
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(config.trace_lengths, config.trace_lengths)
        axes.minorticks_off()
        axes.legend(title="imitation updates", fontsize=7)
    caption = f"{config.seeds} seeds, bootstrap 95 % intervals of the paired geometric mean."
    save(figure, Path(config.out) / "figure.png", caption, width=80)
    print(table(results, "none", config.frames))


if __name__ == "__main__":
    main()
