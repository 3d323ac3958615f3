"""Time of compilation: from the start of a run to step 2,000, in a separate process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from speed_parts.measure import Contestants, Rows, measure

__all__ = ["compilation", "cores"]

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "recall=none": ["recall=none"],
    "recall=imitation": ["recall=imitation"],
}


def compilation(rounds: int) -> Rows:
    """Measure whole runs: eager, compiled without a cache on disk, and compiled with one."""
    rows: Rows = []
    for number in (1, os.cpu_count() or 1):
        with cores(number), tempfile.TemporaryDirectory() as folder:
            contestants: Contestants = {}
            for name, words in RUNS.items():
                cache = Path(folder) / name
                for mode in ("eager", "cold", "warm"):
                    contestants[f"{name}, {mode}"] = partial(_run, words, cache, mode)
            rows += measure(f"compilation, {number} core{'s' * (number > 1)}", contestants, rounds)
    return rows


def _run(words: list[str], cache: Path, mode: str) -> None:
    if mode == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    with tempfile.TemporaryDirectory() as run_dir:
        command = [
            sys.executable,
            str(ROOT / "recipes/sac_recall.py"),
            *words,
            f"run_dir={run_dir}",
        ]
        command += ["env.name=Hopper-v5", "collector.total_frames=2000", "eval.interval=2000"]
        command += ["collector.init_random_frames=1000", "eval.num_episodes=1"]
        command += ["checkpoint.interval=0", "logger.backend=none", f"compile={mode != 'eager'}"]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        subprocess.run(command, env=environment, check=True, capture_output=True)


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Context in which new processes run on a number of cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(number))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
