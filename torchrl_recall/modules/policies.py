"""Distributions of policies that have none, so that Eq. 3 can score them, and uniform actions."""

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
    r"""Policy of a deterministic actor (TD3, DDPG), as a Gaussian around its action.

    .. math:: \pi(a \mid s) = \mathcal{N}(a; \mu(s), \sigma^2)

    Eq. 3 is then the squared distance to the imitated action, divided by :math:`2 \sigma^2`. It
    holds the actor's own parameters: what imitation changes, the host acts by.

    Args:
        actor: writes the action, such as TorchRL's ``Actor``.

    Keyword Args:
        scale: :math:`\sigma`, in units of action. TD3 explores with 0.1 for actions in [-1, 1].
        action_key: where the actor writes.
        spec: of the action; the actor's by default. Imitated actions are clamped into it.

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
    r"""Policy of a network of action values (DQN), as a softmax at a temperature.

    .. math:: \pi(a \mid s) \propto \exp(Q(s, a) / \text{temperature})

    The values that it imitates by are the host's own: imitation raises Q of imitated actions beside
    the others. Of a distribution over returns the mean counts.

    Args:
        value_network: writes the values of all actions, such as TorchRL's ``QValueActor``.

    Keyword Args:
        temperature: in units of value; a tenth of the spread of values is a beginning.
        action_space: ``"one_hot"`` or ``"categorical"``; the network's by default.
        action_value_key: where the network writes the values.
        action_key: where actions are.

    Raises:
        ValueError: the temperature is not positive, the network writes no values, or its action
            space is not known.

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
    """Values of actions, or log-probabilities of returns ``[*, atoms, actions]``, as logits."""

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
    """Refuse a network that does not write what its distribution reads."""
    if key not in getattr(network, "out_keys", ()):
        raise ValueError(
            f"{reader} reads {key!r}, but the network writes "
            f"{getattr(network, 'out_keys', None)}. Name it with {argument}=."
        )


def check_bounded(spec: TensorSpec) -> None:
    """Refuse actions that cannot be drawn uniformly.

    Args:
        spec: of one action.

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
    """Draw actions, each as likely as any other.

    Args:
        spec: of one action, without batch dimensions; see :func:`check_bounded`.
        num: how many.

    Keyword Args:
        device: where they are put.
        generator: gives the random numbers; torch's global one by default.

    Examples:
        >>> from torchrl.data import Bounded, OneHot
        >>> from torchrl_recall.modules.policies import uniform_actions
        >>> uniform_actions(Bounded(-1, 1, (2,)), 5).shape
        torch.Size([5, 2])
        >>> uniform_actions(OneHot(3), 5).sum(-1)
        tensor([1, 1, 1, 1, 1])
    """
    # A generator, even None, is not to be named in a compiled graph.
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    if isinstance(spec, Categorical | OneHot):
        index = torch.randint(spec.space.n, (num,), device=device, **options)
        if isinstance(spec, OneHot):
            return nn.functional.one_hot(index, spec.space.n).to(spec.dtype)
        return index.to(spec.dtype)
    low, high = spec.space.low.to(device), spec.space.high.to(device)
    rand = torch.rand((num, *spec.shape), dtype=spec.dtype, device=device, **options)
    return low + (high - low) * rand
