"""Figure 19: SAC with 5, 10 and 20 recall updates for each 5 of its own.

    python benchmarks/figures/figure_19.py seeds=3 first_seed=500 out=runs/figure_19 frames=50000

Traces are of 20, 20 and 10 steps, as in the paper. Updates are counted in rounds of 50 frames, with
the safeguards of ``recall=imitation``: 50, 100 and 200 of them beside 50 updates of SAC.
``methods=[paper+recall.num_updates=50]`` is without them. ``results.csv``, ``table.md`` and
``figure.png`` go to ``out``; ``collect=true`` makes them from existing runs.
"""

from runs.mujoco_runs import experiment

UPDATES = {5: 20, 10: 20, 20: 10}  # per 5 of SAC, and the length of traces
INTERVAL = 50  # frames between rounds, of recipes/config/sac/recall/imitation.yaml

if __name__ == "__main__":
    experiment(
        "sac",
        {
            "figure": "19",
            "out": "runs/figure_19",
            "tasks": ["HalfCheetah-v5", "Ant-v5"],
            "methods": [
                "none",
                *(
                    f"imitation+recall.num_updates={number * INTERVAL // 5}"
                    f"+recall.trace_length={length}"
                    for number, length in UPDATES.items()
                ),
            ],
            "frames": 50_000,
            "eval_interval": 5_000,
        },
    )
