"""Conversion of nested states to JSON and a flat dictionary of tensors, without pickle."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

__all__ = ["MOST_BYTES", "pack", "unpack"]

MOST_BYTES = 8  # of a number that a tensor holds


def pack(node: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """Convert a state to plain JSON, in which tensors are references into ``tensors``.

    Args:
        node: tensors, tensordicts, arrays, numbers, text, and containers of these.
        tensors: dictionary to which tensors are added.
        name: name of the state, for errors.

    Returns:
        Values that ``json.dumps`` accepts.

    Raises:
        TypeError: the state holds an object of another type.
    """
    if isinstance(node, torch.Tensor):
        tensor = node.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or any(
            tensor.data_ptr() == other.data_ptr() for other in tensors.values()
        ):
            tensor = tensor.clone()
        reference = str(len(tensors))
        tensors[reference] = tensor
        return {"tensor": reference}
    if isinstance(node, TensorDictBase):
        items = [
            [list(key) if isinstance(key, tuple) else key, value]
            for key, value in sorted(node.items(True, True), key=lambda item: str(item[0]))
        ]
        return {"tensordict": pack(items, tensors, name), "batch_size": list(node.batch_size)}
    if isinstance(node, np.ndarray):
        if node.dtype.kind not in "biuf" or node.dtype.itemsize > MOST_BYTES:
            raise TypeError(f"{name} is an ndarray of {node.dtype}, which no checkpoint holds.")
        native = node.astype(node.dtype.newbyteorder("="))
        return {"array": pack(torch.from_numpy(native), tensors, name)}
    if isinstance(node, dict):
        for key in node:
            if key is not None and not isinstance(key, str | int | float):
                raise TypeError(
                    f"{name} has the key {key!r}, a {type(key).__name__}; no checkpoint holds it."
                )
        return {"dict": [[k, pack(v, tensors, f"{name}.{k}")] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [pack(v, tensors, f"{name}.{i}") for i, v in enumerate(node)]}
    if isinstance(node, np.number | np.bool_):  # float64 is a float too, but keeps its type
        return {"scalar": pack(np.asarray(node), tensors, name)}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{name} is a {type(node).__name__}, which a checkpoint does not hold.")


def unpack(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Convert the result of :func:`pack` back to a state.

    Args:
        node: result of :func:`pack`.
        tensors: tensors to which ``node`` refers.

    Returns:
        The state.
    """
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "tensordict" in node:
        out = TensorDict({}, batch_size=node["batch_size"])
        for key, value in unpack(node["tensordict"], tensors):
            out.set(tuple(key) if isinstance(key, list) else key, value)
        return out
    if "array" in node:
        return unpack(node["array"], tensors).numpy()
    if "scalar" in node:
        return unpack(node["scalar"], tensors)[()]
    if "dict" in node:
        return OrderedDict((k, unpack(v, tensors)) for k, v in node["dict"])
    kind, values = next(iter(node.items()))
    unpacked = [unpack(v, tensors) for v in values]
    return tuple(unpacked) if kind == "tuple" else unpacked
