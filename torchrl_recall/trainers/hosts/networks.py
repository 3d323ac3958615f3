"""Networks of all hosts; inputs are the observation and, if the task has goals, the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from tensordict import NestedKey
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Composite, TensorSpec
from torchrl.modules import (
    MLP,
    IndependentNormal,
    ProbabilisticActor,
    QValueActor,
    TanhModule,
    TanhNormal,
    ValueOperator,
)

__all__ = [
    "ConcatInputs",
    "GaussianParameters",
    "HasSpecs",
    "MakeNetwork",
    "bounded_gaussian_actor",
    "deterministic_actor",
    "gaussian_actor",
    "greedy_actor",
    "make_qvalues",
    "mlp",
    "policy_inputs",
    "squashed_actor",
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


class GaussianParameters(nn.Module):
    """Split of a network's output into mean and standard deviation, before squashing.

    The logarithm of the standard deviation is clamped to [-20, 2], as in Haarnoja et al. (2018).
    TorchRL's default extractor has a lower bound of 0.1, with which a policy of SAC cannot become
    precise.
    """

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Split parameters into mean and standard deviation.

        Args:
            parameters: output of the network, shape ``[*batch, 2 * dim]``.

        Returns:
            Mean and standard deviation, shape ``[*batch, dim]`` each.
        """
        loc, log_scale = parameters.chunk(2, -1)
        return loc, log_scale.clamp(-20.0, 2.0).exp()


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


def squashed_actor(
    env: HasSpecs,
    spec: TensorSpec,
    num_cells: Sequence[int],
    device: torch.device,
    *,
    make: MakeNetwork = mlp,
) -> ProbabilisticActor:
    """Build a policy that is a Gaussian, squashed into the bounds of the action.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Keyword Args:
        make: function that builds the network.

    Returns:
        The policy.
    """
    in_keys, in_features = policy_inputs(env)
    out_features = 2 * spec.shape[-1]
    policy = make(in_features, out_features, num_cells, device)
    return ProbabilisticActor(
        TensorDictModule(ConcatInputs(policy, GaussianParameters()), in_keys, ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
        return_log_prob=False,
    )


def gaussian_actor(
    env: HasSpecs, spec: TensorSpec, num_cells: Sequence[int], device: torch.device
) -> ProbabilisticActor:
    """Build a policy that is a Gaussian with the same standard deviation in all states.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Returns:
        The policy.
    """
    in_keys, in_features = policy_inputs(env)
    action_dim = spec.shape[-1]
    scale = AddStateIndependentNormalScale(action_dim, scale_mapping="exp", device=device)
    network = ConcatInputs(tanh_mlp(in_features, num_cells, action_dim, 0.01, device), scale)
    return _normal_actor(network, in_keys, spec)


class _Bounds(nn.Module):
    """Tanh, scaled to the bounds of an action."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__()
        for end in ("low", "high"):
            self.register_buffer(end, getattr(spec.space, end).clone(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.low + (values.tanh() + 1) / 2 * (self.high - self.low)


def bounded_gaussian_actor(
    env: HasSpecs, spec: TensorSpec, num_cells: Sequence[int], device: torch.device
) -> ProbabilisticActor:
    """Build a policy that is a Gaussian around an action within its bounds, as in IQL.

    The standard deviation is the same in all states.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Returns:
        The policy.
    """
    in_keys, in_features = policy_inputs(env)
    action_dim = spec.shape[-1]
    scale = AddStateIndependentNormalScale(action_dim, scale_mapping="exp", device=device)
    mean = mlp(in_features, action_dim, num_cells, device)
    return _normal_actor(ConcatInputs(mean, _Bounds(spec), scale), in_keys, spec)


def _normal_actor(
    network: nn.Module, in_keys: Sequence[NestedKey], spec: TensorSpec
) -> ProbabilisticActor:
    """Wrap a network of mean and standard deviation into an unbounded Gaussian policy."""
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=in_keys, out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=IndependentNormal,
        return_log_prob=False,
    )


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


def deterministic_actor(
    env: HasSpecs,
    spec: TensorSpec,
    num_cells: Sequence[int],
    device: torch.device,
    *,
    make: MakeNetwork = mlp,
) -> TensorDictSequential:
    """Build a deterministic policy, squashed into the bounds of the action.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Keyword Args:
        make: function that builds the network.

    Returns:
        The policy.
    """
    in_keys, in_features = policy_inputs(env)
    network = make(in_features, spec.shape[-1], num_cells, device)
    squash = TanhModule(in_keys=["action"], spec=spec, low=spec.space.low, high=spec.space.high)
    return TensorDictSequential(TensorDictModule(network, in_keys, ["action"]), squash)


def greedy_actor(
    env: HasSpecs, spec: TensorSpec, num_cells: Sequence[int], device: torch.device
) -> QValueActor:
    """Build a policy that takes the action of the highest value.

    Args:
        env: environment whose specs give the inputs.
        spec: spec of the action.
        num_cells: hidden units of each layer.
        device: the device.

    Returns:
        The policy.
    """
    in_keys, in_features = policy_inputs(env)
    network = mlp(in_features, spec.shape[-1], num_cells, device)
    return QValueActor(network, in_keys=in_keys, spec=spec)


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
