"""Environments and networks on different devices."""

from __future__ import annotations

from collections.abc import Callable

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.devices import device_of
from torchrl_recall.envs import GoalEnv

__all__ = ["PolicyFor", "any_device"]


def any_device(env: GoalEnv, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a function of an environment, so that it accepts tensors on any device.

    Args:
        env: the environment, which computes on its own device.
        function: function of tensors, such as ``env.goal_of_state``.

    Returns:
        A function whose result is on the device of its arguments.
    """
    here = env.goal_spec.device

    def call(*tensors: Tensor) -> Tensor:
        return function(*(tensor.to(here) for tensor in tensors)).to(tensors[0].device)

    return call


class PolicyFor(TensorDictModuleBase):
    """Policy that acts in an environment on another device.

    Args:
        env: the environment; states and actions are on its device.
        policy: policy on any device.

    Attributes:
        device: device of the policy.
    """

    def __init__(self, env: GoalEnv, policy: TensorDictModuleBase) -> None:
        super().__init__()
        self.in_keys, self.out_keys = policy.in_keys, ["action"]
        self.here = env.goal_spec.device
        self.device = device_of(policy) or self.here
        self.__dict__["policy"] = policy  # not a submodule: the host owns its parameters

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the action for states of shape ``[*batch]``."""
        if self.device == self.here:
            return self.policy(tensordict)
        states = tensordict.select(*self.in_keys).to(self.device)
        return tensordict.set("action", self.policy(states).get("action").to(self.here))
