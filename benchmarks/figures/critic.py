"""Measure what traces are worth to the critic of an off-policy host, in small sparse tasks.

    python benchmarks/figures/critic.py seeds=20 first_seed=0 out=runs/critic \
        tasks=[point_free4] methods=[none+sac.n_step=3,backtracking+sac.n_step=3]

Prints, for each task and all of them, frames to a sustained success of 0.9 and the paired ratio of
the first method's to each other's: above one, a method needs fewer. ``results.csv`` and
``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there are.
"""

from runs.critic_runs import experiment

if __name__ == "__main__":
    experiment()
