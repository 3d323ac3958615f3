"""The four-room grid world for Gymnasium."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from torchrl_recall.envs.four_rooms.drawing import draw
from torchrl_recall.envs.four_rooms.env import _steps
from torchrl_recall.envs.four_rooms.layout import Cell, FourRoomsLayout, Start

__all__ = ["FourRoomsGymEnv"]


class FourRoomsGymEnv(gymnasium.Env):
    """The same task for Gymnasium, registered as ``torchrl_recall/FourRooms-v0``.

    See :class:`FourRoomsEnv` for what is seen, done and rewarded, and for the arguments.

    Args:
        size: cells along each side, walls included.
        start: where episodes begin.
        goal: its cell.
        slip: probability of a random direction.
        max_steps: steps of an episode at most; ``10 * size`` by default.
        render_mode: ``"rgb_array"`` or None.

    Examples:
        >>> import gymnasium
        >>> import torchrl_recall.envs
        >>> env = gymnasium.make("torchrl_recall/FourRooms-v0", size=11)
        >>> observation, info = env.reset(seed=0)
        >>> env.observation_space
        Discrete(121)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        size: int = 11,
        start: Start = "opposite",
        goal: Cell | None = None,
        slip: float = 0.0,
        max_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.layout = FourRoomsLayout(size, start=start, goal=goal, slip=slip)
        self.max_steps = _steps(size, max_steps)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Discrete(self.layout.num_cells)
        self.action_space = gymnasium.spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.int64, dict]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.cell = np.int64(self.np_random.choice(self.layout.starts.numpy()))
        self.count = 0
        return self.cell, {}

    def step(self, action: int) -> tuple[np.int64, float, bool, bool, dict]:
        """Take a step."""
        if not self.action_space.contains(action):
            raise ValueError(
                f"an action must be 0 (up), 1 (right), 2 (down) or 3 (left), got {action!r}."
            )
        if self.np_random.random() < self.layout.slip:
            action = int(self.np_random.integers(4))
        self.cell = np.int64(self.layout.next_cell[int(self.cell), int(action)])
        self.count += 1
        terminated = bool(self.cell == self.layout.goal)
        truncated = self.count >= self.max_steps and not terminated
        return self.cell, float(terminated), terminated, truncated, {}

    def render(self) -> np.ndarray | None:
        """Draw the grid if ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        return draw(self.layout, agents=torch.tensor([int(self.cell)]))
