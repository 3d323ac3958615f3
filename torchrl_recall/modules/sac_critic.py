"""State values and state-action values read off TorchRL's SAC loss."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import SACLoss

from torchrl_recall.optim.compilation import compile_function, with_fallback

__all__ = ["SACCritic"]

# Rows of each evaluation. A compiled function makes a graph for each size, so every batch is cut
# and padded to one; this one's intermediate values stay in the cache.
_CHUNK = 256


class SACCritic(TensorDictModuleBase):
    r"""Critic of a :class:`~torchrl.objectives.SACLoss` as a module without gradients.

    .. math:: Q(s, a) = \min_i Q_i(s, a), \qquad V(s) = \min_i Q_i(s, \bar a(s))

    where :math:`\bar a(s)` is the policy's deterministic action, so that ranking states and
    gating pairs draw no random numbers. The module holds no parameters: it reads the loss's
    current ones.

    Args:
        loss_module: the loss, version 2 (without a value network).

    Keyword Args:
        compile: compile the evaluation.

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

    def __init__(self, loss_module: SACLoss, *, compile: bool = False) -> None:
        super().__init__()
        if not isinstance(loss_module, SACLoss) or loss_module._version != 2:
            raise TypeError(
                f"SACCritic reads V and Q off a SACLoss without a value network, but "
                f"{type(loss_module).__name__} keeps them in another way. Give CriticStates and "
                "AdvantageGate a module of your own that writes state_value and "
                "state_action_value."
            )
        self.__dict__["loss_module"] = loss_module  # not a submodule: the loss owns its parameters
        networks = loss_module.qvalue_network, loss_module.actor_network
        self.in_keys = list(dict.fromkeys(key for network in networks for key in network.in_keys))
        self.out_keys = ["state_value", "state_action_value"]
        self._evaluate = self._values
        if compile:
            compiled = compile_function(self._values, settled=(0,))  # not the parameters
            self._evaluate = with_fallback(compiled, self._values, "the critic")

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``state_value``, and with an action ``state_action_value``, ``[*batch, 1]``."""
        loss = self.loss_module
        if not tensordict.batch_size.numel():
            empty = torch.zeros(*tensordict.shape, 1, device=tensordict.device)
            return tensordict.update(dict.fromkeys(self.out_keys, empty))
        data = tensordict.select(*self.in_keys, strict=False).reshape(-1)
        parameters = [
            (params.data.to_dict(), params.batch_size)
            for params in (loss.actor_network_params, loss.qvalue_network_params)
        ]
        values = [
            self._evaluate(
                parameters, chunk[torch.arange(_CHUNK).clamp(max=len(chunk) - 1)].to_dict()
            )
            for chunk in data.split(_CHUNK)
        ]
        for key, columns in zip(self.out_keys, zip(*values, strict=True), strict=False):
            value = torch.cat(columns)[: len(data)]
            tensordict.set(key, value.reshape(*tensordict.shape, 1))
        return tensordict

    def _values(self, parameters: list[tuple[dict, torch.Size]], data: dict) -> list[Tensor]:
        loss = self.loss_module
        action_key = loss.tensor_keys.action
        actor_params, qvalue_params = (TensorDict(*arguments) for arguments in parameters)
        pairs = TensorDict(data, batch_size=[_CHUNK])
        states = pairs.exclude(action_key)
        with actor_params.to_module(loss.actor_network, preserve_module_state=False):
            action = loss.actor_network.get_dist(states).deterministic_sample
        batches = [states.set(action_key, action)]
        if action_key in pairs.keys(True):
            batches.append(pairs)
        key = loss.tensor_keys.state_action_value
        return [
            loss._vmap_qnetworkN0(batch.select(*loss.qvalue_network.in_keys), qvalue_params)
            .get(key)
            .amin(0)
            for batch in batches
        ]
