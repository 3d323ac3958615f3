"""Figure 16: TRPO with a forward model, the Dyna control of App. G.

    python benchmarks/figures/figure_16.py seeds=3 first_seed=0 out=runs/figure_16

``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import experiment

if __name__ == "__main__":
    experiment(
        "trpo",
        {
            "figure": "16",
            "out": "runs/figure_16",
            "tasks": ["Ant-v5", "Humanoid-v5"],
            "methods": ["none", "forward_model", "backtracking"],
        },
    )
