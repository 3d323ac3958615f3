"""Time of what makes traces more trustworthy, as a share of a step of SAC with imitated traces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from speed_parts.loops import TASK, Loop
from speed_parts.measure import Contestants, Rows, measure

__all__ = ["trust"]

CONTESTANTS = {
    "SAC alone": ["recall=none"],
    "imitated traces": ["recall=imitation"],
    "agreement": ["recall=imitation", "recall.agreement=0.95"],
    "measured length": ["recall=imitation", "recall.trace_length=auto"],
    "5 models": ["recall=imitation", "backtracking.num_models=5"],
    "5 models, disagreement": [
        "recall=imitation", "backtracking.num_models=5", "recall.disagreement=0.95"
    ],
    "joint model": ["recall=imitation", "backtracking.joint=true"],
    "joint model, agreement": [
        "recall=imitation", "backtracking.joint=true", "recall.agreement=0.95"
    ],
}  # fmt: skip


def trust(rounds: int, steps: int) -> Rows:
    """Measure whole steps of SAC with imitated traces, and with one addition each."""
    contestants: dict[str, Callable[[int], object]] = {
        name: Loop("sac/sac_recall", f"env.name={TASK}", "compile=true", *words).run
        for name, words in CONTESTANTS.items()
    }
    for run in contestants.values():
        run(2_400)  # random frames, compilation and the first rounds of recall
    timed: Contestants = {name: partial(run, steps) for name, run in contestants.items()}
    return measure("trust", timed, rounds, per=steps)
