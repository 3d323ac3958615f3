"""Draw the computed pictures of the concepts page: ``python docs/drawings/pictures.py``.

``maze_filters.png`` has traces of a model that has learned a U-maze, before and after each filter.
``oracle.png`` has what the oracle computes on the smallest grid of four rooms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall import (
    Agreement,
    BacktrackingLoss,
    BacktrackingModel,
    LoopErasure,
    NearVisited,
    RecallTraceGenerator,
    WithinSupport,
    make_update,
    reverse_time,
)
from torchrl_recall.envs import FourRoomsLayout, Oracle, PointMassEnv

FOLDER = Path(__file__).parent
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8f98"


def maze_experience(num_envs: int = 150, steps: int = 100) -> tuple[PointMassEnv, TensorDictBase]:
    """Walk through the U-maze by actions that change rarely."""
    env = PointMassEnv(2, maze="u", batch_size=[num_envs])
    env.set_goals(torch.tensor([[-2 / 3, 2 / 3]]))

    def walk(tensordict: TensorDictBase) -> TensorDictBase:
        turns = (torch.rand(num_envs, 1) < 0.1) | (tensordict["elapsed_steps"] == 0).unsqueeze(-1)
        walk.action = torch.where(turns, 2 * torch.rand(num_envs, 2) - 1, walk.action)
        return tensordict.set("action", walk.action)

    walk.action = torch.zeros(num_envs, 2)
    return env, env.rollout(steps, walk, break_when_any_done=False).reshape(-1)


def trained(env: PointMassEnv, data: TensorDictBase, steps: int = 1_500) -> BacktrackingModel:
    """Train a model on transitions by Eq. 2."""
    model = BacktrackingModel.from_specs(
        env.observation_spec_unbatched, env.action_spec_unbatched, action_scale="learned"
    )
    model.update_statistics(data)
    loss = BacktrackingLoss(model)
    update = make_update(loss, torch.optim.Adam(loss.parameters(), 1e-3))
    for _ in range(steps):
        update(data[torch.randint(len(data), (256,))])
    return model


def maze_filters() -> Figure:
    """Draw traces of the U-maze, and what each filter keeps of them."""
    torch.manual_seed(0)
    env, data = maze_experience()
    data = data.select("observation", "action", ("next", "observation"))
    model, forward = trained(env, data), trained(env, reverse_time(data.unsqueeze(0))[0])
    ends = torch.tensor([[-0.6, 0.6], [0.0, 0.55], [0.8, 0.0], [0.3, -0.6]])
    generate = RecallTraceGenerator(model, trace_length=25, num_traces=6)
    traces = generate(TensorDict({"observation": ends}, [4]))
    agreement = Agreement(forward, quantile=0.95)
    for part in data.split(500):
        agreement.observe(part)
    visited = data["observation"][torch.randperm(len(data))[:4_000]]
    normalize = model.observations.normalize
    panels: dict[str, Any] = {
        "as generated": None,
        "WithinSupport(max_deviation=2)": WithinSupport(normalize, 2.0),
        "NearVisited(radius=0.06)": NearVisited(lambda: visited, radius=0.06),
        "LoopErasure(radius=0.075)": LoopErasure(0.075),
        "Agreement(quantile=0.95)": agreement,
    }
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    *places, last = figure.subplots(2, 3).flatten()
    last.set_axis_off()
    for axes, (name, keep) in zip(places, panels.items(), strict=True):
        mask = torch.ones(traces.shape, dtype=torch.bool)
        if keep is not None:
            mask = keep(traces.clone())["mask"]
        draw_maze(axes)
        draw_traces(axes, traces, mask)
        axes.set_title(f"{name}\n{mask.float().mean():.0%} kept", fontsize=9)
    return figure


def draw_maze(axes: Axes) -> None:
    """Draw the box and the wall."""
    axes.add_patch(Rectangle((-1, -1 / 3), 4 / 3, 2 / 3, color="#c9ced6"))
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=[], yticks=[])
    axes.set_axis_off()
    axes.add_patch(Rectangle((-1, -1), 2, 2, fill=False, edgecolor=GREY))


def draw_traces(axes: Axes, traces: TensorDictBase, mask: Tensor) -> None:
    """Draw each step, those that are kept in blue."""
    for start, end, kept in zip(
        traces["observation"].flatten(0, 1),
        traces["next", "observation"].flatten(0, 1),
        mask.flatten().tolist(),
        strict=True,
    ):
        path = torch.stack([start, end]).numpy()
        color, width, order = (BLUE, 1.1, 3) if kept else ("#e3b59b", 0.6, 2)
        axes.plot(*path.T, color=color, linewidth=width, zorder=order)
    axes.plot(*traces["next", "observation"][:, -1].numpy().T, "o", color=ORANGE, zorder=4)


def oracle() -> Figure:
    """Draw what the oracle computes of a random walk on a grid of 5 x 5."""
    layout = FourRoomsLayout(5, start=(1, 1))
    found = Oracle(layout, max_steps=30, gamma=0.9)
    policy = torch.full((layout.num_cells, 4), 0.25, dtype=torch.float64)
    posterior = found.posterior(policy, threshold=0.5)
    visits = torch.zeros(layout.num_cells, dtype=torch.float64)
    visits.index_add_(0, found.source, posterior.counts)
    backward = found.posterior_policy(posterior)

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    value, after, where, lengths = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.25])
    draw_cells(value, layout, found.value(policy), "{:.2f}")
    value.set_title("value of a random walk", fontsize=9)
    draw_cells(after, layout, visits, "{:.1f}")
    after.set_title("expected visits of a cell\nin walks of return above 0.5", fontsize=9)
    draw_cells(where, layout, backward.sum(-1) * 0, "")
    where.set_title("best backward policy:\nwhere such walks came from", fontsize=9)
    draw_origins(where, layout, found, posterior.counts)
    lengths.bar(np.arange(len(posterior.lengths)), posterior.lengths.numpy(), color=BLUE)
    lengths.set(xlabel="steps to the goal", xticks=range(0, len(posterior.lengths), 2))
    lengths.set_title("their length", fontsize=9)
    return figure


def draw_cells(axes: Axes, layout: FourRoomsLayout, numbers: Tensor, form: str) -> None:
    """Draw a number in each cell, walls grey and the goal framed."""
    size = layout.size
    grid = numbers.view(size, size).clone().numpy()
    walls = layout.walls.view(size, size).numpy()
    colors = LinearSegmentedColormap.from_list("blue", ["#ffffff", "#7fb8dc"])
    axes.imshow(np.where(walls, np.nan, grid), cmap=colors, vmin=0, vmax=max(grid.max(), 1e-9))
    axes.set(xticks=[], yticks=[])
    for row, column in np.ndindex(size, size):
        if walls[row, column]:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#c9ced6"))
        elif form:
            text = form.format(grid[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    row, column = divmod(layout.goal, size)
    axes.add_patch(
        Rectangle(
            (column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=ORANGE, linewidth=2
        )
    )


def draw_origins(axes: Axes, layout: FourRoomsLayout, found: Oracle, counts: Tensor) -> None:
    """Draw an arrow for each transition, wide where it is likely given the cell it leads to."""
    entered = torch.zeros(layout.num_cells, dtype=counts.dtype)
    entered.index_add_(0, found.following, counts)
    for source, following, count in zip(
        found.source.tolist(), found.following.tolist(), counts.tolist(), strict=True
    ):
        share = count / max(float(entered[following]), 1e-12)
        if source != following and share > 0.02:
            (y, x), (row, column) = divmod(source, layout.size), divmod(following, layout.size)
            arrow = {"arrowstyle": "-|>", "linewidth": 0.4 + 2.6 * share, "color": BLUE}
            shift = 0.1 if (x, y) > (column, row) else -0.1  # beside the way back
            ahead = np.array([column - x, row - y])
            offset = shift * ahead[::-1]
            begin, end = np.array([x, y]) + 0.2 * ahead, np.array([column, row]) - 0.2 * ahead
            axes.annotate("", end + offset, begin + offset, arrowprops=arrow)


PICTURES = {"maze_filters": maze_filters, "oracle": oracle}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().savefig(FOLDER / f"{name}.png", dpi=110)
