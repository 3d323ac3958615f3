"""Environments on one device beside networks on another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.envs import GoalEnv

__all__ = ["any_device", "policy_for"]


def any_device(env: GoalEnv, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function of an environment take tensors of any device, and return its result there.

    Args:
        env: computes on its own device.
        function: of tensors, such as ``env.goal_of_state``.
    """
    here = env.goal_spec.device

    def call(*tensors: Tensor) -> Tensor:
        return function(*(tensor.to(here) for tensor in tensors)).to(tensors[0].device)

    return call


def policy_for(
    env: GoalEnv, policy: TensorDictModuleBase
) -> tuple[Callable[[TensorDictBase], TensorDictBase], torch.device]:
    """Return the policy for states of an environment on another device, and its own device.

    Args:
        env: gives states and takes actions on its device.
        policy: on any device.
    """
    here = env.goal_spec.device
    device = next((p.device for p in policy.parameters()), here)
    if device == here:
        return policy, device

    def act(states: TensorDictBase) -> TensorDictBase:
        return states.set("action", policy(states.to(device)).get("action").to(here))

    return act, device
