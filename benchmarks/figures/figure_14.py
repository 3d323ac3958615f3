"""Figure 14: a learned against a random backward policy, and a model that is wholly learned.

python benchmarks/figures/figure_14.py seeds=20 first_seed=0 out=runs/figure_14 \
        sizes=[15] start=[uniform,opposite] methods=[random_model,exact,backtracking,none]
"""

from runs.four_rooms import curves, experiment, table


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "14",
            "out": "runs/figure_14",
            "sizes": [15],
            "start": ["uniform", "opposite"],
            "methods": ["random_model", "exact", "backtracking", "none"],
            "frames": 102_400,
        }
    )
    curves(config, results, "Learned against random backward policy.")
    print(table(results, "random_model", config.frames))


if __name__ == "__main__":
    main()
