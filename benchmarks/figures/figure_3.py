"""Figures 3 and 10bc: where trained policies go.

    python benchmarks/figures/figure_3.py seeds=20 first_seed=0 out=runs/figure_3 \
        sizes=[11,15] start=uniform methods=[per_table_3,prioritized_replay,exact,none]

All methods train for as many steps as recall does in the recipe by default. Then 64 walkers follow
each seed's policy for 10 * size steps, and the cells that they visit are counted.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from runs.evidence import save
from runs.four_rooms import experiment, rows
from torchrl_recall.results.names import method_names, task_name
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.seeds import SeedStreams
from torchrl_recall.trainers.hosts.a2c import A2C
from torchrl_recall.trainers.runs.checkpoints import load_latest
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.four_rooms import make_four_rooms


@torch.no_grad()
def visits(run_dir: Path, walkers: int = 64) -> tuple[Tensor, Tensor]:
    """Count visits of each seed's trained policy, ``[seeds, size, size]``; return the walls too."""
    config = validate(OmegaConf.load(run_dir / "config.yaml"), A2CRecallConfig)
    config.collector.num_envs = walkers
    env = make_four_rooms(config, SeedStreams(config.seeds, stream="visits"))
    a2c = A2C(env, config)
    found = load_latest(run_dir / "checkpoints")
    assert found is not None
    a2c.load_state_dict(found[1]["host"])
    with set_exploration_type(ExplorationType.RANDOM):
        steps = env.rollout(10 * config.env.size, a2c.actor, break_when_any_done=False)
    cells = steps["next", "observation"].flatten(1)
    counts = torch.zeros(len(config.seeds), env.layout.num_cells)
    counts.scatter_add_(1, cells, torch.ones(cells.shape))
    return counts.unflatten(1, (config.env.size, -1)), env.layout.walls


def main() -> None:
    """Run missing jobs, then write results and picture."""
    config, results = experiment(
        {
            "figure": "3",
            "out": "runs/figure_3",
            "sizes": [11, 15],
            "start": "uniform",
            "methods": ["per_table_3", "prioritized_replay", "exact", "none"],
            "frames": 61_440,
            "stop_at_target": False,
        }
    )
    tasks = list(dict.fromkeys(task for task, _ in results))
    shape = len(tasks), len(config.methods)
    names = method_names(config.methods, "a2c")
    figure = Figure(figsize=(3 * shape[1], 3.2 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    more = []
    print("| task | method | distinct cells [95 %] | of |\n|---|---|---|---|")
    for (task, method), runs in results.items():
        counts, walls = visits(runs.run_dir)
        distinct = (counts > 0).flatten(1).sum(1).tolist()
        for seed, number in zip(runs.seeds, distinct, strict=True):
            more.append(("3", task, method, seed, runs.frames[-1], "distinct_cells", number))
        number = interval([float(n) for n in distinct])
        print(f"| {task} | {method} | {number} | {int((~walls).sum())} |")
        axes = panels[tasks.index(task)][list(config.methods).index(method)]
        share = (counts / counts.sum((1, 2), keepdim=True)).mean(0)
        axes.imshow(share.masked_fill(walls, torch.nan).sqrt(), cmap="viridis")
        axes.set(
            title=f"{task_name(task)}\n{names[method]}\n{number.value:.0f} cells",
            xticks=[],
            yticks=[],
        )
    out = Path(config.out)
    write_rows(out / "results.csv", [*rows(config.figure, results), *more])
    save(figure, out / "figure.png", f"Square root of visits, mean of {config.seeds} seeds.")


if __name__ == "__main__":
    main()
