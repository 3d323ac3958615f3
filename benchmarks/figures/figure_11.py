"""Figure 11: which goals the point mass reaches through training, one seed.

    python benchmarks/figures/figure_11.py seeds=1 first_seed=200 out=runs/figure_13

The runs are those of figure 13, if ``out`` is the same.
"""

from runs.goal_runs import experiment, maps

if __name__ == "__main__":
    config, results = experiment(
        {
            "figure": "11",
            "out": "runs/figure_11",
            "seeds": 1,
            "tasks": ["point_umaze"],
            "methods": ["none", "backtracking"],
        }
    )
    maps(config, results, "Goals reached (red) and not (blue).")
