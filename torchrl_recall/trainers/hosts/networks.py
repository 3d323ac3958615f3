"""Inputs of the networks of all hosts: the observation, with a goal where the task has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrl.envs import EnvBase

__all__ = ["ConcatInputs", "policy_inputs"]


class ConcatInputs(nn.Sequential):
    """A sequence of layers that concatenates its inputs first, as TorchRL's MLP does."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the layers on inputs of shapes ``[*batch, dim]``."""
        return super().forward(torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0])


def policy_inputs(env: EnvBase) -> tuple[list[str], int]:
    """Return the keys that a policy sees and their size.

    Args:
        env: gives the specs.

    Returns:
        ``observation`` and perhaps ``desired_goal``, and the number of their features.
    """
    spec = env.observation_spec_unbatched
    keys = [key for key in ("observation", "desired_goal") if key in spec.keys()]  # noqa: SIM118
    return keys, sum(spec[key].shape[-1] for key in keys)
