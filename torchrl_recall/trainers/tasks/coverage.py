"""Coverage, the share of goals that a policy reaches (Fig. 5 and 11)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.envs import GoalEnv
from torchrl_recall.trainers.runs.atomic import write_text
from torchrl_recall.trainers.runs.log import installed
from torchrl_recall.trainers.runs.parts import Evaluation
from torchrl_recall.trainers.schema import ConfigError, GoalGANRecallConfig
from torchrl_recall.trainers.tasks.devices import PolicyFor

__all__ = ["Coverage", "coverage_goals"]


class Coverage(Evaluation):
    """Mean success of the deterministic policy over fixed goals, from the usual start.

    Args:
        env: a batch of environments, one for each goal.
        actor: the policy.
        goals: goals of shape ``[num_goals, goal_dim]``, environment units.
        config: configuration with ``eval``.
    """

    def __init__(
        self,
        env: GoalEnv,
        actor: TensorDictModuleBase,
        goals: Tensor,
        config: GoalGANRecallConfig,
    ) -> None:
        super().__init__()
        self.env, self.goals = env, goals
        self.policy = PolicyFor(env, actor)
        self.target, self.stop_at_target = config.eval.target, config.eval.stop_at_target
        env.assign_goals(goals)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return booleans of shape ``[num_goals]``, True for goals that are reached."""
        state = self.env.reset()
        reached = torch.zeros(len(self.goals), dtype=torch.bool)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            for _ in range(self.env.max_steps):
                following = self.env.step(self.policy(state))["next"]
                reached |= following["terminated"].squeeze(-1)
                state = following.select(*state.keys(), strict=False)
        return reached

    def __call__(self, frames: int) -> Tensor:
        """Evaluate after a number of frames; return the coverage, shape ``[1]``."""
        return super().__call__(frames).float().mean(0, keepdim=True)

    @property
    def values(self) -> list[float]:
        """Coverage at each evaluation."""
        return [float(reached.float().mean()) for reached in self.results]

    def frames_to_target(self) -> int | None:
        """Number of frames at the first evaluation that reached the target."""
        return next(
            (n for n, value in zip(self.frames, self.values, strict=True) if value >= self.target),
            None,
        )

    @property
    def reached_target(self) -> bool:
        """Return whether the target was reached and ends the run."""
        return self.stop_at_target and self.frames_to_target() is not None

    def finish(self, run_dir: Path) -> dict[str, int | None]:
        """Write ``coverage.csv`` and maps; return frames to the target.

        The file has a row for each evaluation and a column for each goal.
        """
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        names = (" ".join(f"{x:.3f}" for x in goal) for goal in self.goals.tolist())
        writer.writerow(["frames", "coverage", *names])
        for frames, value, reached in zip(self.frames, self.values, self.results, strict=True):
            writer.writerow([frames, round(value, 4), *reached.int().tolist()])
        write_text(run_dir / "coverage.csv", table.getvalue())
        if installed("matplotlib"):
            from torchrl_recall.trainers.tasks.coverage_maps import draw_maps

            draw_maps(self.goals, self.frames, self.results, run_dir)
        return {"frames_to_target": self.frames_to_target()}


def coverage_goals(env: GoalEnv, num_goals: int) -> Tensor:
    """Choose goals for evaluation: a grid in two dimensions, a fixed uniform draw in more.

    Args:
        env: environment of the goals.
        num_goals: number of goals.

    Returns:
        Goals of shape ``[num_goals, goal_dim]``, environment units.

    Raises:
        ConfigError: no goal of the grid is outside walls.
    """
    low, high = env.goal_spec.space.low, env.goal_spec.space.high
    if (dim := len(low)) > 2:
        return env.sample_goals(num_goals, generator=torch.Generator().manual_seed(0))
    side = round(num_goals ** (1 / dim))
    share = (torch.arange(side) + 0.5) / side  # centres of equal cells
    grid = torch.stack(torch.meshgrid(*[share] * dim, indexing="ij"), -1).reshape(-1, dim)
    grid = low + (high - low) * grid
    grid = grid[env.is_valid(env.state_of_goal(grid))]
    if not len(grid):
        raise ConfigError(
            f"eval.num_goals={num_goals} makes a grid whose goals are all inside walls; take more, "
            "such as eval.num_goals=100."
        )
    return grid
