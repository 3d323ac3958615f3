"""Networks of App. C, and the specs that they are built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import (
    AddStateIndependentNormalScale,
    InteractionType,
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torch.distributions import Distribution
from torchrl.data import Composite, TensorSpec
from torchrl.modules import (
    MLP,
    IndependentNormal,
    OneHotCategorical,
)

from torchrl_recall.checks import unraveled
from torchrl_recall.modules.ensemble import EnsembleDistribution, EnsembleMLP
from torchrl_recall.modules.standardization import Codec, ContinuousCodec

__all__ = ["leaf_spec", "probabilistic_mlp"]


def leaf_spec(spec: TensorSpec, key: NestedKey, name: str) -> TensorSpec:
    """Return the spec of one entry, without the batch dimensions of a composite.

    Args:
        spec: the entry's spec, or a composite that holds it.
        key: key of the entry.
        name: ``"observation"`` or ``"action"``, for the error.

    Returns:
        The spec of one entry.

    Raises:
        ValueError: the composite has no such entry.

    Examples:
        >>> from torchrl.data import Composite, Unbounded
        >>> from torchrl_recall.modules.appendix_c_networks import leaf_spec
        >>> batched = Composite(state=Unbounded((4, 3)), shape=(4,))
        >>> leaf_spec(batched, "state", "observation").shape
        torch.Size([3])
    """
    if not isinstance(spec, Composite):
        return spec
    spec = spec[(0,) * len(spec.shape)] if spec.shape else spec
    keys = [unraveled(k) for k in spec.keys(True, True)]
    if unraveled(key) not in keys:
        raise ValueError(
            f"the {name} spec has the entries {keys}, but not {key!r}. Name the right one with "
            f"{name}_key=; several entries can be joined with torchrl's CatTensors transform."
        )
    return spec[key]


def probabilistic_mlp(
    codec: Codec,
    *,
    in_features: int,
    in_keys: list[NestedKey],
    out_key: NestedKey,
    num_cells: Sequence[int],
    activation_class: type[nn.Module],
    unit_scale: bool = False,
    num_models: int = 1,
) -> ProbabilisticTensorDictSequential:
    """Build a perceptron with the head that fits a codec: Gaussian, categorical or one-hot.

    Args:
        codec: codec of the samples.

    Keyword Args:
        in_features: number of features of all inputs together.
        in_keys: entries to read, concatenated in this order.
        out_key: entry to write samples to.
        num_cells: hidden units of each layer.
        activation_class: activation function between the layers.
        unit_scale: whether the standard deviation of a Gaussian is fixed at one; otherwise it is
            learned.
        num_models: number of perceptrons; more than one form an ensemble.

    Returns:
        A module that reads ``in_keys`` and samples ``out_key``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Unbounded
        >>> from torchrl_recall.modules.appendix_c_networks import probabilistic_mlp
        >>> from torchrl_recall.modules.standardization import codec_from_spec
        >>> policy = probabilistic_mlp(
        ...     codec_from_spec(Unbounded((2,)), "action"), in_features=3,
        ...     in_keys=["observation"], out_key="action", num_cells=[8],
        ...     activation_class=torch.nn.Tanh,
        ... )
        >>> policy(TensorDict({"observation": torch.zeros(5, 3)}, [5]))["action"].shape
        torch.Size([5, 2])
    """
    continuous = isinstance(codec, ContinuousCodec)
    learned_scale = continuous and not unit_scale
    size = codec.num_features
    params = ["loc", "scale"] if continuous else ["logits"]
    shape: dict[str, Any] = {
        "in_features": in_features,
        "out_features": 2 * size if learned_scale else size,
        "num_cells": list(num_cells),
        "activation_class": activation_class,
    }
    mlp = MLP(**shape) if num_models == 1 else EnsembleMLP(num_models, **shape)
    modules = [TensorDictModule(mlp, in_keys=in_keys, out_keys=params[:1])]
    if learned_scale:
        # Deterministic physics would drive the scale to zero and the density to infinity.
        head: nn.Module = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=1e-2)
        modules.append(TensorDictModule(head, in_keys=params[:1], out_keys=params))
    elif continuous:
        head = AddStateIndependentNormalScale(size, make_param=False)
        modules.append(TensorDictModule(head, in_keys=params[:1], out_keys=params))
    distribution: Callable[..., Distribution] = (
        IndependentNormal
        if continuous
        else OneHotCategorical
        if codec.one_hot
        else torch.distributions.Categorical
    )
    if num_models > 1:
        distribution = partial(EnsembleDistribution, distribution)
    return ProbabilisticTensorDictSequential(
        *modules,
        ProbabilisticTensorDictModule(
            in_keys=params,
            out_keys=[out_key],
            distribution_class=distribution,
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
