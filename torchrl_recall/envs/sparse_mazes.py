"""Sparse mazes of MuJoCo in Gymnasium's interface: Gymnasium-Robotics' point with one goal."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

try:
    from gymnasium_robotics.envs.maze.maps import MEDIUM_MAZE, U_MAZE
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
except ImportError as error:
    raise ImportError(
        "mazes need Gymnasium-Robotics: pip install 'torchrl-recall[mazes]'."
    ) from error

__all__ = ["SparseMaze"]

_MAZES = {"mujoco_umaze": U_MAZE, "mujoco_medium_maze": MEDIUM_MAZE}


class SparseMaze(gymnasium.Wrapper):
    """Maze of Gymnasium-Robotics with one goal, in which a point observes place and velocity.

    The goal is the middle of the first free cell, row by row. Episodes begin at rest in any other
    free cell, shifted at random as in ``PointMaze_UMaze-v3``. They end within 0.45 m of the goal
    with a reward of 1; all other rewards are 0.

    - ``mujoco_umaze``: the U-maze, 300 steps.
    - ``mujoco_medium_maze``: the medium maze, 600 steps.

    Args:
        name: name of the maze, see above.
        render_mode: how the task is drawn.

    Examples:
        >>> import gymnasium, torchrl_recall.envs
        >>> task = gymnasium.make("mujoco_umaze")
        >>> observation, _ = task.reset(seed=0)
        >>> _, reward, terminated, truncated, _ = task.step(task.action_space.sample())
        >>> observation.shape, reward, terminated
        ((4,), 0.0, False)
    """

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        cells = [["r" if cell == 0 else cell for cell in row] for row in _MAZES[name]]
        row = next(row for row in cells if "r" in row)
        row[row.index("r")] = "g"
        self._maze = PointMazeEnv(cells, render_mode, continuing_task=False)
        super().__init__(self._maze)
        self.observation_space = self._maze.observation_space["observation"]
        self._goal = self._maze.maze.unique_goal_locations[0].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Begin an episode in a random cell; see :meth:`gymnasium.Env.reset`.

        Keyword Args:
            seed: seed of the environment's random numbers; None continues them.
            options: ``reset_cell`` of Gymnasium-Robotics, row and column of the start.

        Returns:
            The first observation, and information.
        """
        observed, info = self._maze.reset(seed=seed, options=options)
        self._maze.goal = self._goal  # not shifted
        self._maze.update_target_site_pos()
        return observed["observation"], info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take a step; see :meth:`gymnasium.Env.step`.

        Args:
            action: forces within ``action_space``.

        Returns:
            Observation, reward, terminated, truncated, and information.
        """
        observed, reward, terminated, truncated, info = self._maze.step(action)
        return observed["observation"], float(reward), terminated, truncated, info
