"""Delayed reward: SAC and PPO, paid every 20 steps, with recall, self-imitation and n-step returns.

    python benchmarks/figures/delayed.py figure=delayed_sac seeds=5 first_seed=500 \
        out=runs/delayed_sac
    python benchmarks/figures/delayed.py figure=delayed_ppo seeds=5 first_seed=500 \
        out=runs/delayed_ppo frames=501760 eval_interval=20000 \
        methods=[ppo:none,ppo:self_imitation,ppo:backtracking]

Imitation of good experience helps most in such tasks (Oh et al., 2018). There is no method of
n-step returns for PPO, because its advantages are weighted means of them already.
``tasks=[Hopper-v5+env.delay=end]`` pays at the end of the episode. ``results.csv``, ``table.md``
and ``figure.png`` go to ``out``; ``collect=true`` makes them from existing runs.
"""

from runs.mujoco_runs import experiment

DELAY = 20  # steps, as in Oh et al. (2018)
TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")

if __name__ == "__main__":
    experiment(
        "sac",
        {
            "figure": "delayed",
            "out": "runs/delayed",
            "tasks": [
                f"{name}+env.delay={DELAY}"
                for name in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
            ],
            # Traces train the critic beside 3-step returns, as in the tasks in which they helped.
            "methods": [
                "none",
                "none+sac.n_step=3",
                "self_imitation",
                "backtracking",
                "backtracking+sac.n_step=3",
            ],
            "frames": 100_000,
            "eval_interval": 5_000,
        },
    )
