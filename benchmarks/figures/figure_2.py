"""Figures 2 and 9: the gain of recall over actor-critic with the true state predictor.

    python benchmarks/figures/figure_2.py seeds=20 first_seed=0 out=runs/figure_2 \
        sizes=[11,13,15,19] start=[uniform,opposite] methods=[none,exact]

Unfinished runs are resumed. ``results.csv`` and ``figure.png`` go to ``out``; the table of paired
ratios over ``none`` is printed.
"""

from runs.four_rooms import curves, experiment, table


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "2",
            "out": "runs/figure_2",
            "sizes": [11, 13, 15, 19],
            "start": ["uniform", "opposite"],
            "methods": ["none", "exact"],
        }
    )
    curves(config, results, "Recall with exact predecessors against actor-critic.")
    print(table(results, "none", config.frames))


if __name__ == "__main__":
    main()
