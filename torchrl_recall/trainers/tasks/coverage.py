"""Coverage: which goals a policy reaches (Fig. 5 and 11)."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.envs import GoalEnv
from torchrl_recall.trainers.runs.log import installed

__all__ = ["Coverage", "coverage_goals"]


class Coverage:
    """Mean success of the deterministic policy over fixed goals, from the usual start.

    Args:
        env: as many environments as goals.
        actor: the policy.
        goals: shape ``[num_goals, goal_dim]``.

    Keyword Args:
        target: coverage at which a run counts as there.
    """

    def __init__(
        self, env: GoalEnv, actor: TensorDictModuleBase, goals: Tensor, *, target: float
    ) -> None:
        self.env, self.actor, self.goals, self.target = env, actor, goals, target
        self.frames: list[int] = []
        self.successes: list[Tensor] = []  # booleans of shape [num_goals]
        env.assign_goals(goals)

    @torch.no_grad()
    def __call__(self, frames: int) -> float:
        """Evaluate; no random number is drawn."""
        state = self.env.reset()
        reached = torch.zeros(len(self.goals), dtype=torch.bool)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            for _ in range(self.env.max_steps):
                following = self.env.step(self.actor(state))["next"]
                reached |= following["terminated"].squeeze(-1)
                state = following.select(*state.keys(), strict=False)
        self.frames.append(frames)
        self.successes.append(reached)
        return float(reached.float().mean())

    @property
    def values(self) -> list[float]:
        """Coverage at each evaluation."""
        return [float(reached.float().mean()) for reached in self.successes]

    def frames_to_target(self) -> int | None:
        """Frames at the first evaluation that reached the target."""
        return next(
            (n for n, value in zip(self.frames, self.values, strict=True) if value >= self.target),
            None,
        )

    def write(self, run_dir: Path) -> None:
        """Write ``coverage.csv``, a row for each evaluation, a column for each goal; and maps."""
        with (run_dir / "coverage.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            names = (" ".join(f"{x:.3f}" for x in goal) for goal in self.goals.tolist())
            writer.writerow(["frames", "coverage", *names])
            for frames, value, reached in zip(
                self.frames, self.values, self.successes, strict=True
            ):
                writer.writerow([frames, round(value, 4), *reached.int().tolist()])
        if installed("matplotlib"):
            from torchrl_recall.trainers.tasks.coverage_maps import draw_maps

            draw_maps(self.goals, self.frames, self.successes, run_dir)

    def state_dict(self) -> dict:
        """All evaluations."""
        return {"frames": list(self.frames), "successes": list(self.successes)}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.frames, self.successes = list(state["frames"]), list(state["successes"])


def coverage_goals(env: GoalEnv, num_goals: int) -> Tensor:
    """Goals to evaluate on: a grid of valid ones in two dimensions, else a fixed uniform draw."""
    low, high = env.goal_spec.space.low, env.goal_spec.space.high
    if (dim := len(low)) > 2:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return env.sample_goals(num_goals)
    side = round(num_goals ** (1 / dim))
    share = (torch.arange(side) + 0.5) / side  # centres of as many equal cells
    grid = torch.stack(torch.meshgrid(*[share] * dim, indexing="ij"), -1).reshape(-1, dim)
    grid = low + (high - low) * grid
    return grid[env.is_valid(env.state_of_goal(grid))]
