"""Policies of all hosts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import TensorSpec
from torchrl.modules import (
    IndependentNormal,
    ProbabilisticActor,
    QValueActor,
    TanhModule,
    TanhNormal,
)

from torchrl_recall.trainers.hosts.networks import (
    ConcatInputs,
    HasSpecs,
    MakeNetwork,
    mlp,
    policy_inputs,
    tanh_mlp,
)

__all__ = [
    "GaussianParameters",
    "bounded_gaussian_actor",
    "deterministic_actor",
    "gaussian_actor",
    "greedy_actor",
    "squashed_actor",
]


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
