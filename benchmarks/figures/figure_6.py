"""Figure 6: TRPO and PPO with recall traces, alone, and with self-imitation.

    python benchmarks/figures/figure_6.py seeds=5 first_seed=0 out=runs/figure_6

The paper runs millions of steps. These runs have 200,704 steps, which take one or two hours on two
cores. The same command compares the host with sb3-contrib's TRPO:

    python benchmarks/figures/figure_6.py figure=trpo_check seeds=5 out=runs/trpo_check \
        tasks=[Hopper-v5,HalfCheetah-v5] methods=[none,sb3] frames=100352

``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from runs.mujoco_runs import experiment

if __name__ == "__main__":
    experiment(
        "trpo",
        {
            "figure": "6",
            "out": "runs/figure_6",
            "tasks": ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5"],
            "methods": [
                f"{host}{recall}"
                for host in ("", "ppo:")
                for recall in ("none", "backtracking", "self_imitation")
            ],
        },
    )
