"""Figure 8: TRPO with recall traces of several lengths.

    python benchmarks/figures/figure_8.py seeds=3 first_seed=0 out=runs/figure_8

``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import experiment

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
        },
    )
