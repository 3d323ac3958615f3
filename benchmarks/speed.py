"""Speed on one core and one thread, as paired ratios against named baselines in the same run.

    python benchmarks/speed.py                                   # all parts, some 25 minutes
    python benchmarks/speed.py parts=[loop] rounds=10 out=runs/speed
    python benchmarks/speed.py parts=[loop] device=cuda

``loop`` times whole SAC steps on HalfCheetah-v5: ours, the bare loop, and the peers (extra
``peers``; those not installed are left out). ``hosts`` does so for TD3 and CrossQ, ``on_policy``
for TRPO and PPO, 2,048 steps an update. ``critic`` times traces for the critic at the sizes of
``figures/critic.py``, beside more updates without them. ``trust`` times agreement, measured
lengths, ensembles and joint models beside plain imitated traces. ``update``, ``model``,
``imitation`` and ``traces`` time the parts against their bare limits, ``four_rooms`` the
environment of that name against itself one step at a time, ``goals`` the goal environments and the
Goal GAN's share of an iteration.
``compilation`` times whole runs up to their 2,000th step: eager, compiled, and compiled again.
``collectors`` times a frame by each backend of the collectors, on all cores, with 1, 4 and 16
environments, and ``slow_tasks`` with four whose steps take longer. ``growth`` gives costs against
sizes.
Contestants of a part take turns within each round, so that a ratio compares neighbours in time; a
table of medians and quartiles is printed, and every measurement goes to ``results.csv``.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and hasattr(os, "sched_setaffinity"):  # and not in a worker
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["OMP_NUM_THREADS"] = "1"
# JAX needs this to keep to one thread.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "figures"))

import torch
from omegaconf import OmegaConf
from speed_parts.collectors import collectors, slow_tasks
from speed_parts.compilation import compilation
from speed_parts.components import four_rooms, growth, imitation, model, traces, update
from speed_parts.critic import critic
from speed_parts.goals import goals
from speed_parts.loops import hosts, loop, on_policy
from speed_parts.measure import Rows
from speed_parts.trust import trust

from torchrl_recall.trainers.runs.process import quiet, resolve_device

PARTS: dict[str, Callable[..., Rows]] = {
    "loop": loop,
    "hosts": hosts,
    "critic": critic,
    "trust": trust,
    "on_policy": on_policy,
    "update": update,
    "model": model,
    "imitation": imitation,
    "traces": traces,
    "four_rooms": four_rooms,
    "goals": goals,
    "compilation": compilation,
    "collectors": collectors,
    "slow_tasks": slow_tasks,
    "growth": growth,
}
DEFAULTS = {
    "parts": list(PARTS),
    "rounds": 10,
    "steps": 200,  # environment steps of each contestant in a round of `loop`
    "device": "cpu",  # of the networks in `loop`: cpu | cuda
    "out": "runs/speed",
}


def main() -> None:
    """Measure the parts that the command line names."""
    config = OmegaConf.merge(OmegaConf.create(DEFAULTS), OmegaConf.from_cli())
    if unknown := set(config) - set(DEFAULTS):
        sys.exit(f"unknown keys {sorted(unknown)}; there are {sorted(DEFAULTS)}")
    if unknown := set(config.parts) - set(PARTS):
        sys.exit(f"unknown parts {sorted(unknown)}; there are {list(PARTS)}")
    if config.steps % 100:
        sys.exit(f"steps={config.steps} must be a multiple of 100, what TorchRL's example collects")
    if config.device != "cpu" and list(config.parts) != ["loop"]:
        sys.exit("only parts=[loop] takes a device")
    quiet()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    for part in config.parts:
        arguments: dict[str, Any] = (
            {"steps": config.steps} if part in ("loop", "hosts", "critic", "trust") else {}
        )
        if part == "loop":
            arguments["device"] = resolve_device(config.device)
        rows += PARTS[part](config.rounds, **arguments)
        with (out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["part", "name", "round", "ms"])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
