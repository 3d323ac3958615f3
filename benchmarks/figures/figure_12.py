"""Figures 5 and 12: which goals the ant reaches through training, and its coverage.

    python benchmarks/figures/figure_12.py seeds=3 first_seed=200 out=runs/figure_12

The paper runs 78 to 138 million steps. These runs are shorter, so that two cores need hours only.
``results.csv`` and ``figure.png`` go to ``out``; tables of paired ratios over ``none`` and
of coverage are printed.
"""

from runs.goal_runs import coverage_table, experiment, maps, table

if __name__ == "__main__":
    config, results = experiment(
        {
            "figure": "12",
            "out": "runs/figure_12",
            "seeds": 3,
            "frames": 9_000_000,
            "tasks": ["ant_maze"],
            "methods": ["none", "backtracking"],
        }
    )
    maps(config, results, "Goals reached (red) and not (blue).")
    print(table(results, "none", config.frames))
    print(coverage_table(results))
