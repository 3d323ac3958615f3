"""Figure 8: TRPO with recall traces of several lengths.

    python benchmarks/figures/figure_8.py seeds=5 first_seed=500 out=runs/figure_8

Experience comes from 16 environments of one process, because there are many steps.
``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import VECTOR, experiment

if __name__ == "__main__":
    experiment(
        "trpo",
        {
            "figure": "8",
            "out": "runs/figure_8",
            "tasks": ["Hopper-v5", "HalfCheetah-v5"],
            "methods": [
                "none",
                *(f"backtracking+recall.trace_length={length}" for length in (1, 5, 10, 20, 50)),
            ],
            "frames": 501_760,
            "eval_interval": 20_000,
            "overrides": VECTOR,
        },
    )
