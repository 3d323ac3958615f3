"""Resident memory over a run of the recipe, and its number of recompilations.

    python benchmarks/memory.py env=HalfCheetah-v5 recall=imitation frames=50000 out=runs/memory

The recipe runs in a process of its own, whose memory is read every two seconds. ``results.csv``
(seconds, frames, megabytes, recompilations), ``figure.png`` and a line of summary are written to
``out``; other words, such as ``checkpoint.interval=0``, go to the recipe.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from torchrl_recall.results.names import looks, method_name
from torchrl_recall.results.picture import finish, save_figure

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {
    "env": "HalfCheetah-v5", "recall": "imitation", "frames": "50000", "out": "runs/memory",
}  # fmt: skip


def resident_megabytes(pid: int) -> float:
    """Read the present resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def frames_and_seconds(path: Path) -> tuple[list[float], list[float]]:
    """Read the frames and seconds of the run's evaluations."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["frames"]) for row in rows], [float(row["wall_seconds"]) for row in rows]


def main() -> None:
    """Run the recipe and watch it."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    config = DEFAULTS | {key: words.pop(key) for key in DEFAULTS if key in words}
    out = Path(config["out"])
    out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(ROOT / "recipes/sac_recall.py"), f"env.name={config['env']}",
        f"recall={config['recall']}", f"collector.total_frames={config['frames']}",
        f"run_dir={out / 'run'}", "compile=true", "logger.backend=none",
        *(f"{key}={value}" for key, value in words.items()),
    ]  # fmt: skip
    samples = []
    with (out / "log.txt").open("w") as log:
        environment = {**os.environ, "TORCH_LOGS": "recompiles"}
        process = subprocess.Popen(command, stderr=log, env=environment)
        start = time.perf_counter()
        while process.poll() is None:
            recompilations = (out / "log.txt").read_text().count("Recompiling function")
            seconds = time.perf_counter() - start
            samples.append((seconds, resident_megabytes(process.pid), recompilations))
            time.sleep(2)
    if process.returncode:
        sys.exit(f"the run ended with status {process.returncode}; see {out / 'log.txt'}")

    known_frames, known_seconds = frames_and_seconds(out / "run" / "metrics.csv")
    lag = samples[-1][0] - known_seconds[-1]  # imports come before the run's own clock
    seconds, megabytes, recompilations = np.array(samples).T
    frames = np.interp(seconds - lag, [0.0, *known_seconds], [0.0, *known_frames])
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "frames", "megabytes", "recompilations"])
        columns = seconds.round(1), frames.round(), megabytes.round(1), recompilations
        writer.writerows(zip(*columns, strict=True))

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    (look,) = looks([config["recall"]], "sac").values()
    axes.plot(frames, megabytes, color=look.color)
    axes.set(ylim=(0, None), title=f"{config['env']}, {method_name(config['recall'], 'sac')}")
    finish(axes, "environment steps", "resident memory, MB")
    save_figure(figure, out / "figure.png")

    later = frames >= 0.2 * frames[-1]
    slope = np.polyfit(frames[later], megabytes[later], 1)[0] * 10_000
    print(
        f"{megabytes[later][0]:.0f} MB at {frames[later][0]:,.0f} steps, {megabytes[-1]:.0f} MB at "
        f"the end, {slope:+.1f} MB per 10,000 steps; {recompilations[later][0]:.0f} recompilations "
        f"before, {recompilations[-1] - recompilations[later][0]:.0f} after"
    )


if __name__ == "__main__":
    main()
