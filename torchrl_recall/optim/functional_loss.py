"""A loss module as a function of plain tensors, with the gradient of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

__all__ = ["FunctionalLoss", "total_loss"]

Path = tuple[str, ...]
Data = list[tuple[dict, torch.Size]]
Entries = dict[NestedKey, Tensor]


class FunctionalLoss:
    """Losses and their gradients as functions of plain tensors, which may be compiled or vmapped.

    Running statistics, such as those of batch renormalisation, are written after the gradient,
    because a differentiated function cannot write to tensors from outside. Entries that the loss
    writes into its batches, such as ``td_error``, are returned.

    Args:
        loss_module: any loss module.
        loss_fn: function of tensordicts to differentiate; it uses the module's parameters only.

    Attributes:
        trained: path and tensor of each parameter that asks for a gradient.
        fixed: path and tensor of each other parameter, target and buffer of the networks.
        moving: positions among ``fixed`` of running statistics, see :meth:`find_moving`.
        written: keys of the entries that the loss writes into each of its batches, by the number
            of batches; found there too.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> from torchrl_recall.optim.functional_loss import FunctionalLoss
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> loss = BacktrackingLoss(model)
        >>> functional = FunctionalLoss(loss, loss)
        >>> len(functional.trained) == len(list(loss.parameters()))
        True
    """

    def __init__(self, loss_module: LossModule, loss_fn: Callable[..., TensorDictBase]) -> None:
        self.loss_module, self.loss_fn = loss_module, loss_fn
        leaves = list(_leaves(loss_module))
        self.trained = [(path, leaf) for path, leaf in leaves if leaf.requires_grad]
        self.fixed = [(path, leaf) for path, leaf in leaves if not leaf.requires_grad]
        self.moving: list[int] = []
        self.written: dict[int, list[list[NestedKey]]] = {}

    def find_moving(self, *batches: TensorDictBase) -> None:
        """Find what a call writes, and let the module make what it makes at its first use.

        Nothing is moved: statistics, buffers and the generator of the CPU are put back, and the
        batches are copied.

        Args:
            batches: arguments of ``loss_fn``.
        """
        rng = torch.get_rng_state()
        fixed = [leaf for _, leaf in self.fixed]
        saved = [(leaf.clone(), leaf._version) for leaf in fixed]
        own = [(leaf, leaf.clone()) for leaf in self.loss_module.buffers(recurse=False)]
        with torch.no_grad():
            given = [batch.to_tensordict() for batch in batches]
            used = [batch.copy() for batch in given]
            self.loss_fn(*used)
            pairs = zip(given, used, strict=True)
            self.written[len(batches)] = [_written(*pair) for pair in pairs]
            # torch's own batch normalisation writes without a new version.
            moved = [
                i
                for i, (leaf, (value, version)) in enumerate(zip(fixed, saved, strict=True))
                if leaf._version != version or not torch.equal(leaf, value)
            ]
            self.moving = sorted({*self.moving, *moved})
            for i in moved:
                fixed[i].copy_(saved[i][0])
            for leaf, value in own:
                leaf.copy_(value)
        torch.set_rng_state(rng)

    def gradient(
        self, trained: list[Tensor], fixed: list[Tensor], data: Data
    ) -> tuple[list[Tensor], dict[str, Tensor], list[Entries]]:
        """Compute gradients at given tensors, and move the running statistics among them.

        Args:
            trained: where to differentiate, in the order of the attribute.
            fixed: the other tensors, in the order of the attribute.
            data: arguments of ``loss_fn``, each as a dictionary and its batch size.

        Returns:
            The gradient of the sum of the losses by each trained tensor, the detached losses, and
            the entries that the loss wrote into each argument.
        """
        function = torch.func.grad_and_value(self._loss, has_aux=True)
        gradients, (_, (losses, moved, written)) = function(trained, fixed, data)
        for i, statistic in zip(self.moving, moved, strict=True):
            fixed[i].copy_(statistic)
        return gradients, losses, written

    def call(self, function: Callable[[], Any], trained: list[Tensor], fixed: list[Tensor]) -> Any:
        """Call a function while given tensors stand in place of the module's own.

        Args:
            function: reads the module's parameters.
            trained: tensors in place of the trained ones, in the order of the attribute.
            fixed: the other tensors, in the order of the attribute.

        Returns:
            The result of the function.
        """
        paths = [path for path, _ in self.trained] + [path for path, _ in self.fixed]
        values = _nested(zip(paths, [*trained, *fixed], strict=True), self.loss_module)
        attributes = self.loss_module.__dict__
        attributes.update(values)  # instance attributes hide the registered parameters
        self._forget()
        try:
            return function()
        finally:
            for name in values:
                del attributes[name]
            self._forget()

    def _forget(self) -> None:
        """Drop the parameters that TorchRL detaches at first use and keeps; graphs keep none."""
        if not torch.compiler.is_dynamo_compiling():
            self.loss_module.__dict__.pop("_cache", None)

    def _loss(
        self, trained: list[Tensor], fixed: list[Tensor], data: Data
    ) -> tuple[Tensor, tuple[dict[str, Tensor], list[Tensor], list[Entries]]]:
        """Return the total; and the losses, and what they moved and wrote."""
        fixed = [leaf.clone() if i in self.moving else leaf for i, leaf in enumerate(fixed)]
        args = [TensorDict(entries, batch_size=size) for entries, size in data]
        keys_of_args = self.written.get(len(args), [[] for _ in args])
        for arg, keys in zip(args, keys_of_args, strict=True):
            arg.update(arg.select(*keys, strict=False).clone())  # a loss may write in place
        losses = self.call(lambda: self.loss_fn(*args), trained, fixed)
        moved = [fixed[i] for i in self.moving]
        written = [
            dict(arg.select(*keys, strict=False).detach().items(True, True))
            for arg, keys in zip(args, keys_of_args, strict=True)
        ]
        return total_loss(losses), (dict(losses.detach().items()), moved, written)


def _leaves(loss_module: LossModule) -> Iterator[tuple[Path, Tensor]]:
    """Yield parameters, targets and buffers of the module's networks, by attribute and key."""
    for name, child in loss_module.named_children():
        if isinstance(child, TensorDictParams):
            for key, leaf in child.items(True, True):
                yield (name, *(key if isinstance(key, tuple) else (key,))), leaf
    for name, parameter in loss_module.named_parameters(recurse=False):
        if parameter.requires_grad:
            yield (name,), parameter


