"""Measure the gain by a few demonstrations, with and without traces to their states.

    python benchmarks/figures/demonstrations.py seeds=5 first_seed=0 out=runs/demonstrations

It trains an agent of another seed, records 1, 5 and 20 of its successes, and gives them to SAC in a
small sparse task. SAC clones them, imitates them with its own successes, or trains its critic on
traces to their states. Tables and pictures are those of ``critic.py``.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runs.critic_runs import DEFAULTS, HOST, ROOT, experiment
from runs.launchers import run_command

NUMBERS = (1, 5, 20)
EXPERT = 1_000  # seed of the expert


def data(out: str, number: int) -> str:
    """Name the folder of some demonstrations."""
    return f"{out}/data/{number}"


def methods(out: str) -> list[str]:
    """List all methods, with the demonstrations that they use."""
    with_traces = "backtracking+sac.n_step=3+recall.end_states=reward"
    given = ["cloning+sac.n_step=3", "self_imitation+sac.n_step=3", with_traces]
    return [
        "none+sac.n_step=3",
        with_traces,
        *(
            f"{method}+recall.demonstrations={data(out, number)}"
            for method in given
            for number in NUMBERS
        ),
    ]


def prepare(config: DictConfig) -> None:
    """Train the expert, and record missing data sets."""
    from torchrl_recall.trained.record import record_run

    (task,) = config.tasks
    expert = Path(config.out) / "expert"
    if not (expert / "summary.json").exists():
        words = [f"env.name={task}", "recall=none", "sac.n_step=3", *HOST, f"seed={EXPERT}"]
        words += ["collector.total_frames=4000", "eval.interval=1000", "compile=true"]
        words += ["logger.backend=none", "resume=auto", f"run_dir={expert}"]
        done = run_command([str(ROOT / "recipes/sac_recall.py"), *words])
        if done.returncode:
            raise SystemExit(done.stderr)
    for number in NUMBERS:
        if not (folder := Path(data(config.out, number))).exists():
            record_run(expert, folder, episodes=number, min_return=1.0, seed=EXPERT + number)


if __name__ == "__main__":
    given = OmegaConf.from_cli()  # methods name the folder of their data, which is in out=
    out = str(given.get("out", "runs/demonstrations"))
    experiment(
        {
            **DEFAULTS,
            "figure": "demonstrations",
            "out": out,
            "tasks": ["point_free4"],
            "methods": methods(out),
            "seeds": 5,
        },
        prepare,
    )
