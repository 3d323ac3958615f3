"""Time of traces for the critic, and of alternatives, at the sizes of ``figures/critic.py``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from runs.critic_runs import HOST
from speed_parts.loops import Loop
from speed_parts.measure import Contestants, Rows, measure

__all__ = ["critic"]


def critic(rounds: int, steps: int) -> Rows:
    """Measure whole steps with and without traces, and with more updates for each."""
    words = "env.name=point_free4", *HOST, "collector.random_until_reward=false", "compile=true"
    contestants: dict[str, Callable[[int], object]] = {
        f"{recall}, {updates} per step": Loop(
            "sac/sac_recall",
            *words,
            f"recall={recall}",
            "sac.n_step=3",
            f"sac.num_updates={updates}",
            *(["recall.end_states=reward"] if recall == "backtracking" else []),
        ).run
        for recall in ("none", "backtracking")
        for updates in (1, 2, 3)
    }
    batches = steps // 10  # ten frames each
    for function in contestants.values():
        function(300)  # random frames, compilation and the first rewards
    timed: Contestants = {name: partial(run, batches) for name, run in contestants.items()}
    return measure("critic", timed, rounds, per=steps)
