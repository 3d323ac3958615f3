"""Share, among tests of results, runs as they are read from a folder."""

from __future__ import annotations

from pathlib import Path

from torchrl_recall.results.folders import Run


def run(recall="none", seed=0, *, task="Hopper-v5", host="sac", values=(1.0, 2.0), **changes):
    """A run of 20 steps; dots in the keys of settings are double underscores."""
    known = {"holds": False, "is_finished": True, "knows_target": False, "frames_to_target": None}
    known |= {key: changes.pop(key) for key in list(changes) if key in known}
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    settings = {"seed": seed, "recall.name": recall, "recall.trace_length": 10} | settings
    return Run(
        folder=Path(f"{task}_{host}_{recall}_{seed}_{changes}"), task=task, host=host,
        recall=recall, seed=seed, settings=settings,
        evaluations={10 * (i + 1): value for i, value in enumerate(values)}, **known,
    )  # fmt: skip


def cells(text: str, *start: str) -> list[str]:
    """The cells of the line that begins with some, of a method's configuration without its name."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    for line in lines:
        if (i := next((i for i, cell in enumerate(line) if cell.startswith("`")), 0)) > 0:
            line[i - 1 : i + 1] = [line[i].strip("`")]
    (found,) = [line for line in lines if tuple(line[: len(start)]) == start]
    return found[len(start) :]
