"""How states and actions enter and leave the networks of a backtracking model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrl.data import Binary, Categorical, MultiCategorical, MultiOneHot, OneHot, TensorSpec
from torchrl.modules import RunningValueNorm

__all__ = ["ContinuousVariable", "DiscreteVariable", "Variable", "variable_from_spec"]


class ContinuousVariable(RunningValueNorm):
    """A vector of floats, standardised with a running mean and variance.

    Before the first update, and in dimensions that do not vary, it is the identity up to the
    mean: dividing by a floor would amplify rounding noise instead.

    Args:
        spec: a floating-point spec of shape ``[dim]``; its bounds, if it has any, clamp.

    Examples:
        >>> import torch
        >>> from torchrl.data import Unbounded
        >>> from torchrl_recall.modules.standardization import ContinuousVariable
        >>> variable = ContinuousVariable(Unbounded((2,)))
        >>> variable.update(torch.tensor([[0.0, 5.0], [4.0, 5.0]]))
        >>> variable.features(torch.tensor([4.0, 6.0]))
        tensor([1., 1.])
    """

    one_hot = False

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(shape=tuple(spec.shape), epsilon=1e-10)
        self.dtype = spec.dtype
        self.num_features = spec.shape[-1]
        space = spec.space
        bounded = hasattr(space, "low")
        self.register_buffer("low", space.low.clone() if bounded else None, persistent=False)
        self.register_buffer("high", space.high.clone() if bounded else None, persistent=False)

    def _var(self) -> Tensor:
        variance = self.m2 / self.count.clamp(min=1.0)
        varies = variance > self.epsilon * (1.0 + self.mean.square())
        return torch.where(varies, variance, torch.ones_like(variance))

    def update(self, value: Tensor) -> None:
        """Fold a batch of values in environment units into the running statistics."""
        super().update(value.to(self.mean.dtype))

    def features(self, value: Tensor) -> Tensor:
        """Environment units to standardised network inputs."""
        return self.normalize(value.to(self.mean.dtype))

    def target(self, value: Tensor) -> Tensor:
        """Environment units to what the distribution scores."""
        return self.features(value)

    def decode(self, sample: Tensor) -> Tensor:
        """A standardised sample back to environment units."""
        return self.denormalize(sample).to(self.dtype)

    def clamp(self, value: Tensor) -> Tensor:
        """Clamp to the bounds of the spec; values without bounds are left alone."""
        return value if self.low is None else value.clamp(self.low, self.high)

    def log_abs_det(self) -> Tensor:
        """Log-determinant of the standardisation, which makes densities those of the data."""
        return -self.scale().log().sum()


class DiscreteVariable(nn.Module):
    """A category, given as an index or as a one-hot vector.

    Args:
        spec: a ``Categorical`` spec of shape ``[]`` or a ``OneHot`` spec of shape ``[n]``.
        as_index: whether networks see the index; else they see the one-hot vector.
    """

    def __init__(self, spec: TensorSpec, *, as_index: bool = False) -> None:
        super().__init__()
        self.dtype = spec.dtype
        self.one_hot = isinstance(spec, OneHot)
        self.as_index = as_index
        self.num_features = int(spec.space.n)

    def update(self, value: Tensor) -> None:
        """Categories have no statistics."""

    def features(self, value: Tensor) -> Tensor:
        """One-hot floats, shape ``[*batch, n]``, or indices, shape ``[*batch]``."""
        if self.as_index:
            return value.long().argmax(-1) if self.one_hot else value.long()
        if not self.one_hot:
            value = F.one_hot(value.long(), self.num_features)
        return value.to(torch.get_default_dtype())

    def target(self, value: Tensor) -> Tensor:
        """What the distribution scores: an integer index or one-hot vector."""
        return value.long()

    def decode(self, sample: Tensor) -> Tensor:
        """A sample in the dtype of the spec."""
        return sample.to(self.dtype)

    def clamp(self, value: Tensor) -> Tensor:
        """Categories are always within their space."""
        return value

    def log_abs_det(self) -> float:
        """Categories are not rescaled."""
        return 0.0


Variable = ContinuousVariable | DiscreteVariable


def variable_from_spec(spec: TensorSpec, name: str, *, as_index: bool = False) -> Variable:
    """Choose how a state or an action is represented.

    Args:
        spec: its spec, without batch dimensions.
        name: what to call it in an error.
        as_index: whether networks see categories as indices.

    Returns:
        A continuous variable for vectors of floats, a discrete one for categories.

    Raises:
        ValueError: the spec is something else.
    """
    if not isinstance(spec, Binary | MultiCategorical | MultiOneHot):
        if isinstance(spec, OneHot) and len(spec.shape) == 1:
            return DiscreteVariable(spec, as_index=as_index)
        if isinstance(spec, Categorical) and not isinstance(spec, OneHot) and not spec.shape:
            return DiscreteVariable(spec, as_index=as_index)
        if spec.dtype.is_floating_point and len(spec.shape) == 1:
            return ContinuousVariable(spec)
    raise ValueError(
        f"the {name} spec is {type(spec).__name__}{tuple(spec.shape)} of {spec.dtype}; a "
        "backtracking model handles a vector of floats, a Categorical of shape () or a OneHot. "
        "Flatten or join entries with torchrl's FlattenObservation and CatTensors, encode pixels "
        "with an encoder transform, and take the spec without batch dimensions "
        "(env.observation_spec_unbatched)."
    )
