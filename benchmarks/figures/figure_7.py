"""Figure 7: SAC with recall traces against SAC, and against controls that the paper lacks.

    python benchmarks/figures/figure_7.py seeds=3 first_seed=0 out=runs/figure_7 \
        tasks=[Hopper-v5] methods=[none,imitation,paper,self_imitation] frames=30000

The same command checks the host, and that eager and compiled updates learn alike:

    python benchmarks/figures/figure_7.py seeds=3 out=runs/host_check \
        tasks=[HalfCheetah-v5,Hopper-v5] methods=[none,sb3] frames=50000
    python benchmarks/figures/figure_7.py seeds=3 out=runs/eager \
        tasks=[Hopper-v5] methods=[none,none+compile=false] frames=20000

``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import experiment

if __name__ == "__main__":
    experiment(
        "sac",
        {
            "figure": "7",
            "out": "runs/figure_7",
            "tasks": ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"],
            "methods": ["none", "imitation", "self_imitation"],
            "frames": 30_000,
            "eval_interval": 5_000,
        },
    )
