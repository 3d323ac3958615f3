"""Measurement of contestants that take turns, and the table of their ratios."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

__all__ = ["Contestants", "Rows", "measure", "warm_and_measure"]

Contestants = dict[str, Callable[[], object]]
Rows = list[dict]


def measure(
    part: str, contestants: Contestants, rounds: int, *, calls: int = 1, per: int = 1
) -> Rows:
    """Measure milliseconds of each contestant in each round, taking turns.

    Args:
        part: name of the part, for the rows.
        contestants: functions to time, by name.
        rounds: number of rounds.

    Keyword Args:
        calls: number of calls of each contestant in a round.
        per: number of units in a call, such as environment steps.

    Returns:
        One row for each round and contestant.
    """
    rows = []
    for round in range(rounds):
        for name, function in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            milliseconds = (time.perf_counter() - start) * 1e3 / calls / per
            rows.append({"part": part, "name": name, "round": round, "ms": milliseconds})
    show(part, rows)
    return rows


def warm_and_measure(part: str, contestants: Contestants, rounds: int, *, calls: int) -> Rows:
    """Measure after compilation."""
    for function in contestants.values():
        for _ in range(5):
            function()
    return measure(part, contestants, rounds, calls=calls)


def show(part: str, rows: Rows) -> None:
    """Print a table of times and of speeds relative to each contestant."""
    times: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        times[row["name"]].append(row["ms"])
    print(f"\n## {part}\n\n| | ms | " + " | ".join(f"x {name}" for name in times) + " |")
    print("|---|---|" + "---|" * len(times))
    for name, own in times.items():
        cells = []
        for other in times.values():
            ratios = np.array(other) / np.array(own)
            low, median, high = np.percentile(ratios, [25, 50, 75])
            cells.append(f"{median:.2f} [{low:.2f}, {high:.2f}]")
        print(f"| {name} | {np.median(own):.4g} | " + " | ".join(cells) + " |", flush=True)
