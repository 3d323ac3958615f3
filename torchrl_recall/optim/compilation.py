"""Compiled functions that cost little to call and fall back to eager ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["compile_function", "with_fallback"]

# What a call checks of objects other than its arguments. That no attribute, hook or submodule was
# added or replaced would be a thousand checks more for a tensordict module, and take as long as a
# small network does.
_GUARDS = {
    "CONSTANT_MATCH",
    "DEFAULT_DEVICE",
    "DETERMINISTIC_ALGORITHMS",
    "EQUALS_MATCH",
    "GLOBAL_STATE",
    "GRAD_MODE",
    "ID_MATCH",
    "SHAPE_ENV",
    "TENSOR_MATCH",
}


def compile_function(
    function: Callable[..., Any], *, any_size: bool = False, settled: Sequence[int] = ()
) -> Callable[..., Any]:
    """``torch.compile`` as all of this package uses it.

    One graph for each shape, or one for all, but never one that was chosen by the calls before, so
    that the bits of a result depend on its arguments alone; random numbers are those of eager mode
    on a CPU (inductor's own generator is slow there). Each call checks everything about its
    arguments, and tensors, single numbers and flags of the objects behind the function. What those
    are made of must not change after the first call: their attributes, hooks, submodules, lists and
    tied parameters.

    Args:
        function: of tensors, or of plain containers of them.

    Keyword Args:
        any_size: whether sizes of arguments vary freely, and share a graph; if not, each shape
            takes seconds to compile.
        settled: positions of arguments that are only checked at the first call, such as
            parameters and optimiser states: their number, shapes and dtypes must not change. A
            check of a hundred tensors takes 0.1 ms.

    Returns:
        The compiled function.

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.compilation import compile_function
        >>> double = compile_function(lambda x: 2 * x)
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """

    def call(arguments: tuple) -> Any:
        return function(*arguments)

    unchecked = tuple(f"arguments[{position}]" for position in settled)
    compiled = torch.compile(  # type: ignore[call-overload]  # its stubs lack the isolation
        call,
        fullgraph=True,
        dynamic=any_size,
        recompile_limit=64,
        isolate_recompiles=True,  # or functions with the same code would take each other's graphs
        options={
            "fallback_random": True,
            "guard_filter_fn": lambda guards: [
                (guard.guard_type in _GUARDS or guard.name.startswith("arguments"))
                and not guard.name.startswith(unchecked)
                for guard in guards
            ],
        },
    )
    return lambda *args: compiled(args)


def with_fallback(
    fast: Callable[..., Any], eager: Callable[..., Any], name: str
) -> Callable[..., Any]:
    """Call ``fast``; once that fails for a reason of its own, warn and call ``eager`` instead.

    Args:
        fast: a function that calls compiled code.
        eager: the same function without it; if it fails too, the caller is at fault and gets its
            error.
        name: what the two do, for the warning.

    Returns:
        A function of the same arguments.

    Examples:
        >>> from torchrl_recall.optim.compilation import with_fallback
        >>> half = with_fallback(lambda x: x >> 1, lambda x: x // 2, "halving")
        >>> half(6)
        3
    """
    broken = False

    def call(*args: Any) -> Any:
        nonlocal broken
        if broken:
            return eager(*args)
        rng = torch.get_rng_state()
        try:
            return fast(*args)
        except Exception as error:  # the compiler's own errors share no base class
            torch.set_rng_state(rng)
            out = eager(*args)
            reason = str(error).strip().splitlines()[:1]
            warnings.warn(
                f"{name} could not be compiled, so it runs eagerly: {type(error).__name__} "
                f"{reason}. Without a C++ compiler, install one; compile=False avoids the attempt.",
                stacklevel=2,
            )
            broken = True
            return out

    return call
