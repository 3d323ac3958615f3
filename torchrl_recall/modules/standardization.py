"""Codecs of states and actions, which convert environment units to network inputs and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrl.data import Binary, Categorical, MultiCategorical, MultiOneHot, OneHot, TensorSpec
from torchrl.modules import RunningValueNorm

__all__ = ["Codec", "ContinuousCodec", "DiscreteCodec", "codec_from_spec"]


_ZERO = 1e-20  # variance; arithmetic alone can move a value that is zero by so much


class ContinuousCodec(RunningValueNorm):
    """Codec of a vector of floats, standardised with a running mean and variance.

    Only the mean is subtracted before the first update, and in dimensions that do not vary.
    Division by a small constant would amplify rounding noise there.

    Args:
        spec: a floating-point spec of shape ``[dim]``. Samples are clamped to its bounds, if any.

    Keyword Args:
        standardize: whether networks read and write standardised values. The statistics are there
            in any case.

    Examples:
        >>> import torch
        >>> from torchrl.data import Unbounded
        >>> from torchrl_recall.modules.standardization import ContinuousCodec
        >>> codec = ContinuousCodec(Unbounded((2,)))
        >>> codec.update(torch.tensor([[0.0, 5.0], [4.0, 5.0]]))
        >>> codec.features(torch.tensor([4.0, 6.0]))
        tensor([1., 1.])
    """

    one_hot = False

    def __init__(self, spec: TensorSpec, *, standardize: bool = True) -> None:
        super().__init__(shape=tuple(spec.shape), epsilon=1e-10)
        self.standardize = standardize
        if not standardize:  # so that no state dict of standardised networks is loaded, nor back
            self.register_buffer("raw_units", torch.ones(()))
        self.dtype = spec.dtype
        self.num_features = spec.shape[-1]
        space = spec.space
        bounded = hasattr(space, "low")
        self.register_buffer("low", space.low.clone() if bounded else None, persistent=False)
        self.register_buffer("high", space.high.clone() if bounded else None, persistent=False)

    def _var(self) -> Tensor:
        variance = self.m2 / self.count.clamp(min=1.0)
        varies = variance > self.epsilon * self.mean.square() + _ZERO  # more than by rounding
        return torch.where(varies, variance, torch.ones_like(variance))

    def update(self, value: Tensor) -> None:
        """Add a batch of values in environment units to the running statistics.

        Args:
            value: values of shape ``[*batch, dim]``, environment units.
        """
        super().update(value.to(self.mean.dtype))

    def features(self, value: Tensor) -> Tensor:
        """Return standardised values ``[*batch, dim]``, the inputs of networks.

        Args:
            value: values of shape ``[*batch, dim]``, environment units.
        """
        value = value.to(self.mean.dtype)
        return self.normalize(value) if self.standardize else value

    def target(self, value: Tensor) -> Tensor:
        """Return standardised values ``[*batch, dim]``, whose log-density is computed.

        Args:
            value: values of shape ``[*batch, dim]``, environment units.
        """
        return self.features(value)

    def decode(self, sample: Tensor) -> Tensor:
        """Return a standardised sample in environment units.

        Args:
            sample: standardised values of shape ``[*batch, dim]``.
        """
        return (self.denormalize(sample) if self.standardize else sample).to(self.dtype)

    def clamp(self, value: Tensor) -> Tensor:
        """Return the value clamped to the bounds of the spec, if it has any.

        Args:
            value: values of shape ``[*batch, dim]``, environment units.
        """
        if self.low is None:
            return value
        return value.clamp(self.low.to(value.dtype), self.high.to(value.dtype))

    def log_abs_det(self) -> Tensor | float:
        """Return the log-determinant that converts standardised densities to environment units."""
        return -self.scale().log().sum() if self.standardize else 0.0


class DiscreteCodec(nn.Module):
    """Codec of a discrete value that is stored as an index or as a one-hot vector.

    Args:
        spec: a ``Categorical`` spec of shape ``[]`` or a ``OneHot`` spec of shape ``[n]``.

    Keyword Args:
        as_index: whether networks receive the index instead of the one-hot vector.

    Examples:
        >>> import torch
        >>> from torchrl.data import Categorical
        >>> from torchrl_recall.modules.standardization import DiscreteCodec
        >>> DiscreteCodec(Categorical(3)).features(torch.tensor(1))
        tensor([0., 1., 0.])
    """

    def __init__(self, spec: TensorSpec, *, as_index: bool = False) -> None:
        super().__init__()
        self.dtype = spec.dtype
        self.one_hot = isinstance(spec, OneHot)
        self.as_index = as_index
        self.num_features = int(spec.space.n)

    def update(self, value: Tensor) -> None:
        """Do nothing: categories have no statistics.

        Args:
            value: ignored.
        """

    def features(self, value: Tensor) -> Tensor:
        """Return one-hot floats, shape ``[*batch, n]``, or indices, shape ``[*batch]``.

        Args:
            value: values in the form of the spec, any batch shape.
        """
        if self.as_index:
            return value.long().argmax(-1) if self.one_hot else value.long()
        if not self.one_hot:
            value = F.one_hot(value.long(), self.num_features)
        return value.to(torch.get_default_dtype())

    def target(self, value: Tensor) -> Tensor:
        """Return the value whose log-probability is computed, as an index or one-hot vector.

        Args:
            value: values in the form of the spec, any batch shape.
        """
        return value.long()

    def decode(self, sample: Tensor) -> Tensor:
        """Return a sample in the dtype of the spec.

        Args:
            sample: indices or one-hot vectors, any batch shape.
        """
        return sample.to(self.dtype)

    def clamp(self, value: Tensor) -> Tensor:
        """Return the value unchanged: a discrete value cannot be out of bounds.

        Args:
            value: values in the form of the spec, any batch shape.
        """
        return value

    def log_abs_det(self) -> float:
        """Return zero: categories are not rescaled."""
        return 0.0


Codec = ContinuousCodec | DiscreteCodec


def codec_from_spec(
    spec: TensorSpec, name: str, *, as_index: bool = False, standardize: bool = True
) -> Codec:
    """Make the codec that fits the spec of a state or an action.

    Args:
        spec: spec of the state or action, without batch dimensions.
        name: name of the entry, for the error.

    Keyword Args:
        as_index: whether networks receive discrete values as indices instead of one-hot vectors.
        standardize: whether networks read and write standardised floats.

    Returns:
        A continuous codec for vectors of floats, and a discrete one for categories.

    Raises:
        ValueError: the spec is of another kind.

    Examples:
        >>> from torchrl.data import OneHot, Unbounded
        >>> from torchrl_recall.modules.standardization import codec_from_spec
        >>> codec_from_spec(Unbounded((3,)), "observation").num_features
        3
        >>> type(codec_from_spec(OneHot(4), "action")).__name__
        'DiscreteCodec'
    """
    if not isinstance(spec, Binary | MultiCategorical | MultiOneHot):
        if isinstance(spec, OneHot) and len(spec.shape) == 1:
            return DiscreteCodec(spec, as_index=as_index)
        if isinstance(spec, Categorical) and not isinstance(spec, OneHot) and not spec.shape:
            return DiscreteCodec(spec, as_index=as_index)
        if spec.dtype.is_floating_point and len(spec.shape) == 1:
            return ContinuousCodec(spec, standardize=standardize)
    raise ValueError(
        f"the {name} spec is {type(spec).__name__}{tuple(spec.shape)} of {spec.dtype}; a "
        "backtracking model handles a vector of floats, a Categorical of shape () or a OneHot. "
        "Flatten or join entries with torchrl's FlattenObservation and CatTensors, encode pixels "
        "with an encoder transform, and take the spec without batch dimensions "
        "(env.observation_spec_unbatched)."
    )
