"""Figure 17: how often recall updates the policy, for each update of the actor-critic.

    python benchmarks/figures/figure_17.py seeds=20 first_seed=0 out=runs/figure_17 \
        sizes=[15] start=uniform intervals=[1,2,5,10,25]

``intervals`` are actor-critic updates between two rounds of recall.
"""

from runs.four_rooms import curves, experiment, table


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "17",
            "out": "runs/figure_17",
            "sizes": [15],
            "start": "uniform",
            "intervals": [1, 2, 5, 10, 25],
        },
        lambda config: [f"exact+recall.interval={n}" for n in config.intervals] + ["none"],
    )
    curves(config, results, "Actor-critic updates between two rounds of recall.")
    print(table(results, "none", config.frames))


if __name__ == "__main__":
    main()
