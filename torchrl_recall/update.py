"""One gradient step of a loss module, eager or as one compiled graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule
from torchrl.objectives.utils import TargetNetUpdater

__all__ = ["make_update"]

Update = Callable[..., TensorDictBase]


def make_update(
    loss_module: LossModule,
    optimizer: torch.optim.Optimizer,
    target_updater: TargetNetUpdater | None = None,
    *,
    loss_fn: Callable[..., TensorDictBase] | None = None,
    compile: bool = False,
) -> Update:
    """Make the function that takes one gradient step on the sum of a module's losses.

    The compiled step holds loss and gradient in one graph, through the module's functional
    parameters; ``torch.compile`` around loss and ``backward`` would be slower than eager. Both
    kinds draw the same random numbers on a CPU and agree up to rounding. Compiling takes some ten
    seconds once; if it fails, a warning says why and steps are eager from then on.

    Args:
        loss_module: any loss module.
        optimizer: over its parameters.
        target_updater: stepped afterwards.

    Keyword Args:
        loss_fn: what to differentiate, if it is not the module's ``forward``; it must use the
            module's parameters only.
        compile: whether to compile.

    Returns:
        A function with the arguments of ``loss_fn`` that updates the parameters in place and
        returns the module's detached output.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> from torchrl_recall.update import make_update
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3),
        ...     "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64])
        >>> model.update_statistics(data)
        >>> loss = BacktrackingLoss(model)
        >>> update = make_update(loss, torch.optim.Adam(loss.parameters(), lr=1e-3))
        >>> before = update(data)["loss_state_predictor"]
        >>> for _ in range(20):
        ...     after = update(data)["loss_state_predictor"]
        >>> bool(after < before)
        True
    """
    loss_fn = loss_module if loss_fn is None else loss_fn
    gradient = _eager_gradient(loss_fn, optimizer)
    if compile:
        gradient = _CompiledGradient(loss_module, loss_fn, gradient)

    def update(*args: TensorDictBase) -> TensorDictBase:
        losses = gradient(*args)
        optimizer.step()
        if target_updater is not None:
            target_updater.step()
        return losses

    return update


def _total(losses: TensorDictBase) -> Tensor:
    return sum(value for key, value in losses.items() if key.startswith("loss_"))


def _eager_gradient(loss_fn: Callable[..., TensorDictBase], optimizer) -> Update:
    def gradient(*args: TensorDictBase) -> TensorDictBase:
        losses = loss_fn(*args)
        optimizer.zero_grad()
        _total(losses).backward()
        return losses.detach()

    return gradient


class _CompiledGradient:
    """Writes ``.grad`` of every parameter from one compiled graph.

    The graph takes and returns plain tensors: guards on tensordicts would cost as much as a small
    network does.
    """

    def __init__(self, loss_module: LossModule, loss_fn: Callable, fallback: Update) -> None:
        self.loss_module = loss_module
        self.loss_fn = loss_fn
        self.fallback = fallback
        self.initialized = False
        leaves = list(_leaves(loss_module))
        self.trained = [(path, leaf) for path, leaf in leaves if leaf.requires_grad]
        self.fixed = [(path, leaf) for path, leaf in leaves if not leaf.requires_grad]
        self.compiled: Callable[..., Any] | None = torch.compile(
            torch.func.grad_and_value(self._loss, has_aux=True),
            fullgraph=True,
            # Inductor's own generator is slow on CPU and draws other numbers.
            options={"fallback_random": True},
        )

    def __call__(self, *args: TensorDictBase) -> TensorDictBase:
        if self.compiled is None:
            return self.fallback(*args)
        rng = torch.get_rng_state()
        try:
            if not self.initialized:  # loss modules make some attributes in their first forward
                with torch.no_grad():
                    self.loss_fn(*(arg.copy() for arg in args))
                torch.set_rng_state(rng)
                self.initialized = True
            gradients, (_, losses) = self.compiled(
                [leaf.detach() for _, leaf in self.trained],
                [leaf.detach() for _, leaf in self.fixed],
                [(arg.to_dict(), arg.batch_size) for arg in args],
            )
        except Exception as error:  # the compiler's own errors share no base class
            torch.set_rng_state(rng)
            losses = self.fallback(*args)  # raises if the loss itself is at fault
            reason = str(error).strip().splitlines()[:1]
            warnings.warn(
                f"the update could not be compiled, so it runs eagerly: {type(error).__name__} "
                f"{reason}. torch.compile needs a C++ compiler; compile=false avoids the attempt.",
                stacklevel=3,
            )
            self.compiled = None
            return losses
        for (_, leaf), gradient in zip(self.trained, gradients, strict=True):
            # Contiguous: compiled graphs may return transposed strides, which a fused Adam on CPU
            # reads as if they were the parameter's.
            leaf.grad = gradient.contiguous()
        return TensorDict(losses)

    def _loss(
        self,
        trained: list[Tensor],
        fixed: list[Tensor],
        args: list[tuple[dict, torch.Size]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        paths = [path for path, _ in self.trained] + [path for path, _ in self.fixed]
        values = _nested(zip(paths, [*trained, *fixed], strict=True), self.loss_module)
        attributes = self.loss_module.__dict__
        attributes.update(values)  # instance attributes hide the registered parameters
        try:
            losses = self.loss_fn(*(TensorDict(data, batch_size=size) for data, size in args))
        finally:
            for name in values:
                del attributes[name]
        return _total(losses), dict(losses.detach().items())


def _leaves(loss_module: LossModule) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The module's trainable parameters, and the buffers among them, by attribute and key."""
    for name, child in loss_module.named_children():
        if isinstance(child, TensorDictParams) and any(p.requires_grad for p in child.parameters()):
            for key, leaf in child.items(True, True):
                yield (name, *(key if isinstance(key, tuple) else (key,))), leaf
    for name, parameter in loss_module.named_parameters(recurse=False):
        if parameter.requires_grad:
            yield (name,), parameter


def _nested(
    items: Iterable[tuple[tuple[str, ...], Tensor]], loss_module: LossModule
) -> dict[str, TensorDict | Tensor]:
    """Attributes of the module, made of plain tensors."""
    values: dict[str, TensorDict | Tensor] = {}
    for (name, *key), tensor in items:
        if not key:
            values[name] = tensor
            continue
        if name not in values:
            values[name] = TensorDict({}, batch_size=getattr(loss_module, name).batch_size)
        values[name].set(tuple(key), tensor)  # type: ignore[union-attr]
    return values
