"""Figures 4 and 10a: recall against prioritised replay, tuned and with the settings of Table 3.

python benchmarks/figures/figure_4.py seeds=20 first_seed=0 out=runs/figure_4 \
        sizes=[11,13,15] start=[uniform,opposite] \
        methods=[prioritized_replay,per_table_3,exact]
"""

from runs.four_rooms import curves, experiment, table


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "4",
            "out": "runs/figure_4",
            "sizes": [11, 13, 15],
            "start": ["uniform", "opposite"],
            "methods": ["prioritized_replay", "per_table_3", "exact"],
            "frames": 102_400,
        }
    )
    curves(config, results, "Recall with exact predecessors against prioritised replay.")
    print(table(results, "prioritized_replay", config.frames))


if __name__ == "__main__":
    main()
