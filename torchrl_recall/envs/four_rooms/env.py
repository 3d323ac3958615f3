"""Four-room grid world (Sec. 6.1), batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_recall.envs.episodes import done_spec, episode_begins, episode_continues, own_generator
from torchrl_recall.envs.four_rooms.drawing import draw
from torchrl_recall.envs.four_rooms.layout import Cell, FourRoomsLayout, Start, step_limit
from torchrl_recall.seeds import SeedStreams

__all__ = ["FourRoomsEnv"]


class FourRoomsEnv(EnvBase):
    """Four-room grid world as a batched TorchRL environment.

    - *Observation*: ``observation``, the number of the agent's cell, categorical of ``size**2``.
    - *Action*: ``action`` is a direction: 0 up, 1 right, 2 down, 3 left. A move into a wall leaves
      the agent in its cell. With probability ``slip`` the direction is drawn at random instead.
    - *Reward*: 1 on entering the goal, else 0.
    - *End*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    All environments of the batch are stepped by the same tensor operations. Environments that one
    process makes draw the same numbers until ``set_seed`` gives them different seeds. That of
    ``SerialEnv`` and ``ParallelEnv`` does so for their copies.

    From Sec. 6.1 of Goyal et al., *Recall Traces*, ICLR 2019, after Schaul et al. (2015). See
    :class:`FourRoomsLayout` for ``size``, ``start``, ``goal``, ``slip`` and ``blocked``.

    Args:
        size: cells along each side, walls included.

    Keyword Args:
        start: cells in which episodes begin.
        goal: cell of the goal (row, column).
        slip: probability of a random direction.
        blocked: further wall cells.
        max_steps: largest number of steps of an episode; ``10 * size`` by default.
        batch_size: batch shape of the environments.
        streams: random numbers of each seed; the batch is divided equally among seeds, in order. By
            default all have one generator, which ``set_seed`` seeds.

    Raises:
        ValueError: the layout is impossible, ``max_steps`` is below one, or an action is out of
            range.

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
        self.max_steps = step_limit(size, max_steps)
        self.streams = streams
        self.generator = own_generator()
        shape, num_cells = self.batch_size, self.layout.num_cells
        self.observation_spec = Composite(
            observation=Categorical(num_cells, shape=shape), shape=shape
        )
        self.state_spec = Composite(
            elapsed_steps=Unbounded(shape=shape, dtype=torch.int64), shape=shape
        )
        self.observation_spec["elapsed_steps"] = Unbounded(shape=shape, dtype=torch.int64)
        self.action_spec = Categorical(4, shape=shape)
        self.reward_spec = Unbounded(shape=(*shape, 1))
        self.done_spec = done_spec(shape)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        # For the whole batch; of a partial reset, TorchRL uses the rows that it needs.
        starts = self.layout.starts
        where = None if tensordict is None else tensordict.get("_reset", None)
        index = (self._rand(where) * len(starts)).long()
        out = {"observation": starts[index]} | episode_begins(self.batch_size)
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
        reached = (cell == layout.goal).unsqueeze(-1)
        out = {"observation": cell}
        out |= episode_continues(tensordict.get("elapsed_steps"), reached, self.max_steps)
        return TensorDict(out, batch_size=self.batch_size)

    def _rand(self, where: Tensor | None = None) -> Tensor:
        """Draw a number in [0, 1) for each environment; see :meth:`SeedStreams.rand`."""
        if self.streams is None:
            compiling = torch.compiler.is_compiling()  # a graph can only use torch's generator
            generator = None if compiling else self.generator
            return torch.rand(self.batch_size, generator=generator)
        return self.streams.rand(self.batch_size, where=where)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.generator.manual_seed(seed)

    def render(
        self,
        tensordict: TensorDictBase | None = None,
        *,
        values: Tensor | None = None,
        traces: Tensor | None = None,
        pixels: int = 16,
    ) -> np.ndarray:
        """Draw the grid with black walls, a green goal and orange agents.

        Args:
            tensordict: output of the environment, whose agents are drawn; None draws no agents.

        Keyword Args:
            values: a number for each cell, such as state values or visitation counts, shape
                ``[size**2]``, drawn as a colour from white to blue.
            traces: cells of traces, any shape, drawn as dots.
            pixels: side of a cell, in pixels.

        Returns:
            An image, uint8, shape ``[size * pixels, size * pixels, 3]``.
        """
        agents = None if tensordict is None else tensordict.get("observation")
        return draw(self.layout, agents=agents, values=values, traces=traces, pixels=pixels)
