"""Policies as functions from observations to actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType
from torchrl.envs.utils import set_exploration_type

from torchrl_recall.optim.compilation import compile_function, with_fallback

__all__ = ["Policy", "make_policy"]

Policy = Callable[[Tensor], Tensor]


def make_policy(
    actor: TensorDictModuleBase, exploration: ExplorationType, *, compile: bool
) -> Policy:
    """Return the actor as a function from observations to actions, without gradients.

    Args:
        actor: module that reads ``observation`` and writes ``action``.
        exploration: exploration type, random for collection and deterministic for evaluation.

    Keyword Args:
        compile: whether to compile the function, which pays off after a few thousand steps.

    Returns:
        A function from shape ``[*batch, observation_dim]`` to ``[*batch, action_dim]``.
    """

    @torch.no_grad()
    def act(observation: Tensor) -> Tensor:
        with set_exploration_type(exploration):
            data = TensorDict({"observation": observation}, batch_size=observation.shape[:-1])
            return actor(data).get("action")

    return with_fallback(compile_function(act), act, "the policy") if compile else act
