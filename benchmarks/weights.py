"""Hash the last weights of every recipe, to show whether a change altered any bit.

python benchmarks/weights.py --out before.csv                  # at one commit
python benchmarks/weights.py --out after.csv --before before.csv   # at another

Weights depend on the machine and on the versions, so hashes are compared and never stored. Runs
with environments in several processes are left out, because their weights may differ each time.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SAC = ["sac_recall", "env.name=Hopper-v5", "eval.num_episodes=1", "device=cpu"]
_ON_POLICY = ["env.name=Hopper-v5", "eval.num_episodes=1", "device=cpu"]
_FOUR_ROOMS = ["a2c_recall", "env.size=11", "seeds=[0,1,2]", "collector.total_frames=10240"]
_GOALS = ["goal_gan_recall", "device=cpu", "collector.total_frames=67500", "goal_gan.num_updates=5"]
_SHORT = ["collector.total_frames=1500", "collector.init_random_frames=500"]
_BATCHES = ["collector.total_frames=8192", "collector.frames_per_batch=1024"]

RUNS: dict[str, list[str]] = {
    f"sac {recall} {'compiled' if compiled else 'eager'}": [
        *_SAC,
        *(_SHORT if recall != "paper" else ["collector.total_frames=1200", _SHORT[1]]),
        f"recall={recall}",
        f"compile={compiled}",
    ]
    for recall in (
        "backtracking",
        "imitation",
        "paper",
        "self_imitation",
        "none",
        "random_model",
    )
    for compiled in (False, True)
}
RUNS |= {
    "sac boltzmann": [
        *_SAC,
        *_SHORT,
        "recall=imitation",
        "recall.temperature=1.0",
        "compile=False",
    ],
    "sac radius": [
        *_SAC,
        *_SHORT,
        "recall=imitation",
        "recall.max_kl=0.01",
        "compile=False",
    ],
}
RUNS |= {
    f"{host} {recall} {'compiled' if compiled else 'eager'}": [
        f"{host}_recall",
        *_ON_POLICY,
        *_BATCHES,
        f"recall={recall}",
        f"compile={compiled}",
    ]
    for host in ("trpo", "ppo")
    for recall, compiled in (
        ("backtracking", False),
        ("backtracking", True),
        ("forward_model", False),
        ("forward_model", True),
        ("self_imitation", False),
        ("paper", False),
        ("random_model", False),
        ("none", False),
    )
}
RUNS |= {
    f"a2c {recall}": [*_FOUR_ROOMS, f"recall={recall}"]
    for recall in (
        "exact",
        "backtracking",
        "self_imitation",
        "prioritized_replay",
        "per_table_3",
        "paper",
        "random_model",
        "none",
    )
}
RUNS |= {
    "a2c exact every third, annealed": [
        *_FOUR_ROOMS,
        "recall=exact",
        "recall.interval=3",
        "recall.anneal_frames=8000",
    ],
    "a2c backtracking from values": [
        *_FOUR_ROOMS,
        "recall=backtracking",
        "recall.high_value_states=value",
    ],
    "goals free": [*_GOALS, "env=point_free4", "recall=backtracking"],
    "goals free, Adam": [*_GOALS, "env=point_free4", "recall.max_kl=null"],
    "goals U": [*_GOALS, "env=point_umaze", "recall=backtracking", "recall.support_radius=0.1"],
    "goals self-imitation": [*_GOALS, "env=point_free4", "recall=self_imitation"],
    "goals random model": [*_GOALS, "env=point_free4", "recall=random_model"],
    "goals none": [*_GOALS, "env=point_free2", "recall=none"],
    "goals hindsight": [
        *_GOALS,
        "env=point_free2",
        "recall=none",
        "host=hindsight_sac",
        "sac.num_updates=50",
    ],
}


def weights(arguments: list[str], run_dir: Path) -> str:
    """Run a recipe and return the hash of its last weights, or the last line of its error."""
    recipe, *overrides = arguments
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *overrides]
    command += [f"run_dir={run_dir}", "logger.backend=none"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return json.loads((run_dir / "summary.json").read_text())["weights_sha256"]


def main() -> int:
    """Run the recipes; the exit status is the number of runs whose weights have changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write, a row for each run")
    parser.add_argument("--before", type=Path, help="CSV of another commit to compare with")
    parser.add_argument("--only", default="", help="runs whose name begins with this")
    options = parser.parse_args()
    before: dict[str, str] = {}
    if options.before is not None:
        with options.before.open(newline="") as file:
            before = {row["run"]: row["weights"] for row in csv.DictReader(file)}
    different = 0
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "weights"])
        for name, arguments in RUNS.items():
            if not name.startswith(options.only):
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = weights(arguments, Path(folder) / "run")
            writer.writerow([name, found])
            file.flush()
            verdict = ""
            if name in before:
                verdict = "equal" if found == before[name] else f"was {before[name][:12]}"
                different += found != before[name]
            print(f"{name:<34} {found[: 80 if ' ' in found else 12]:<14} {verdict}", flush=True)
    return different


if __name__ == "__main__":
    sys.exit(main())
