"""Specs of observations and actions as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torchrl.data import Bounded, Composite, OneHot, TensorSpec, Unbounded

from torchrl_recall.trainers.schema.group import ConfigError

__all__ = ["Specs", "from_json", "to_json"]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
}


@dataclass(frozen=True)
class Specs:
    """Specs of a task, which replace the task itself when networks are built.

    Attributes:
        observation_spec_unbatched: spec of an observation.
        action_spec_unbatched: spec of an action.
    """

    observation_spec_unbatched: Composite
    action_spec_unbatched: TensorSpec


def to_json(spec: TensorSpec) -> dict[str, Any]:
    """Describe the spec of a vector of floats or of a one-hot vector as JSON.

    Args:
        spec: a spec without batch dimensions.

    Returns:
        A dictionary of JSON values.

    Raises:
        ConfigError: the spec is of another kind.

    Examples:
        >>> from torchrl.data import OneHot
        >>> from torchrl_recall.trained.specs import from_json, to_json
        >>> to_json(OneHot(3))
        {'kind': 'one_hot', 'n': 3, 'dtype': 'bool'}
        >>> from_json(to_json(OneHot(3))) == OneHot(3)
        True
    """
    dtype = str(spec.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or len(spec.shape) != 1:
        raise ConfigError(
            f"a {type(spec).__name__} of shape {tuple(spec.shape)} and {spec.dtype} cannot be "
            f"exported; vectors of {', '.join(_DTYPES)} can. Transform the task's entries."
        )
    if isinstance(spec, OneHot):
        return {"kind": "one_hot", "n": int(spec.space.n), "dtype": dtype}
    if isinstance(spec, Bounded):
        bounds = {end: _numbers(getattr(spec.space, end)) for end in ("low", "high")}
        return {"kind": "bounded", **bounds, "dtype": dtype}
    if isinstance(spec, Unbounded):
        return {"kind": "unbounded", "size": spec.shape[-1], "dtype": dtype}
    raise ConfigError(f"a {type(spec).__name__} cannot be exported; vectors and categories can.")


def from_json(node: dict[str, Any]) -> TensorSpec:
    """Build the spec that :func:`to_json` described.

    Args:
        node: result of :func:`to_json`.

    Returns:
        The spec.

    Raises:
        KeyError: a value is missing, or of no known kind.
        TypeError: a value is unknown.
    """
    node = dict(node)
    kind, dtype = node.pop("kind"), _DTYPES[node.pop("dtype")]
    return _KINDS[kind](dtype, **node)


def _one_hot(dtype: torch.dtype, *, n: int) -> TensorSpec:
    return OneHot(n, dtype=dtype)


def _bounded(dtype: torch.dtype, *, low: list, high: list) -> TensorSpec:
    low, high = ([float(x) for x in end] for end in (low, high))
    return Bounded(
        torch.tensor(low, dtype=dtype), torch.tensor(high, dtype=dtype), (len(low),), dtype=dtype
    )


def _unbounded(dtype: torch.dtype, *, size: int) -> TensorSpec:
    return Unbounded((size,), dtype=dtype)


def _numbers(bounds: torch.Tensor) -> list[float | str]:
    """Return bounds as numbers, and infinity as text, because JSON has no infinity."""
    return [x if math.isfinite(x) else str(x) for x in bounds.flatten().tolist()]


_KINDS: dict[str, Callable[..., TensorSpec]] = {
    "one_hot": _one_hot, "bounded": _bounded, "unbounded": _unbounded
}  # fmt: skip
