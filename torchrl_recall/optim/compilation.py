"""Compilation of functions with a small cost per call, and a fallback to eager functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._functorch.config as functorch

__all__ = ["compile_function", "shared_graphs", "with_fallback"]

# Kinds of guards to keep on objects other than the arguments. We skip checks for added or replaced
# attributes, hooks and submodules: a tensordict module has about a thousand of them, which takes as
# long as a small network.
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
    """Compile a function with ``torch.compile``, with the settings of this package.

    Either every shape gets its own graph or one graph serves all shapes. Dynamo's automatic choice
    would depend on earlier calls, and so would the rounding. Random numbers are those of eager mode
    on a CPU; inductor's own generator is slow there.

    Each call checks its arguments completely. Of other objects that the function uses, it checks
    only tensors, single numbers and flags. Their attributes, hooks, submodules, lists and tied
    parameters must not change after the first call.

    Args:
        function: a function of tensors, or of plain containers of tensors, that returns the same.

    Keyword Args:
        any_size: whether one graph serves arguments of all sizes. By default each new shape takes
            seconds to compile.
        settled: positions of arguments that only the first call checks, such as parameters and
            optimiser states. Their number, shapes and dtypes must not change. Leaving out the check
            of a hundred tensors saves 0.1 ms per call.

    Returns:
        The compiled function.

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.compilation import compile_function
        >>> double = compile_function(lambda x: 2 * x)
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """
    if _pool is not None:
        return _pool.take(function, any_size=any_size, settled=settled)
    return _compiled(function, any_size=any_size, settled=settled)


def _compiled(
    function: Callable[..., Any], *, any_size: bool, settled: Sequence[int]
) -> Callable[..., Any]:
    def call(arguments: tuple) -> Any:
        return function(*arguments)

    # One tuple of arguments, so that guards on them have names: "arguments[0]...".
    unchecked = tuple(f"arguments[{position}]" for position in settled)
    compiled = torch.compile(  # type: ignore[call-overload]  # its stubs lack the isolation
        call,
        backend=_inductor,
        fullgraph=True,
        dynamic=any_size,
        recompile_limit=64,
        isolate_recompiles=True,  # else functions with the same code take each other's graphs
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


class _Pool:
    """Compiled functions of a process, in the order in which the first run makes them."""

    def __init__(self) -> None:
        self.graphs: list[Callable[..., Any]] = []
        self.next = 0

    def take(
        self, function: Callable[..., Any], *, any_size: bool, settled: Sequence[int]
    ) -> Callable[..., Any]:
        if not settled:  # the function reads tensors that belong to the first run
            return function
        if self.next == len(self.graphs):
            self.graphs.append(_compiled(function, any_size=any_size, settled=settled))
        self.next += 1
        return self.graphs[self.next - 1]


_pool: _Pool | None = None


@contextmanager
def shared_graphs() -> Iterator[Callable[[], None]]:
    """Share compiled graphs between runs of equal settings in one process, such as seeds.

    Compiling takes as long as some ten thousand steps of a small network. Instead of compiling its
    nth function, a later run calls the nth function of the first run with its own tensors. This
    needs functions that receive their parameters as ``settled`` arguments. Others run eagerly.

    Yields:
        A function to call before each run.

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.compilation import compile_function, shared_graphs
        >>> with shared_graphs() as begin_run:
        ...     begin_run()
        ...     first = compile_function(lambda w, x: w * x, settled=[0])
        ...     begin_run()
        ...     compile_function(lambda w, x: w * x, settled=[0]) is first
        True
    """
    global _pool
    before, _pool = _pool, _Pool()
    pool = _pool

    def begin_run() -> None:
        pool.next = 0

    try:
        yield begin_run
    finally:
        _pool = before


def _inductor(graph: torch.fx.GraphModule, inputs: list, *, options: dict[str, Any]) -> Any:
    """Compile a graph by inductor, and cache it on disk even if it has custom autograd functions.

    TorchRL's squashed distributions have one. Torch alone would compile it again in each process.
    """
    from torch._inductor.compile_fx import compile_fx

    with functorch.patch(autograd_cache_allow_custom_autograd_functions=True):
        return compile_fx(graph, inputs, config_patches=options)


def with_fallback(
    fast: Callable[..., Any], eager: Callable[..., Any], name: str
) -> Callable[..., Any]:
    """Return a function that calls ``fast``, and ``eager`` with a warning once ``fast`` fails.

    If ``eager`` fails on the same arguments too, its error is raised, because the arguments are
    wrong.

    Args:
        fast: a function that calls compiled code.
        eager: the same function without compiled code.
        name: name of the work that both do, for the warning.

    Returns:
        A function with the same arguments and results.

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
        except Exception as error:  # errors of the compiler have no common base class
            # The eager call draws the random numbers that the failed call would have drawn.
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
