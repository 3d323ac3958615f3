"""Distributions for policies without one, so that Eq. 3 can score actions; uniform actions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from torch import Tensor, nn
from torchrl.data import Categorical, OneHot, TensorSpec
from torchrl.modules import IndependentNormal, OneHotCategorical

from torchrl_recall.checks import positive

__all__ = ["BoltzmannPolicy", "GaussianPolicy", "check_bounded", "uniform_actions"]


class GaussianPolicy(ProbabilisticTensorDictSequential):
    r"""Stochastic policy of a deterministic actor (TD3, DDPG): a Gaussian around its action.

    .. math:: \pi(a \mid s) = \mathcal{N}(a; \mu(s), \sigma^2)

    Up to a constant, Eq. 3 is then the squared distance to the imitated action, divided by
    :math:`2 \sigma^2`. The policy shares the actor's parameters, so imitation changes the host's
    actor.

    Args:
        actor: module that writes the action, such as TorchRL's ``Actor``.

    Keyword Args:
        scale: :math:`\sigma`, in units of action. TD3 explores with 0.1 for actions in [-1, 1].
        action_key: key under which the actor writes the action.
        spec: spec of the action; that of the actor by default. Imitated actions are clamped to its
            bounds.

    Raises:
        ValueError: the scale is not positive, or the actor writes no action.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import Actor
        >>> from torchrl_recall import GaussianPolicy, ImitationLoss
        >>> actor = Actor(torch.nn.Linear(3, 2), ["observation"], spec=Bounded(-1, 1, (2,)))
        >>> loss = ImitationLoss(GaussianPolicy(actor, scale=0.1))
        >>> pairs = TensorDict({"observation": torch.zeros(8, 3), "action": torch.zeros(8, 2)}, [8])
        >>> loss(pairs)["loss_imitation"].backward()
        >>> actor.module.weight.grad.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        actor: TensorDictModuleBase,
        *,
        scale: float = 0.1,
        action_key: NestedKey = "action",
        spec: TensorSpec | None = None,
    ) -> None:
        positive(scale=scale)
        _check_writes(actor, action_key, "GaussianPolicy", "action_key")
        super().__init__(
            actor,
            ProbabilisticTensorDictModule(
                {"loc": action_key},
                [action_key],
                distribution_class=IndependentNormal,
                distribution_kwargs={"scale": scale},
            ),
        )
        self.spec = getattr(actor, "spec", None) if spec is None else spec


class BoltzmannPolicy(ProbabilisticTensorDictSequential):
    r"""Stochastic policy of an action-value network (DQN): a softmax of its values.

    .. math:: \pi(a \mid s) \propto \exp(Q(s, a) / \text{temperature})

    The policy shares the parameters of the network, so imitation raises Q of imitated actions
    relative to other actions. If the network predicts a distribution over returns, Q is its mean.

    Args:
        value_network: module that writes the values of all actions, such as TorchRL's
            ``QValueActor``.

    Keyword Args:
        temperature: temperature of the softmax, in units of value. A tenth of the range of values
            is a good first choice.
        action_space: ``"one_hot"`` or ``"categorical"``; that of the network by default.
        action_value_key: key under which the network writes the values.
        action_key: key of the actions.

    Raises:
        ValueError: the temperature is not positive, the network writes no values, or its action
            space is unknown.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import OneHot
        >>> from torchrl.modules import QValueActor
        >>> from torchrl_recall import BoltzmannPolicy, ImitationLoss
        >>> actor = QValueActor(torch.nn.Linear(3, 4), spec=OneHot(4), in_keys=["observation"])
        >>> loss = ImitationLoss(BoltzmannPolicy(actor, temperature=1.0))
        >>> pairs = TensorDict(
        ...     {"observation": torch.zeros(8, 3), "action": OneHot(4).rand((8,))}, [8]
        ... )
        >>> bool(loss(pairs)["loss_imitation"].isfinite())
        True
    """

    def __init__(
        self,
        value_network: TensorDictModuleBase,
        *,
        temperature: float = 1.0,
        action_space: Literal["one_hot", "categorical"] | None = None,
        action_value_key: NestedKey = "action_value",
        action_key: NestedKey = "action",
    ) -> None:
        positive(temperature=temperature)
        _check_writes(value_network, action_value_key, "BoltzmannPolicy", "action_value_key")
        space = action_space or getattr(value_network, "action_space", None)
        kinds = {"one_hot": OneHotCategorical, "categorical": torch.distributions.Categorical}
        if space not in kinds:
            raise ValueError(
                f"action_space must be one of {list(kinds)}, got {space!r}; name it with "
                "action_space=."
            )
        support = getattr(value_network, "support", None)
        super().__init__(
            value_network,
            TensorDictModule(
                _Logits(temperature, support), [action_value_key], ["boltzmann_logits"]
            ),
            ProbabilisticTensorDictModule(
                {"logits": "boltzmann_logits"}, [action_key], distribution_class=kinds[space]
            ),
        )


