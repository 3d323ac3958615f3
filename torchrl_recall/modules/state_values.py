"""State values and state-action values, computed with the networks of any TorchRL loss."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from torchrl_recall.checks import positive
from torchrl_recall.modules.evaluation import evaluating
from torchrl_recall.optim.compilation import compile_function, with_fallback

__all__ = ["SACCritic", "StateValues"]

# Rows of each evaluation. A compiled function makes a graph for each size, so every batch is cut
# and padded to one; this one's intermediate values stay in the cache.
_CHUNK = 256

# TorchRL's names for networks of values, those of actions first.
_NAMES = ("qvalue_network", "critic_network", "value_network")


class StateValues(TensorDictModuleBase):
    r"""Values of a :class:`~torchrl.objectives.LossModule`, as a module without gradients.

    Networks and parameters are found by TorchRL's convention, ``<name>_network`` with
    ``<name>_network_params``. With an ensemble, :math:`Q(s, a) = \min_i Q_i(s, a)`. V(s) is

    =========================================  =====================================================
    the network of V                           PPO, A2C, Reinforce, TRPO, IQL, DiscreteIQL, SAC with
                                               a value network
    :math:`\min_i Q_i(s, \bar a(s))`           SAC, CrossQ, REDQ, TQC, CQL, TD3, TD3BC, DDPG
    :math:`\sum_a \pi(a \mid s) \, Q(s, a)`    DiscreteSAC
    :math:`\max_a Q(s, a)`                     DQN, DistributionalDQN, DiscreteCQL; with a
                                               temperature, the mean of Q under the softmax
    =========================================  =====================================================

    Here :math:`\bar a(s)` is the policy's deterministic action, so no random number is drawn. If a
    network predicts quantiles (TQC) or a distribution over returns (DistributionalDQN), its mean is
    used. Networks are evaluated in evaluation mode, and their mode is restored afterwards. With
    batch renormalisation or dropout, a row would otherwise depend on the rest of its batch. The
    module has no parameters of its own; it uses the current ones of the loss.

    Args:
        loss_module: the loss whose networks are used.

    Keyword Args:
        temperature: temperature of the softmax policy over Q whose value is V, in units of value.
            It applies to losses that train no policy; take that of
            :class:`~torchrl_recall.BoltzmannPolicy`. None uses the greedy policy, whose value is
            the maximum.
        compile: whether the evaluation is compiled.

    Raises:
        TypeError: it is not a loss module, or the loss has no value network.
        ValueError: the temperature is not positive, or the loss trains a policy and needs none.
            Also for several discrete actions at once (``mult_one_hot``).

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import Actor, MLP, ValueOperator
        >>> from torchrl.objectives import TD3Loss
        >>> from torchrl_recall import AdvantageGate, CriticStates, StateValues
        >>> spec = Bounded(-1, 1, (2,))
        >>> actor = Actor(MLP(in_features=3, out_features=2, num_cells=[8]), ["observation"])
        >>> qvalue = ValueOperator(
        ...     MLP(in_features=5, out_features=1, num_cells=[8]), ["observation", "action"]
        ... )
        >>> critic = StateValues(TD3Loss(actor, qvalue, action_spec=spec))
        >>> data = TensorDict(
        ...     {"observation": torch.randn(64, 3), "action": torch.rand(64, 2)}, [64]
        ... )
        >>> CriticStates(critic, num_states=16)(data).shape
        torch.Size([16])
        >>> AdvantageGate(critic)(data)["mask"].shape
        torch.Size([64])
    """

    def __init__(
        self,
        loss_module: LossModule,
        *,
        temperature: float | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(getattr(loss_module, "_orig_mod", loss_module), LossModule):
            raise TypeError(
                f"StateValues reads the networks of one of TorchRL's losses, got a "
                f"{type(loss_module).__name__}. Give the loss; a module of your own that writes "
                "state_value goes to CriticStates as it is."
            )
        self.__dict__["loss_module"] = loss_module  # not a submodule: the loss owns its parameters
        networks = {name: net for name in _NAMES if (net := _network(loss_module, name))}
        if not networks:
            raise TypeError(
                f"{type(loss_module).__name__} has no network of values "
                f"({', '.join(_NAMES)}). Give CriticStates and AdvantageGate a module of your own "
                "that writes state_value and state_action_value."
            )

        self.action_key = _action_key(loss_module, networks)
        # Q reads an action, or writes the values of all; V does neither.
        self._of_pairs = next((n for n in networks if self._reads_action(networks[n])), None)
        self._of_all = (
            None
            if self._of_pairs
            else next((n for n in networks if self._writes_all(networks[n])), None)
        )
        if self._of_all and getattr(loss_module, "action_space", None) == "mult_one_hot":
            raise ValueError(
                "StateValues reads the values of one choice, but action_space='mult_one_hot' makes "
                "several at once. Use a OneHot or Categorical action over all combinations."
            )
        qvalue = self._of_pairs or self._of_all
        self._of_states = next((n for n in networks if n != qvalue), None)
        names = [name for name in (qvalue, self._of_states) if name]
        if self._of_states is None and _network(loss_module, "actor_network"):
            names.append("actor_network")
        self._names = names
        has_softmax = self._of_all is not None and len(names) == 1
        if temperature is not None:
            positive(temperature=temperature)
            if not has_softmax:
                raise ValueError(
                    f"temperature={temperature}, but V of {type(loss_module).__name__} is that of "
                    "its own policy; leave temperature out."
                )
        self.temperature = temperature
        # V is then the largest Q, so that no action has an advantage.
        self.is_greedy = has_softmax and temperature is None

        keys = [key for name in names for key in getattr(loss_module, name).in_keys]
        self.in_keys = list(dict.fromkeys([*keys, *([self.action_key] if qvalue else [])]))
        self.out_keys = ["state_value", *(["state_action_value"] if qvalue else [])]
        self._evaluate = self._values
        if compile:
            compiled = compile_function(self._values, settled=(0,))  # not the parameters
            self._evaluate = with_fallback(compiled, self._values, "the critic")

    def _reads_action(self, network: Any) -> bool:
        return self.action_key in network.in_keys

    def _writes_all(self, network: Any) -> bool:
        keys = self.loss_module.tensor_keys
        return getattr(keys, "action_value", None) in network.out_keys or (
            getattr(keys, "state_action_value", None) in network.out_keys
        )

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``state_value`` and, if there is an action, ``state_action_value``.

        Args:
            tensordict: states, with or without actions, any batch shape, environment units.

        Returns:
            The same tensordict with the values, shape ``[*batch, 1]``.
        """
        if not tensordict.batch_size.numel():
            empty = torch.zeros(*tensordict.shape, 1, device=tensordict.device)
            return tensordict.update(dict.fromkeys(self.out_keys, empty))
        data = tensordict.select(*self.in_keys, strict=False).reshape(-1)
        parameters = [
            None
            if (params := _parameters(self.loss_module, name)) is None
            else (params.data.to_dict(), params.batch_size)
            for name in self._names
        ]
        with evaluating(*(getattr(self.loss_module, name) for name in self._names)):
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

    def _values(self, parameters: list[tuple[dict, torch.Size] | None], data: dict) -> list[Tensor]:
        """Evaluate a chunk of rows: V, and Q if the data have an action."""
        params = {
            name: None if arguments is None else TensorDict(*arguments)
            for name, arguments in zip(self._names, parameters, strict=True)
        }
        pairs = TensorDict(data, batch_size=[_CHUNK])
        states = pairs.exclude(self.action_key)
        action = pairs.get(self.action_key, None)

        of_all = None if self._of_all is None else self._all_values(states, params)
        values = [self._state_value(states, of_all, params)]
        if action is not None and self._of_pairs:
            values.append(self._pair_values(pairs, params))
        elif action is not None and of_all is not None:
            index = action.long().argmax(-1) if action.shape == of_all.shape else action.long()
            values.append(of_all.gather(-1, index.reshape(-1, 1)))
        return values

    def _state_value(self, states: TensorDictBase, of_all: Tensor | None, params: dict) -> Tensor:
        """Compute V(s); see the table of the class."""
        if self._of_states:
            return self._out(self._of_states, states, params)
        if of_all is None:
            chosen = states.copy().set(self.action_key, self._act(states, params))
            return self._pair_values(chosen, params)
        if "actor_network" in params:
            probabilities = self._distribution(states, params).probs
            return (probabilities * of_all).sum(-1, keepdim=True)
        if self.temperature is None:
            return of_all.amax(-1, keepdim=True)
        probabilities = (of_all / self.temperature).softmax(-1)
        return (probabilities * of_all).sum(-1, keepdim=True)

    def _act(self, states: TensorDictBase, params: dict) -> Tensor:
        """Return the policy's deterministic action."""
        actor = self.loss_module.actor_network
        if isinstance(actor, ProbabilisticTensorDictSequential):
            dist = self._distribution(states, params)
            action = getattr(dist, "deterministic_sample", None)  # torch's distributions lack it
            return dist.mean if action is None else action
        return self._run("actor_network", states, params).get(self.action_key)

    def _distribution(self, states: TensorDictBase, params: dict) -> Any:
        actor = self.loss_module.actor_network
        if params["actor_network"] is None:
            return actor.get_dist(states.copy())
        with params["actor_network"].to_module(actor, preserve_module_state=False):
            return actor.get_dist(states.copy())

    def _pair_values(self, pairs: TensorDictBase, params: dict) -> Tensor:
        """Compute the smallest Q(s, a) of the ensemble, or the mean of its quantiles."""
        value = self._out(self._of_pairs, pairs, params)
        if value.shape[-1] > 1:
            value = value.mean(-1, keepdim=True)
        return value.amin(0) if value.ndim > 2 else value

    def _all_values(self, states: TensorDictBase, params: dict) -> Tensor:
        """Compute the smallest Q(s, .) of the ensemble, or the mean of its distributions."""
        value = self._out(self._of_all, states, params)
        of_all = params[self._of_all]
        support = None if of_all is None else of_all.get("support", None)
        if support is not None:  # the values are log-probabilities of returns
            return (value.exp() * support.unsqueeze(-1)).sum(-2)
        return value.amin(0) if value.ndim > 2 else value

    def _out(self, name: str | None, data: TensorDictBase, params: dict) -> Tensor:
        """Run a value network, and return its output."""
        assert name is not None
        keys = self.loss_module.tensor_keys
        known = [
            getattr(keys, kind, None) for kind in ("action_value", "state_action_value", "value")
        ]
        written = getattr(self.loss_module, name).out_keys
        key = next((key for key in known if key in written), written[0])
        return self._run(name, data, params).get(key)

    def _run(self, name: str, data: TensorDictBase, params: dict) -> TensorDictBase:
        """Run a network, or an ensemble whose parameters are stacked in the first dimension."""
        network, given = getattr(self.loss_module, name), params[name]
        inputs = data.select(*network.in_keys)
        if given is None:
            return network(inputs)

        def call(inputs: TensorDictBase, given: TensorDictBase) -> TensorDictBase:
            with given.to_module(network, preserve_module_state=False):
                return network(inputs)

        return (
            torch.vmap(call, (None, 0))(inputs, given) if given.batch_size else call(inputs, given)
        )


# Former name, from when only losses of SAC were supported.
SACCritic = StateValues


def _network(loss_module: LossModule, name: str) -> nn.Module | None:
    """Return the loss's network of that name; None if it has none with ``in_keys``."""
    network = getattr(loss_module, name, None)
    return network if hasattr(network, "in_keys") else None


def _action_key(loss_module: LossModule, networks: dict[str, Any]) -> NestedKey:
    """Return the key of the action: the loss's, or the last output of the actor that Q reads."""
    key = getattr(loss_module.tensor_keys, "action", "action")
    written = getattr(_network(loss_module, "actor_network"), "out_keys", [key])
    read = {k for network in networks.values() for k in network.in_keys}
    return key if key in written else next((k for k in reversed(written) if k in read), key)


def _parameters(loss_module: LossModule, name: str) -> TensorDictBase | None:
    """Return the parameters of a network; None if the network itself holds them."""
    params = getattr(loss_module, f"{name}_params", None)
    return params if isinstance(params, TensorDictBase) else None
