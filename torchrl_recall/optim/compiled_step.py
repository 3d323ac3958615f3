"""One gradient step as one compiled graph: loss, gradient, Adam and soft target update.

The whole step is one graph for speed. With an eager Adam after a compiled gradient, an update takes
1.09 times as long for SAC and 1.20 times as long for the backtracking model.

Two bugs of torch 2.14.1 are avoided:

- Compiled graphs may return gradients with transposed strides, which a fused Adam on CPU reads as
  if they were the parameter's. Gradients that leave the graph are made contiguous.
- Adam's L2 penalty together with ``torch.func.grad`` compiles wrongly. An Adam with this penalty
  steps eagerly after the graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torchrl.objectives import LossModule, SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from torchrl_recall.optim.compilation import compile_function
from torchrl_recall.optim.functional_loss import Entries, FunctionalLoss
from torchrl_recall.optim.kept_gradients import kept_gradients

__all__ = ["CompiledStep"]


class CompiledStep:
    """Gradient step as one graph of plain tensors, in place of eager loss, backward and optimiser.

    The graph takes plain tensors because guards on tensordicts take as long as a small network.
    Optimisers other than Adam and AdamW, and updaters other than
    :class:`~torchrl.objectives.SoftUpdate`, step eagerly after the graph.

    Args:
        loss_module: any loss module.
        optimizer: an optimiser of parameters of the module.
        target_updater: updater of the module's target networks, stepped last; None without targets.
        loss_fn: function of tensordicts to differentiate. It must not use parameters of other
            modules.
        max_grad_norm: largest norm of the gradient of all optimised parameters; None does not clip.

    Raises:
        ValueError: at the first call, if the optimiser has parameters of another module.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> from torchrl_recall.optim.compiled_step import CompiledStep
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> loss = BacktrackingLoss(model)
        >>> step = CompiledStep(loss, torch.optim.Adam(loss.parameters()), None, loss, None)
        >>> step.whole  # Adam goes into the graph, which the first call compiles
        True
    """

    def __init__(
        self,
        loss_module: LossModule,
        optimizer: Optimizer,
        target_updater: TargetNetUpdater | None,
        loss_fn: Callable[..., TensorDictBase],
        max_grad_norm: float | None,
    ) -> None:
        # Tensors go in and out of the graph by position; paths say where each belongs.
        self.loss = FunctionalLoss(loss_module, loss_fn)
        self.trained, self.fixed = self.loss.trained, self.loss.fixed
        self.optimizer = optimizer
        self.target_updater = target_updater
        self.max_grad_norm = max_grad_norm
        # The whole update is one graph where optimiser and updater are of the kinds written below.
        self.whole = _is_plain_adam(optimizer) and (
            target_updater is None or type(target_updater) is SoftUpdate
        )
        # Settled are trained, fixed and states; data are checked, and options are numbers.
        self.compiled = (
            compile_function(self._step, settled=(0, 1, 3))
            if self.whole
            else compile_function(self._gradient, settled=(0, 1))
        )
        self.initialized = False

    def __call__(self, *args: TensorDictBase) -> TensorDictBase:
        """Update the parameters in place, and write into the arguments what ``loss_fn`` writes.

        Args:
            args: the arguments of ``loss_fn``. Entries that it writes are found at the first call
                with as many arguments.

        Returns:
            The output of ``loss_fn`` before the step, detached.
        """
        if not self.initialized:
            self._initialize()
        if len(args) not in self.loss.written:
            # Loss modules make some attributes in their first forward, which moves statistics.
            self.loss.find_moving(*args)
        trained = [leaf.detach() for _, leaf in self.trained]
        fixed = [leaf.detach() for _, leaf in self.fixed]
        data = [(arg.to_dict(), arg.batch_size) for arg in args]
        if self.whole:
            losses, written = self.compiled(trained, fixed, data, *self._adam_arguments())
        else:
            gradients, losses, written = self.compiled(trained, fixed, data)
            with kept_gradients(self.optimizer):
                for (_, leaf), gradient in zip(self.trained, gradients, strict=True):
                    # Contiguous: graphs may return transposed strides, see the module's docstring.
                    leaf.grad = gradient.contiguous()
                self.optimizer.step()
            if self.target_updater is not None:
                self.target_updater.step()
        for arg, entries in zip(args, written, strict=True):
            arg.update(entries)
        return TensorDict(losses)

    def _initialize(self) -> None:
        """Find the optimiser's groups, as positions among the trained tensors."""
        indices = {leaf: i for i, (_, leaf) in enumerate(self.trained)}
        groups = self.optimizer.param_groups
        if foreign := sum(p not in indices for group in groups for p in group["params"]):
            raise ValueError(f"{foreign} of the optimizer's parameters are not the loss module's")
        self.groups = [[indices[p] for p in group["params"]] for group in groups]
        self.initialized = True

    def _adam_arguments(self) -> tuple[list, list]:
        """Return the state and the options of each of Adam's groups."""
        groups = self.optimizer.param_groups
        options = [
            {
                "beta1": group["betas"][0],
                "beta2": group["betas"][1],
                "weight_decay": group["weight_decay"],
                "eps": group["eps"],
                "maximize": group["maximize"],
                "decoupled_weight_decay": group["decoupled_weight_decay"],
                # A tensor: a schedule that changes a number would recompile each time.
                "lr": torch.as_tensor(group["lr"]),
            }
            for group in groups
        ]
        return [self._adam_state(group["params"]) for group in groups], options

    def _adam_state(self, parameters: list[Tensor]) -> tuple[list[Tensor], ...]:
        """Return Adam's means, variances and step counts; create missing ones."""
        states = [self.optimizer.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:  # the initial state of Adam
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        return tuple([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))

    def _step(
        self, trained: list[Tensor], fixed: list[Tensor], data: list, states: list, options: list
    ) -> tuple[dict[str, Tensor], list[Entries]]:
        """Take one whole step; this function is compiled to the graph."""
        gradients, losses, written = self._gradient(trained, fixed, data)

        # Adam, by the functional form of torch's own.
        for group, (mean, variance, step), choices in zip(
            self.groups, states, options, strict=True
        ):
            adam(
                [trained[i] for i in group],
                [gradients[i] for i in group],
                mean,
                variance,
                [],
                step,
                foreach=False,
                capturable=True,  # the step count stays a tensor
                amsgrad=False,
                **choices,
            )

        # Soft update: target <- eps target + (1 - eps) source, of the same path.
        if self.target_updater is not None:
            index = {path: i for i, (path, _) in enumerate(self.fixed)}
            for (path, _), source in zip(self.trained, trained, strict=True):
                if (target := index.get((f"target_{path[0]}", *path[1:]))) is not None:
                    fixed[target].lerp_(source, 1 - self.target_updater.eps)
        return losses, written

    def _gradient(
        self, trained: list[Tensor], fixed: list[Tensor], data: list
    ) -> tuple[list[Tensor], dict[str, Tensor], list[Entries]]:
        """Compute the clipped gradients, the detached losses, and what they wrote."""
        gradients, losses, written = self.loss.gradient(trained, fixed, data)
        if self.max_grad_norm is not None:
            steered = [gradients[i] for group in self.groups for i in group]
            norm = get_total_norm(steered, foreach=False)
            scale = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * scale for gradient in gradients]
        return gradients, losses, written


def _is_plain_adam(optimizer: Optimizer) -> bool:
    """Return True if the optimiser may go into the graph.

    Adam with an L2 penalty may not, because torch 2.14.1 compiles it wrongly together with
    ``torch.func.grad``.
    """
    return type(optimizer) in (Adam, AdamW) and not any(
        group["amsgrad"]
        or group["differentiable"]
        or (group["weight_decay"] and not group["decoupled_weight_decay"])
        for group in optimizer.param_groups
    )
