"""Measure the gain by traces for the critic of an off-policy host, in small sparse tasks.

    python benchmarks/figures/critic.py seeds=20 first_seed=0 out=runs/critic \
        tasks=[point_free4] methods=[none+sac.n_step=3,backtracking+sac.n_step=3]

For each task and for all of them, it prints frames to a sustained success of 0.9. It also prints
the paired ratio of the first method's frames to those of each other method. If the ratio is above
one, the other method needs fewer frames. ``results.csv`` and ``figure.png`` go to ``out``;
``collect=true`` makes them from existing runs.
"""

from runs.critic_runs import experiment

if __name__ == "__main__":
    experiment()
