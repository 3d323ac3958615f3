"""Networks of all hosts; inputs are the observation and, if the task has goals, the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torchrl.data import Composite, TensorSpec
from torchrl.modules import MLP, ValueOperator

__all__ = [
    "ConcatInputs",
    "HasSpecs",
    "MakeNetwork",
    "make_qvalues",
    "mlp",
    "policy_inputs",
    "standardized_mlp",
    "tanh_mlp",
]

# Of numbers of inputs and outputs, hidden units and device.
MakeNetwork = Callable[[int, int, Sequence[int], torch.device], nn.Module]


class HasSpecs(Protocol):
    """Interface of an environment, or a substitute, whose specs networks are built from."""

    @property
    def observation_spec_unbatched(self) -> Composite:
        """The spec of observations."""

    @property
    def action_spec_unbatched(self) -> TensorSpec:
        """The spec of an action."""


class ConcatInputs(nn.Sequential):
    """Sequence of layers that concatenates its inputs first, as TorchRL's MLP does."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the layers on inputs of shapes ``[*batch, dim]``.

        Args:
            inputs: tensors of shape ``[*batch, dim]``.

        Returns:
            Output of the last layer.
        """
        return super().forward(torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0])


def policy_inputs(env: HasSpecs) -> tuple[list[str], int]:
    """Return the keys that a policy reads, and the number of their features.

    Args:
        env: environment that gives the specs.

    Returns:
        ``observation`` and, if the task has goals, ``desired_goal``; and the number of features.
    """
    spec = env.observation_spec_unbatched
    keys = [key for key in ("observation", "desired_goal") if key in spec.keys()]  # noqa: SIM118
    return keys, sum(spec[key].shape[-1] for key in keys)


def mlp(
    in_features: int, out_features: int, num_cells: Sequence[int], device: torch.device
) -> nn.Module:
    """Build a perceptron with rectified linear units.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        num_cells: hidden units of each layer.
        device: the device.

    Returns:
        The network.
    """
    return MLP(
        in_features=in_features,
        out_features=out_features,
        num_cells=num_cells,
        activation_class=nn.ReLU,
        device=device,
    )


def tanh_mlp(
    in_features: int,
    num_cells: Sequence[int],
    out_features: int,
    gain: float,
    device: torch.device,
) -> MLP:
    """Build a perceptron with hyperbolic tangents and orthogonal weights.

    Args:
        in_features: number of inputs.
        num_cells: hidden units of each layer.
        out_features: number of outputs.
        gain: gain of the last layer's orthogonal weights.
        device: the device.

    Returns:
        The network.
    """
    network = MLP(
        in_features=in_features,
        out_features=out_features,
        num_cells=num_cells,
        activation_class=nn.Tanh,
        device=device,
    )
    *hidden, last = (layer for layer in network if isinstance(layer, nn.Linear))
    for layer in (*hidden, last):
        nn.init.orthogonal_(layer.weight, gain if layer is last else 2**0.5)
        nn.init.zeros_(layer.bias)
    return network


class _Standardize(nn.Module):
    """Standardisation of the first features by fixed means and standard deviations."""

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, num_features: int) -> None:
        super().__init__()
        rest = num_features - len(loc)
        self.register_buffer("loc", torch.cat([loc, torch.zeros(rest, device=loc.device)]))
        self.register_buffer("scale", torch.cat([scale, torch.ones(rest, device=loc.device)]))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.loc) / self.scale


def standardized_mlp(loc: Tensor | None = None, scale: Tensor | None = None) -> MakeNetwork:
    """Return a function that builds perceptrons of standardised states.

    Args:
        loc: means of the states, the first inputs; None for a network whose state is restored.
        scale: standard deviations of the states; None for a network whose state is restored.
    """

    def make(
        in_features: int, out_features: int, num_cells: Sequence[int], device: torch.device
    ) -> nn.Module:
        mean = torch.zeros(in_features) if loc is None else loc
        deviation = torch.ones(in_features) if scale is None else scale
        standardize = _Standardize(mean.to(device), deviation.to(device), in_features)
        return ConcatInputs(standardize, mlp(in_features, out_features, num_cells, device))

    return make


def make_qvalues(
    env: HasSpecs,
    spec: TensorSpec,
    num_cells: Sequence[int],
    device: torch.device,
    *,
    num: int,
    make: MakeNetwork = mlp,
) -> list[ValueOperator]:
    """Build critics Q(s, a) with independent initial weights.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Keyword Args:
        num: number of critics.
        make: function that builds the network of one critic.

    Returns:
        The critics.
    """
    in_keys, in_features = policy_inputs(env)
    in_features += spec.shape[-1]
    return [
        ValueOperator(make(in_features, 1, num_cells, device), in_keys=[*in_keys, "action"])
        for _ in range(num)
    ]
