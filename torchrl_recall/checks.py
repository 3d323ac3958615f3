"""Checks of arguments and tensordict entries, each with its error message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import unravel_key
from torch import Tensor
from torchrl.data import TensorSpec

__all__ = [
    "all_finite",
    "at_least",
    "check_masks",
    "check_single_steps",
    "next_key",
    "positive",
    "require",
    "same_batch",
    "same_dtype",
    "unraveled",
]


def all_finite(entries: Mapping[NestedKey, Tensor]) -> None:
    """Refuse entries that would spoil running statistics.

    Args:
        entries: tensors by their keys.

    Raises:
        ValueError: an entry holds NaN or infinity.

    Examples:
        >>> import torch
        >>> from torchrl_recall.checks import all_finite
        >>> all_finite({"action": torch.tensor([0.5])})
        >>> all_finite({"action": torch.tensor([torch.nan])})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: 'action' holds NaN or infinity; the statistics were left as they were. ...
    """
    for key, value in entries.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{key!r} holds NaN or infinity; the statistics were left as they were. Find the "
                "environment step that produced it and drop it from the data."
            )


def at_least(least: int, **named: object) -> None:
    """Refuse arguments that are not integers of at least a given size.

    Args:
        least: the smallest integer to accept.

    Keyword Args:
        named: the arguments, by name.

    Raises:
        ValueError: an argument is smaller, a bool or no integer.

    Examples:
        >>> from torchrl_recall.checks import at_least
        >>> at_least(1, num_states=16, num_traces=1)
        >>> at_least(1, num_states=0)
        Traceback (most recent call last):
            ...
        ValueError: num_states must be an integer of at least 1, got 0.
    """
    for name, value in named.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def check_masks(filters: Sequence[TensorDictModuleBase]) -> list[TensorDictModuleBase]:
    """Refuse what is no sequence of filters, and filters whose mask nothing reads.

    Args:
        filters: modules that narrow the mask of traces.

    Returns:
        The filters.

    Raises:
        TypeError: there is one filter and no sequence, or a class and no object of it.
        ValueError: the mask of a filter has another key than ``"mask"``.

    Examples:
        >>> from torchrl_recall import LoopErasure
        >>> from torchrl_recall.checks import check_masks
        >>> check_masks([LoopErasure(0.5, mask_key="keep")])
        Traceback (most recent call last):
            ...
        ValueError: LoopErasure writes the mask 'keep', but 'mask' is read; leave mask_key= out.
    """
    if not isinstance(filters, Iterable):
        raise TypeError(f"filters are a sequence, got {type(filters).__name__}; give [filter].")
    filters = list(filters)
    for each in filters:
        if isinstance(each, type):
            raise TypeError(f"{each.__name__} is a class; give an object, {each.__name__}(...).")
        key = unraveled(getattr(each, "mask_key", "mask"))
        if key != "mask":
            raise ValueError(
                f"{type(each).__name__} writes the mask {key!r}, but 'mask' is read; leave "
                "mask_key= out."
            )
    return filters


def positive(**named: float) -> None:
    """Refuse arguments that are zero, negative or NaN.

    Keyword Args:
        named: the arguments, by name.

    Raises:
        ValueError: an argument is not positive.

    Examples:
        >>> from torchrl_recall.checks import positive
        >>> positive(lr=1e-3)
        >>> positive(lr=0.0)
        Traceback (most recent call last):
            ...
        ValueError: lr must be positive, got 0.0.
    """
    for name, value in named.items():
        if not value > 0:  # True for NaN
            raise ValueError(f"{name} must be positive, got {value}.")


def require(
    tensordict: TensorDictBase,
    key: NestedKey,
    reader: str,
    cure: str,
    *,
    shape: Sequence[int] = (),
) -> Tensor:
    """Return an entry, or raise an error that says who needs it and how to provide it.

    Args:
        tensordict: data that should hold the entry.
        key: key of the entry.
        reader: name of the class or function that needs the entry, for the error.
        cure: advice about a missing entry, as a sentence.

    Keyword Args:
        shape: shape of its spec, the last dimensions.

    Returns:
        The entry.

    Raises:
        KeyError: there is no such entry.
        ValueError: it has another shape.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.checks import require
        >>> data = TensorDict({"observation": torch.zeros(2)}, [2])
        >>> require(data, "observation", "ImitationLoss", cure="Rename it.")
        tensor([0., 0.])
        >>> require(data, "action", "ImitationLoss", cure="Rename it.")
        Traceback (most recent call last):
            ...
        KeyError: "ImitationLoss reads 'action', which is not among ['observation']. Rename it."
    """
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(
            f"{reader} reads {key!r}, which is not among "
            f"{sorted(map(str, tensordict.keys(True, True)))}. {cure}"
        )
    if tuple(value.shape[value.ndim - len(shape) :]) != tuple(shape):
        raise ValueError(
            f"{key!r} has shape {tuple(value.shape)}; expected the batch's shape followed by "
            f"{tuple(shape)}, the shape of its spec."
        )
    return value


def check_single_steps(data: TensorDictBase, holder: str, cure: str) -> None:
    """Refuse transitions of several steps, of which no backtracking model can learn.

    Args:
        data: transitions of any batch shape.
        holder: what the transitions are in, for the error.
        cure: advice, as a sentence.

    Raises:
        ValueError: a transition has more than one step.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.checks import check_single_steps
        >>> data = TensorDict({"steps_to_next_obs": torch.tensor([1, 1, 3])}, [3])
        >>> check_single_steps(data[:2], "the replay buffer", "Give single steps.")
        >>> check_single_steps(data, "experience", "Give single steps.")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: experience holds transitions of several steps (MultiStep), of which ...
    """
    steps = data.get("steps_to_next_obs", None)
    if steps is not None and (steps > 1).any():
        raise ValueError(
            f"{holder} holds transitions of several steps (MultiStep), of which no backtracking "
            f"model can learn s_t from s_{{t+1}}. {cure}"
        )


def same_batch(entries: Mapping[NestedKey, tuple[Tensor, Sequence[int]]]) -> None:
    """Refuse entries of different batch shapes, as of an action in another encoding.

    Args:
        entries: tensors and the shapes of their specs, by key.

    Raises:
        ValueError: the batch shapes differ.

    Examples:
        >>> import torch
        >>> from torchrl_recall.checks import same_batch
        >>> same_batch({"action": (torch.zeros(8), ()), "observation": (torch.zeros(8, 3), (3,))})
    """
    batches = {key: x.shape[: x.ndim - len(shape)] for key, (x, shape) in entries.items()}
    if len(set(batches.values())) > 1:
        found = ", ".join(f"{key!r} has {tuple(shape)}" for key, shape in batches.items())
        specs = ", ".join(f"{key!r} of {tuple(shape)}" for key, (_, shape) in entries.items())
        raise ValueError(
            f"batch shapes differ: {found}. The model's specs are {specs}; build it with the specs "
            "of the data's own encoding, one-hot or categorical."
        )


def same_dtype(name: str, value: Tensor, spec: TensorSpec) -> None:
    """Refuse values of another dtype than that of their spec.

    Args:
        name: name of the values, for the error.
        value: values of any shape.
        spec: their spec.

    Raises:
        ValueError: the dtypes differ.

    Examples:
        >>> import torch
        >>> from torchrl.data import Unbounded
        >>> from torchrl_recall.checks import same_dtype
        >>> same_dtype("'observation'", torch.zeros(3), Unbounded((3,)))
        >>> same_dtype("'observation'", torch.zeros(3).double(), Unbounded((3,)))
        Traceback (most recent call last):
            ...
        ValueError: 'observation' is of torch.float64, but its spec is of torch.float32. Convert \
