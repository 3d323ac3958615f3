"""One gradient step of a loss module, eager or as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable

from tensordict import TensorDictBase
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torchrl.objectives import LossModule
from torchrl.objectives.utils import TargetNetUpdater

from torchrl_recall.optim.compilation import with_fallback
from torchrl_recall.optim.compiled_step import CompiledStep
from torchrl_recall.optim.functional_loss import total_loss
from torchrl_recall.optim.kept_gradients import kept_gradients

__all__ = ["make_update"]

Update = Callable[..., TensorDictBase]


def make_update(
    loss_module: LossModule,
    optimizer: Optimizer,
    target_updater: TargetNetUpdater | None = None,
    *,
    loss_fn: Callable[..., TensorDictBase] | None = None,
    max_grad_norm: float | None = None,
    compile: bool = False,
) -> Update:
    """Make a function that takes one gradient step on the sum of a module's losses.

    The compiled step is a :class:`~torchrl_recall.optim.compiled_step.CompiledStep`. It computes
    loss, gradient, Adam and soft target update in one graph. ``torch.compile`` around loss and
    ``backward`` alone would be slower than eager mode. On a CPU, eager and compiled steps draw the
    same random numbers and agree up to rounding. Compiling takes some ten seconds once. If it
    fails, a warning gives the reason and all later steps are eager.

    A step leaves ``grad`` of each parameter as it was, because a host may optimise the same policy
    and keep gradients of its own there.

    The loss has to use all parameters that ask for a gradient. Eager Adam leaves out the others,
    and in the compiled step their gradient is zero, so that a weight decay moves them.

    Args:
        loss_module: any loss module.
        optimizer: an optimiser of the module's parameters. TorchRL's ``group_optimizers`` joins
            several into one. The compiled step uses the state of an Adam, but does not call its
            hooks.
        target_updater: updater of the module's target networks, stepped last; None without targets.

    Keyword Args:
        loss_fn: function to differentiate; the module's ``forward`` by default. It must not use
            parameters of other modules.
        max_grad_norm: largest norm of the gradient of all optimised parameters; None does not clip.
        compile: whether the step is compiled.

    Returns:
        A function with the arguments of ``loss_fn`` that updates the parameters in place and
        returns the module's detached output.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> from torchrl_recall.optim.gradient_step import make_update
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

    def update(*args: TensorDictBase) -> TensorDictBase:
        losses = loss_fn(*args)
        with kept_gradients(optimizer):
            total_loss(losses).backward()
            if max_grad_norm is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
        if target_updater is not None:
            target_updater.step()
        return losses.detach()

    if not compile:
        return update
    compiled = CompiledStep(loss_module, optimizer, target_updater, loss_fn, max_grad_norm)
    return with_fallback(compiled, update, "the update")
