"""State values and state-action values read off TorchRL's SAC loss."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import SACLoss

__all__ = ["SACCritic"]


class SACCritic(TensorDictModuleBase):
    r"""The critic of a :class:`~torchrl.objectives.SACLoss` as a module without gradients.

    .. math:: Q(s, a) = \min_i Q_i(s, a), \qquad V(s) = \min_i Q_i(s, \bar a(s))

    where :math:`\bar a(s)` is the policy's deterministic action, so that ranking states and
    gating pairs draw no random numbers. It holds no parameters of its own: it always sees the
    loss's current ones.

    Args:
        loss_module: the loss, version 2 (without a value network).

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
        >>> from torchrl.objectives import SACLoss
        >>> from torchrl_recall import AdvantageGate, CriticStates, SACCritic
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> qvalue = ValueOperator(
        ...     MLP(in_features=5, out_features=1, num_cells=[8]), ["observation", "action"]
        ... )
        >>> critic = SACCritic(SACLoss(actor, qvalue))
        >>> data = TensorDict(
        ...     {"observation": torch.randn(64, 3), "action": torch.rand(64, 2)}, [64]
        ... )
        >>> CriticStates(critic, num_states=16)(data).shape
        torch.Size([16])
        >>> AdvantageGate(critic)(data)["mask"].shape
        torch.Size([64])
    """

    def __init__(self, loss_module: SACLoss) -> None:
        super().__init__()
        self.__dict__["loss_module"] = loss_module  # not a submodule: the loss owns its parameters
        self.in_keys = list(loss_module.qvalue_network.in_keys)
        self.out_keys = ["state_value", "state_action_value"]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``state_value``, and with an action ``state_action_value``, ``[*batch, 1]``."""
        loss = self.loss_module
        action_key = loss.tensor_keys.action
        states = tensordict.exclude(action_key)
        with loss.actor_network_params.to_module(loss.actor_network):
            action = loss.actor_network.get_dist(states).deterministic_sample
        tensordict.set("state_value", self._q(states.set(action_key, action)))
        if action_key in tensordict.keys(True):
            tensordict.set("state_action_value", self._q(tensordict))
        return tensordict

    def _q(self, tensordict: TensorDictBase) -> torch.Tensor:
        loss = self.loss_module
        data: TensorDict = tensordict.select(*loss.qvalue_network.in_keys)
        values = loss._vmap_qnetworkN0(data, loss.qvalue_network_params)
        return values.get(loss.tensor_keys.state_action_value).min(0).values