class _Logits(nn.Module):
    """Conversion of action values, or of log-probabilities ``[*, atoms, actions]``, to logits."""

    def __init__(self, temperature: float, support: Tensor | None) -> None:
        super().__init__()
        self.temperature = temperature
        self.support: Tensor | None
        self.register_buffer("support", support, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        if self.support is not None:
            values = (values.exp() * self.support.unsqueeze(-1)).sum(-2)
        return values / self.temperature


def _check_writes(
    network: TensorDictModuleBase, key: NestedKey, reader: str, argument: str
) -> None:
    """Refuse a network that does not write the entry that its distribution reads."""
    if key not in getattr(network, "out_keys", ()):
        raise ValueError(
            f"{reader} reads {key!r}, but the network writes "
            f"{getattr(network, 'out_keys', None)}. Name it with {argument}=."
        )


def check_bounded(spec: TensorSpec) -> None:
    """Refuse actions that cannot be drawn uniformly.

    Args:
        spec: spec of one action.

    Raises:
        ValueError: the actions have no bounds.

    Examples:
        >>> from torchrl.data import Bounded
        >>> from torchrl_recall.modules.policies import check_bounded
        >>> check_bounded(Bounded(-1, 1, (2,)))
    """
    space = spec.space
    if type(spec) is Categorical and not spec.shape:
        return
    if type(spec) is OneHot and len(spec.shape) == 1:
        return
    if hasattr(space, "low") and (space.high - space.low).isfinite().all():
        return
    raise ValueError(
        f"uniform actions need bounds, which {type(spec).__name__} has not. Give the model the "
        "task's Bounded spec, or take actions='backward_policy'."
    )


def uniform_actions(
    spec: TensorSpec,
    num: int,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw actions uniformly from the action space.

    Args:
        spec: spec of one bounded or discrete action, without batch dimensions; see
            :func:`check_bounded`.
        num: number of actions.

    Keyword Args:
        device: device of the actions.
        generator: source of random numbers; torch's global generator by default.

    Returns:
        Actions of shape ``[num, *action_shape]``, environment units.

    Examples:
        >>> from torchrl.data import Bounded, OneHot
        >>> from torchrl_recall.modules.policies import uniform_actions
        >>> uniform_actions(Bounded(-1, 1, (2,)), 5).shape
        torch.Size([5, 2])
        >>> uniform_actions(OneHot(3), 5).sum(-1)
        tensor([1, 1, 1, 1, 1])
    """
    # A compiled graph must not contain the argument generator=, even if it is None.
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    if isinstance(spec, Categorical | OneHot):
        index = torch.randint(spec.space.n, (num,), device=device, **options)
        if isinstance(spec, OneHot):
            return nn.functional.one_hot(index, spec.space.n).to(spec.dtype)
        return index.to(spec.dtype)
    low, high = spec.space.low.to(device), spec.space.high.to(device)
    rand = torch.rand((num, *spec.shape), dtype=spec.dtype, device=device, **options)
    return low + (high - low) * rand
