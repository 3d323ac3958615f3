"""Mazes of Gymnasium-Robotics, batched, with goals that an algorithm sets (Sec. 6.3)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Unbounded

from torchrl_recall.envs.goal_env import GoalEnv

__all__ = ["GoalMazeEnv"]


class GoalMazeEnv(GoalEnv):
    r"""Gymnasium-Robotics' ``PointMaze_*`` or ``AntMaze_*`` as a batched TorchRL environment.

    - *Observation*: ``observation`` has all positions and velocities, in metres, radians and
      seconds. The position of the body in the plane of the maze comes first. These are 4 numbers
      for the point and 29 for the ant. ``desired_goal`` is the position to reach, shape ``[2]``.
    - *Action*: ``action`` in [-1, 1], the forces of the task's motors.
    - *Reward*: 1 within ``goal_radius`` of the goal, else 0.
    - *End*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    Episodes begin at rest in the middle of ``start_cell``. Goals are uniform over the free cells
    until ``set_goals`` or ``assign_goals`` is called. MuJoCo's batched ``rollout`` steps all
    environments of the batch in one call.

    The contact forces that ``AntMaze`` observes are left out, so that a simulation can continue
    from an observation. The random shifts of starts and goals within their cells are left out too.
    The mazes of the paper (Sec. 6.3 of Goyal et al., *Recall Traces*, ICLR 2019) are those of Held
    et al. (2018) on rllab. They have other sizes, another ant, and longer episodes.

    Args:
        name: a Gymnasium id such as ``"PointMaze_UMaze-v3"`` or ``"AntMaze_UMaze-v5"``.

    Keyword Args:
        start_cell: row and column of the cell where episodes begin. By default it is the last free
            cell of the first column with a free cell. In the U-maze this is the end of an arm.
        goal_radius: Euclidean distance at which a goal counts as reached, in metres.
        max_steps: largest number of steps of an episode; that of the task by default.
        batch_size: number of environments, as a shape of one dimension.

    Raises:
        ImportError: Gymnasium-Robotics is not installed.
        ValueError: there is no such maze, the start cell is a wall, or a first state, goal or
            action is not valid.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import GoalMazeEnv
        >>> env = GoalMazeEnv("PointMaze_UMaze-v3", batch_size=[4])
        >>> env.set_goals(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        >>> env.rollout(20, break_when_any_done=False)["observation"].shape
        torch.Size([4, 20, 4])
    """

    def __init__(
        self,
        name: str = "PointMaze_UMaze-v3",
        *,
        start_cell: tuple[int, int] | None = None,
        goal_radius: float = 0.45,
        max_steps: int | None = None,
        batch_size: Sequence[int] = (1,),
    ) -> None:
        if len(torch.Size(batch_size)) != 1:
            raise ValueError(f"batch_size must have one dimension, as in [4], got {batch_size}.")
        task, limit = _make(name)
        self._maze = task.maze
        inner = getattr(task, "point_env", None) or task.ant_env
        self._is_point = hasattr(task, "point_env")
        self._clearance = 0.1 if self._is_point else 1.0  # metres from the centre to the feet
        self._model, self._data, self._skip = inner.model, inner.data, inner.frame_skip
        mujoco.mj_resetData(self._model, self._data)
        self._rest = np.concatenate([inner.init_qpos, inner.init_qvel])
        self._walls = torch.tensor([[cell == 1 for cell in row] for row in task.maze.maze_map])
        start_cell = self._first_free() if start_cell is None else start_cell
        rows, columns = self._walls.shape
        inside = 0 <= start_cell[0] < rows and 0 <= start_cell[1] < columns
        if not inside or self._walls[start_cell]:
            raise ValueError(f"start_cell={start_cell} is not a free cell of {name}.")
        self.start = torch.from_numpy(np.array(task.maze.cell_rowcol_to_xy(np.array(start_cell))))
        scale = task.maze.maze_size_scaling
        half = torch.tensor([columns - 2, rows - 2]) * scale / 2
        action_dim = self._model.nu
        super().__init__(
            Unbounded((len(self._rest),)),
            Bounded(-1, 1, (action_dim,)),
            Bounded(-half, half, (2,)),
            goal_radius=goal_radius,
            max_steps=limit if max_steps is None else max_steps,
            hidden={"physics": Unbounded((len(self._rest),), dtype=torch.float64)},
            batch_size=batch_size,
        )

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True where the body, in its pose at rest, is outside walls; False for NaN.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
        """
        scale, (rows, columns) = self._maze.maze_size_scaling, self._walls.shape
        corners = self._clearance * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
        x, y = (states[..., None, :2] + corners).nan_to_num(1e9).unbind(-1)
        column = ((x + columns * scale / 2) / scale).floor().long()
        row = ((rows * scale / 2 - y) / scale).floor().long()
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        wall = self._walls[row.clamp(0, rows - 1), column.clamp(0, columns - 1)]
        return (inside & ~wall).all(-1) & states.isfinite().all(-1)

    def goal_of_state(self, states: Tensor) -> Tensor:
        """Return the body's position in the plane, shape ``[*batch, 2]``.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
        """
        return states[..., :2]

    def state_of_goal(self, goals: Tensor) -> Tensor:
        """Return a state of rest at the goal, with random joint angles of the ant.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``, environment units.
        """
        states = torch.from_numpy(self._rest).float().expand(*goals.shape[:-1], -1).clone()
        if not self._is_point:  # gymnasium's Ant: uniform within 0.1 of its pose
            shape = (*goals.shape[:-1], self._model.nq - 7)
            noise = 0.2 * torch.rand(shape, generator=self.generator) - 0.1
            states[..., 7 : self._model.nq] += noise
        states[..., :2] = goals
        return states

    def _begin(self, states: Tensor | None) -> dict[str, Tensor]:
        if states is None:
            physics = torch.from_numpy(self._rest).expand(*self.batch_size, -1).clone()
            physics[..., :2] = self.start
        else:
            physics = states.double()
        return {"observation": physics.float(), "physics": physics}

    def _advance(self, tensordict: TensorDictBase, action: Tensor) -> dict[str, Tensor]:
        physics = tensordict.get("physics").numpy()
        nq = self._model.nq
        if self._is_point:  # as PointEnv does before each step
            physics = np.concatenate([physics[:, :nq], physics[:, nq:].clip(-5, 5)], 1)
        state = np.concatenate([np.zeros((len(physics), 1)), physics], 1)  # time first
        control = action.double().numpy()[:, None].repeat(self._skip, 1)
        states, _ = mujoco.rollout.rollout(self._model, self._data, state, control)
        physics = torch.from_numpy(states[:, -1, 1:].copy())
        return {"observation": physics.float(), "physics": physics}

    def _first_free(self) -> tuple[int, int]:
        column = int((~self._walls).any(0).nonzero()[0])
        return int((~self._walls[:, column]).nonzero()[-1]), column


def _make(name: str) -> tuple:
    try:
        import gymnasium_robotics
    except ImportError as error:
        raise ImportError(
            "mazes need Gymnasium-Robotics: pip install 'torchrl-recall[mazes]'."
        ) from error
    gymnasium.register_envs(gymnasium_robotics)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions and deprecations of MuJoCo
            env = gymnasium.make(name, disable_env_checker=True)
    except gymnasium.error.Error as error:
        raise ValueError(f"there is no maze {name!r}: {error}") from error
    assert env.spec is not None
    if not hasattr(env.unwrapped, "maze"):
        raise ValueError(f"{name} is no maze; give a PointMaze_* or AntMaze_* task.")
    return env.unwrapped, env.spec.max_episode_steps
