"""Four-room grid world for Gymnasium."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from torchrl_recall.envs.four_rooms.drawing import draw
from torchrl_recall.envs.four_rooms.layout import Cell, FourRoomsLayout, Start, step_limit

__all__ = ["FourRoomsGymEnv"]


class FourRoomsGymEnv(gymnasium.Env):
    """Four-room grid world as a Gymnasium environment, ``torchrl_recall/FourRooms-v0``.

    - *Observation*: the number of the agent's cell, below ``size**2``.
    - *Action*: a direction: 0 up, 1 right, 2 down, 3 left. A move into a wall leaves the agent in
      its cell. With probability ``slip`` the direction is drawn at random instead.
    - *Reward*: 1 on entering the goal, else 0.
    - *End*: terminated at the goal, truncated after ``max_steps`` steps.

    The task is that of :class:`FourRoomsEnv`, without a batch dimension. See
    :class:`FourRoomsLayout` for ``size``, ``start``, ``goal`` and ``slip``.

    Args:
        size: cells along each side, walls included.
        start: cells in which episodes begin.
        goal: cell of the goal (row, column).
        slip: probability of a random direction.
        max_steps: largest number of steps of an episode; ``10 * size`` by default.
        render_mode: ``"rgb_array"`` or None.

    Raises:
        ValueError: the layout is impossible, ``max_steps`` is below one, or an action is out of
            range.

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
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}.")
        self.layout = FourRoomsLayout(size, start=start, goal=goal, slip=slip)
        self.max_steps = step_limit(size, max_steps)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Discrete(self.layout.num_cells)
        self.action_space = gymnasium.spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.int64, dict]:
        """Begin an episode; see :meth:`gymnasium.Env.reset`.

        Keyword Args:
            seed: seed of the environment's random numbers; None continues them.
            options: ignored.

        Returns:
            The first observation, and an empty dictionary.
        """
        super().reset(seed=seed)
        self.cell = np.int64(self.np_random.choice(self.layout.starts.numpy()))
        self.count = 0
        return self.cell, {}

    def step(self, action: int) -> tuple[np.int64, float, bool, bool, dict]:
        """Take a step; see :meth:`gymnasium.Env.step`.

        Args:
            action: direction, 0 to 3.

        Returns:
            Observation, reward, terminated, truncated, and an empty dictionary.

        Raises:
            ValueError: the action is out of range.
        """
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
        """Draw the grid.

        Returns:
            An image, uint8; None unless ``render_mode`` is ``"rgb_array"``.
        """
        if self.render_mode is None:
            return None
        return draw(self.layout, agents=torch.tensor([int(self.cell)]))
