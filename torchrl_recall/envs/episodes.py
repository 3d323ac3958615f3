"""Step counts, rewards, flags and random numbers of batched environments with a goal."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.data import Binary, Composite

__all__ = ["done_spec", "episode_begins", "episode_continues", "own_generator"]


def done_spec(batch_size: torch.Size) -> Composite:
    """Return the spec of ``done``, ``terminated`` and ``truncated``.

    Args:
        batch_size: batch shape of the environment.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs.episodes import done_spec
        >>> done_spec(torch.Size([8]))["terminated"].shape
        torch.Size([8, 1])
    """
    flag = Binary(1, shape=(*batch_size, 1), dtype=torch.bool)
    return Composite(done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=batch_size)


def episode_begins(batch_size: torch.Size) -> dict[str, Tensor]:
    """Return the step count and the flags at the beginning of episodes.

    Args:
        batch_size: batch shape of the environment.

    Returns:
        ``elapsed_steps`` zero, shape ``[*batch_size]``, and ``done``, ``terminated`` and
        ``truncated`` False, shape ``[*batch_size, 1]``.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs.episodes import episode_begins
        >>> episode_begins(torch.Size([2]))["elapsed_steps"]
        tensor([0, 0])
    """
    false = torch.zeros(*batch_size, 1, dtype=torch.bool)
    return {
        "elapsed_steps": torch.zeros(batch_size, dtype=torch.int64),
        **{key: false.clone() for key in ("done", "terminated", "truncated")},
    }


def episode_continues(elapsed_steps: Tensor, reached: Tensor, max_steps: int) -> dict[str, Tensor]:
    """Return step count, reward and flags after a step; reaching the goal is rewarded.

    Args:
        elapsed_steps: number of steps before this one, shape ``[*batch_size]``.
        reached: True where this step reached the goal, shape ``[*batch_size, 1]``.
        max_steps: largest number of steps of an episode.

    Returns:
        ``elapsed_steps`` of shape ``[*batch_size]``, and further entries of shape
        ``[*batch_size, 1]``: ``reward``, which is 1 at the goal and 0 elsewhere, ``terminated`` at
        the goal, ``truncated`` at the time limit elsewhere, and ``done`` in both cases.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs.episodes import episode_continues
        >>> at_goal = torch.tensor([[True], [False], [False]])
        >>> after = episode_continues(torch.tensor([9, 9, 3]), at_goal, max_steps=10)
        >>> after["terminated"].flatten(), after["truncated"].flatten()
        (tensor([ True, False, False]), tensor([False,  True, False]))
    """
    elapsed_steps = elapsed_steps + 1
    truncated = (elapsed_steps >= max_steps).unsqueeze(-1) & ~reached
    return {
        "elapsed_steps": elapsed_steps,
        "reward": reached.float(),
        "terminated": reached,
        "truncated": truncated,
        "done": reached | truncated,
    }


def own_generator() -> torch.Generator:
    """Make a generator for one environment, so that its draws do not change other random numbers.

    Its seed is torch's initial seed; no number is drawn from torch's global generator.
    ``set_seed`` of the environment sets another seed.

    Returns:
        The generator.
    """
    return torch.Generator().manual_seed(torch.initial_seed())
