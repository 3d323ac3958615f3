"""What the networks of all hosts share: their inputs, with a goal where the task has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrl.envs import EnvBase

__all__ = ["Joined", "inputs_of"]


class Joined(nn.Sequential):
    """A sequence that joins its inputs, as TorchRL's MLP does."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of shapes ``[*batch, dim]``."""
        return super().forward(torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0])


def inputs_of(env: EnvBase) -> tuple[list[str], int]:
    """The keys that a policy sees, ``observation`` and perhaps ``desired_goal``; their numbers."""
    spec = env.observation_spec_unbatched
    keys = [key for key in ("observation", "desired_goal") if key in spec.keys()]  # noqa: SIM118
    return keys, sum(spec[key].shape[-1] for key in keys)
