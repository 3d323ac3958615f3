"""Figure 16: TRPO with a forward model, the Dyna control of App. G.

    python benchmarks/figures/figure_16.py seeds=5 first_seed=500 out=runs/figure_16

Experience comes from 16 environments of one process, because there are many steps.
``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import VECTOR, experiment

if __name__ == "__main__":
    experiment(
        "trpo",
        {
            "figure": "16",
            "out": "runs/figure_16",
            "tasks": ["Ant-v5", "Humanoid-v5"],
            "methods": ["none", "forward_model", "backtracking"],
            "frames": 501_760,
            "eval_interval": 20_000,
            "overrides": VECTOR,
        },
    )