it with .to(torch.float32), or use torchrl's DoubleToFloat.
    """
    if value.dtype != spec.dtype:
        raise ValueError(
            f"{name} is of {value.dtype}, but its spec is of {spec.dtype}. Convert it with "
            f".to({spec.dtype}), or use torchrl's DoubleToFloat."
        )


def unraveled(key: NestedKey) -> NestedKey:
    """Return a key in TensorDict's canonical form: a string, or a flat tuple of strings.

    Args:
        key: a key of any nesting.

    Returns:
        The same key, without nested tuples or tuples of one string.

    Examples:
        >>> from torchrl_recall.checks import unraveled
        >>> unraveled(("observation",)), unraveled((("agent", "state"), "position"))
        ('observation', ('agent', 'state', 'position'))
    """
    return cast(NestedKey, unravel_key(key))


def next_key(key: NestedKey) -> NestedKey:
    """Return the key of the same entry in the next step, under ``"next"``.

    Args:
        key: a key of any nesting.

    Returns:
        The nested key that begins with ``"next"``.

    Examples:
        >>> from torchrl_recall.checks import next_key
        >>> next_key("observation"), next_key(("agent", "state"))
        (('next', 'observation'), ('next', 'agent', 'state'))
    """
    return unraveled(("next", key))  # type: ignore[arg-type]
