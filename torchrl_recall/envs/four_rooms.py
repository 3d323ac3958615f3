"""The four-room grid world (Sec. 6.1), batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_recall.seeds import SeedStreams

__all__ = ["FourRoomsEnv", "FourRoomsGymEnv", "FourRoomsLayout"]

Cell = tuple[int, int]
Start = Literal["opposite", "uniform"] | Cell
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


class FourRoomsLayout:
    """Walls, doors, starts and dynamics of a four-room grid, as tables.

    A grid of ``size`` × ``size`` cells has an outer wall and a cross of walls, with a door of one
    cell in each of its four arms. Cells are numbered row by row from the top left. The goal is
    terminal: nothing leaves it.

    Args:
        size: cells along each side, walls included; odd and at least 5.

    Keyword Args:
        start: where episodes begin: ``"opposite"``, uniformly in the room diagonally opposite the
            goal's; ``"uniform"``, in any free cell but the goal; or a cell (row, column).
        goal: its cell (row, column); the bottom right corner by default.
        slip: probability in [0, 1) that a step goes in a direction drawn uniformly from all four.
        blocked: further wall cells, such as a door to close.

    Raises:
        ValueError: the doors do not fit, a cell is a wall, or the goal cannot be reached from
            every start.

    Examples:
        >>> from torchrl_recall.envs import FourRoomsLayout
        >>> print(FourRoomsLayout(5))
        #####
        #S..#
        #.#.#
        #..G#
        #####
    """

    def __init__(
        self,
        size: int,
        *,
        start: Start = "opposite",
        goal: Cell | None = None,
        slip: float = 0.0,
        blocked: Sequence[Cell] = (),
    ) -> None:
        if not isinstance(size, int) or size < 5 or size % 2 == 0:
            raise ValueError(
                f"size must be an odd integer of at least 5, so that a cross of walls with four "
                f"doors fits, got {size!r}."
            )
        if not 0 <= slip < 1:
            raise ValueError(f"slip must be in [0, 1), got {slip}.")
        self.size, self.slip, self.start = size, slip, start
        self.num_cells = size * size
        self.walls = _walls(size)
        for cell in blocked:
            self.walls[self._inside(cell, "a blocked cell")] = True
        self.goal = self._free(goal or (size - 2, size - 2), "the goal")
        self.free = (~self.walls).flatten().nonzero().squeeze(-1)
        self.next_cell = self._next_cell()  # [num_cells, 4]
        self.starts = self._starts(start)
        self._check_reachable()

    def index(self, cell: Cell) -> int:
        """The number of a cell (row, column)."""
        return cell[0] * self.size + cell[1]

    def transitions(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All transitions as columns: cell, action, next cell, probability.

        They leave every free cell but the goal; transitions between the same cells by the same
        action are joined.
        """
        cells = self.free[self.free != self.goal]
        source, action, move = (
            axis.flatten() for axis in torch.meshgrid(cells, *[torch.arange(4)] * 2, indexing="ij")
        )
        probability = self.slip / 4 + (1 - self.slip) * (action == move)
        following = self.next_cell[source, move]
        rows, inverse = torch.stack([source, action, following], 1)[probability > 0].unique(
            dim=0, return_inverse=True
        )
        joined = torch.zeros(len(rows), dtype=torch.float64)
        joined.index_add_(0, inverse, probability[probability > 0].double())
        return (*rows.unbind(1), joined)

    def distances(self) -> Tensor:
        """Least number of moves to the goal from each cell, infinite where there is no way."""
        distance = torch.full((self.num_cells,), float("inf"))
        distance[self.goal] = 0
        for _ in range(self.num_cells):
            closer = 1 + distance[self.next_cell].amin(-1)
            closer[self.walls.flatten()] = float("inf")
            shorter = torch.minimum(distance, closer)
            if shorter.equal(distance):
                break
            distance = shorter
        return distance

    def __str__(self) -> str:
        marks = np.where(self.walls.numpy(), "#", ".")
        marks.flat[self.starts.numpy()] = "S"
        marks.flat[self.goal] = "G"
        return "\n".join("".join(row) for row in marks)

    def _inside(self, cell: Cell, name: str) -> Cell:
        if len(cell) != 2 or not all(0 <= x < self.size for x in cell):
            raise ValueError(
                f"{name} is {tuple(cell)}, outside the grid of {self.size} x {self.size}."
            )
        return tuple(cell)  # type: ignore[return-value]

    def _free(self, cell: Cell, name: str) -> int:
        if self.walls[self._inside(cell, name)]:
            raise ValueError(f"{name} is {tuple(cell)}, which is a wall; choose a free cell.")
        return self.index(cell)

    def _next_cell(self) -> Tensor:
        cells = torch.arange(self.num_cells)
        row, column = cells // self.size, cells % self.size
        columns = []
        for down, right in MOVES:
            target_row = (row + down).clamp(0, self.size - 1)
            target = target_row * self.size + (column + right).clamp(0, self.size - 1)
            columns.append(torch.where(self.walls.flatten()[target], cells, target))
        return torch.stack(columns, 1)

    def _starts(self, start: Start) -> Tensor:
        if isinstance(start, str):
            if start == "uniform":
                return self.free[self.free != self.goal]
            if start != "opposite":
                raise ValueError(
                    f"start must be 'opposite', 'uniform' or a cell (row, column), got {start!r}."
                )
            middle = self.size // 2
            row, column = divmod(self.goal, self.size)
            if middle in (row, column):
                raise ValueError(
                    f"start='opposite' needs a goal inside a room, but {(row, column)} is a door; "
                    "use start='uniform' or a cell."
                )
            there = (self.free // self.size < middle) != (row < middle)
            there &= (self.free % self.size < middle) != (column < middle)
            there &= (self.free // self.size != middle) & (self.free % self.size != middle)
            return self.free[there]
        index = self._free(start, "the start")
        if index == self.goal:
            raise ValueError(f"the start is the goal, {tuple(start)}; episodes would have no step.")
        return torch.tensor([index])

    def _check_reachable(self) -> None:
        lost = self.starts[self.distances()[self.starts].isinf()]
        if len(lost) or not len(self.starts):
            where = [divmod(int(cell), self.size) for cell in lost[:3]]
            raise ValueError(
                f"the goal {divmod(self.goal, self.size)} cannot be reached from {len(lost)} of "
                f"the {len(self.starts)} start cells, such as {where}. Open a way, or choose other "
                "starts."
            )


class FourRoomsEnv(EnvBase):
    """A four-room grid world as a batched TorchRL environment.

    - *Seen*: ``observation``, the number of the agent's cell, categorical of ``size**2``.
    - *Done*: ``action`` is a direction: 0 up, 1 right, 2 down, 3 left. A move into a wall leaves
      the agent where it is. With probability ``slip`` the direction is drawn at random instead.
    - *Rewarded*: 1 on entering the goal, else 0.
    - *Ends*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    All environments of the batch advance in the same tensor operations.

    From Sec. 6.1 of Goyal et al., *Recall Traces*, ICLR 2019, after Schaul et al. (2015). See
    :class:`FourRoomsLayout` for ``size``, ``start``, ``goal``, ``slip`` and ``blocked``.

    Args:
        size: cells along each side, walls included.

    Keyword Args:
        start: where episodes begin.
        goal: its cell.
        slip: probability of a random direction.
        blocked: further wall cells.
        max_steps: steps of an episode at most; ``10 * size`` by default.
        batch_size: of the environments.
        streams: random numbers of each seed, whose shares of the batch are equal and in order;
            torch's generator by default.

    Raises:
        ValueError: as the layout, or ``max_steps`` is below one, or an action is out of range.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import FourRoomsEnv
        >>> _ = torch.manual_seed(0)
        >>> env = FourRoomsEnv(11, batch_size=[8])
        >>> rollout = env.rollout(100, break_when_any_done=False)
        >>> rollout.shape, rollout["observation"].shape
        (torch.Size([8, 100]), torch.Size([8, 100]))
    """

    def __init__(
        self,
        size: int,
        *,
        start: Start = "opposite",
        goal: Cell | None = None,
        slip: float = 0.0,
        blocked: Sequence[Cell] = (),
        max_steps: int | None = None,
        batch_size: Sequence[int] = (),
        streams: SeedStreams | None = None,
    ) -> None:
        super().__init__(batch_size=torch.Size(batch_size))
        self.layout = FourRoomsLayout(size, start=start, goal=goal, slip=slip, blocked=blocked)
        self.max_steps = _steps(size, max_steps)
        self.streams = streams
        shape, num_cells = self.batch_size, self.layout.num_cells
        self.observation_spec = Composite(
            observation=Categorical(num_cells, shape=shape), shape=shape
        )
        self.state_spec = Composite(
            step_count=Unbounded(shape=shape, dtype=torch.int64), shape=shape
        )
        self.observation_spec["step_count"] = Unbounded(shape=shape, dtype=torch.int64)
        self.action_spec = Categorical(4, shape=shape)
        self.reward_spec = Unbounded(shape=(*shape, 1))
        flag = Binary(1, shape=(*shape, 1), dtype=torch.bool)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=shape
        )

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        starts = self.layout.starts  # for all; TorchRL keeps those that a partial reset asks for
        where = None if tensordict is None else tensordict.get("_reset", None)
        index = (self._rand(where) * len(starts)).long()
        count = torch.zeros(self.batch_size, dtype=torch.int64)
        false = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        out = {"observation": starts[index], "step_count": count}
        out |= {key: false.clone() for key in ("done", "terminated", "truncated")}
        return TensorDict(out, batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        layout, action = self.layout, tensordict.get("action")
        if not torch.compiler.is_compiling() and not ((action >= 0) & (action < 4)).all():
            raise ValueError(
                f"actions must be 0 (up), 1 (right), 2 (down) or 3 (left), got values from "
                f"{int(action.min())} to {int(action.max())}."
            )
        if layout.slip:
            draw = self._rand()
            direction = (draw / layout.slip * 4).long().clamp(max=3)  # uniform if it slips
            action = torch.where(draw < layout.slip, direction, action)
        cell = layout.next_cell[tensordict.get("observation"), action]
        count = tensordict.get("step_count") + 1
        terminated = (cell == layout.goal).unsqueeze(-1)
        truncated = (count >= self.max_steps).unsqueeze(-1) & ~terminated
        out = {
            "observation": cell,
            "step_count": count,
            "reward": terminated.float(),
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        return TensorDict(out, batch_size=self.batch_size)

    def _rand(self, where: Tensor | None = None) -> Tensor:
        if self.streams is None:
            return torch.rand(self.batch_size)
        return self.streams.rand(self.batch_size, where=where)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)

    def render(
        self,
        tensordict: TensorDictBase | None = None,
        *,
        values: Tensor | None = None,
        traces: Tensor | None = None,
        pixels: int = 16,
    ) -> np.ndarray:
        """Draw the grid: walls black, goal green, agents orange.

        Args:
            tensordict: what the environment returned, to show its agents.

        Keyword Args:
            values: a number for each cell, such as state values or visitation counts, shape
                ``[size**2]``; drawn from white to blue.
            traces: cells of traces, any shape; drawn as dots.
            pixels: of a cell.

        Returns:
            An image, uint8, shape ``[size * pixels, size * pixels, 3]``.
        """
        agents = None if tensordict is None else tensordict.get("observation")
        return _draw(self.layout, agents=agents, values=values, traces=traces, pixels=pixels)


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
        return _draw(self.layout, agents=torch.tensor([int(self.cell)]))


def _walls(size: int) -> Tensor:
    middle, near, far = size // 2, size // 4, (3 * size) // 4
    walls = torch.zeros(size, size, dtype=torch.bool)
    for edge in (0, middle, size - 1):
        walls[edge, :] = walls[:, edge] = True
    for door in (near, far):
        walls[middle, door] = walls[door, middle] = False
    return walls


def _steps(size: int, max_steps: int | None) -> int:
    max_steps = 10 * size if max_steps is None else max_steps
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be an integer of at least 1, got {max_steps!r}.")
    return max_steps


def _draw(
    layout: FourRoomsLayout,
    *,
    agents: Tensor | None = None,
    values: Tensor | None = None,
    traces: Tensor | None = None,
    pixels: int = 16,
) -> np.ndarray:
    colors = np.full((layout.num_cells, 3), 255.0)
    if values is not None:
        share = values.detach().flatten().double().numpy()
        share = np.nan_to_num(share / max(float(np.nanmax(share)), 1e-12)).clip(0, 1)[:, None]
        colors = (1 - share) * colors + share * np.array([33.0, 82.0, 165.0])
    colors[layout.walls.flatten().numpy()] = 0
    colors[layout.goal] = (60, 170, 90)
    size = layout.size
    image = colors.reshape(size, size, 3).repeat(pixels, 0).repeat(pixels, 1).astype(np.uint8)
    for cells, color, inset in (
        (traces, (200, 40, 60), 3 * pixels // 8),
        (agents, (240, 140, 30), pixels // 4),
    ):
        for cell in [] if cells is None else cells.unique().tolist():
            top, left = (x * pixels + inset for x in divmod(cell, size))
            side = max(1, pixels - 2 * inset)
            image[top : top + side, left : left + side] = color
    return image