def _written(before: TensorDictBase, after: TensorDictBase) -> list[NestedKey]:
    """Return the keys of new, replaced and changed tensors of a batch."""
    return [
        key
        for key, value in after.items(True, True)
        if isinstance(value, Tensor) and (value is not before.get(key, None) or value._version)
    ]


def _nested(
    items: Iterable[tuple[Path, Tensor]], loss_module: LossModule
) -> dict[str, TensorDict | Tensor]:
    """Build the module's attributes from plain tensors."""
    values: dict[str, TensorDict | Tensor] = {}
    for (name, *key), tensor in items:
        if not key:
            values[name] = tensor
            continue
        if name not in values:
            values[name] = TensorDict({}, batch_size=getattr(loss_module, name).batch_size)
        values[name].set(tuple(key), tensor)  # type: ignore[union-attr]
    return values


def total_loss(losses: TensorDictBase) -> Tensor:
    """Sum the losses that a loss module returns: its entries named ``loss`` or ``loss_*``.

    Args:
        losses: output of a loss module.

    Returns:
        The sum, attached to the autograd graph.

    Raises:
        ValueError: there is no such entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.optim.functional_loss import total_loss
        >>> one = torch.tensor(1.0)
        >>> total_loss(TensorDict({"loss_actor": one, "loss_alpha": one, "entropy": one}))
        tensor(2.)
    """
    found = [value for key, value in losses.items() if key.startswith("loss")]
    if not found:
        raise ValueError(
            f"the loss module returned {sorted(losses.keys())}, none of them a loss; the names of "
            "what is to be minimised begin with 'loss'."
        )
    return sum(found[1:], found[0])
