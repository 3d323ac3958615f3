"""The networks of App. C, and the specs that they are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

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
from tensordict.utils import unravel_key
from torch import nn
from torchrl.data import Composite, TensorSpec
from torchrl.modules import (
    MLP,
    IndependentNormal,
    OneHotCategorical,
)

from torchrl_recall.modules.standardization import ContinuousVariable, Variable

__all__ = ["leaf_spec", "probabilistic_mlp"]


def leaf_spec(spec: TensorSpec, key: NestedKey, name: str) -> TensorSpec:
    if not isinstance(spec, Composite):
        return spec
    spec = spec[(0,) * len(spec.shape)] if spec.shape else spec
    keys = [cast(NestedKey, unravel_key(k)) for k in spec.keys(True, True)]
    if unravel_key(key) not in keys:
        raise ValueError(
            f"the {name} spec has the entries {keys}, but not {key!r}. Name the right one with "
            f"{name}_key=; several entries can be joined with torchrl's CatTensors transform."
        )
    return spec[key]


def probabilistic_mlp(
    variable: Variable,
    *,
    in_features: int,
    in_keys: list[NestedKey],
    out_key: NestedKey,
    num_cells: Sequence[int],
    activation_class: type[nn.Module],
    unit_scale: bool = False,
) -> ProbabilisticTensorDictSequential:
    """A perceptron with the head that fits the variable: Gaussian, categorical or one-hot."""
    continuous = isinstance(variable, ContinuousVariable)
    learned_scale = continuous and not unit_scale
    size = variable.num_features
    params = ["loc", "scale"] if continuous else ["logits"]
    mlp = MLP(
        in_features=in_features,
        out_features=2 * size if learned_scale else size,
        num_cells=list(num_cells),
        activation_class=activation_class,
    )
    modules = [TensorDictModule(mlp, in_keys=in_keys, out_keys=params[:1])]
    if learned_scale:
        # Deterministic physics would drive the scale to zero and the density to infinity.
        head: nn.Module = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=1e-2)
        modules.append(TensorDictModule(head, in_keys=params[:1], out_keys=params))
    elif continuous:
        head = AddStateIndependentNormalScale(size, make_param=False)
        modules.append(TensorDictModule(head, in_keys=params[:1], out_keys=params))
    distribution = (
        IndependentNormal
        if continuous
        else OneHotCategorical
        if variable.one_hot
        else torch.distributions.Categorical
    )
    return ProbabilisticTensorDictSequential(
        *modules,
        ProbabilisticTensorDictModule(
            in_keys=params,
            out_keys=[out_key],
            distribution_class=distribution,
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
