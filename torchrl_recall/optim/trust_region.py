"""Natural-gradient steps within a radius of divergence, for any loss of a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor
from torch.distributions import Distribution
from torchrl.objectives import LossModule

from torchrl_recall.checks import at_least, positive
from torchrl_recall.devices import device_of_data
from torchrl_recall.optim.functional_loss import total_loss
from torchrl_recall.optim.natural_gradient import conjugate_gradient, kl_divergence

__all__ = ["TrustRegion"]


class TrustRegion:
    r"""Natural-gradient steps of a policy within a radius of Kullback-Leibler divergence.

    The direction solves :math:`F x = -\nabla_\theta L` by conjugate gradient, where

    .. math:: F v = \nabla_\theta \left[ \left( \nabla_\theta\,
        \mathbb{E}_s D_\text{KL}(\pi_\text{old} \,\|\, \pi_\theta) \right)^{\!\top} v \right]
        + \text{damping} \cdot v

    The length of the step is :math:`\sqrt{2 \delta / x^\top F x}` (App. C of Schulman et al.,
    *Trust Region Policy Optimization*, 2015). A line search tries the fractions
    :math:`1, c, c^2, \ldots` of this step. It takes the first one that lowers the loss and stays
    within the radius. If no fraction does, parameters do not change and ``accepted`` is False.

    Any loss of a policy can be minimised in this way. Examples are the surrogate of
    :class:`~torchrl_recall.TRPOLoss`, with ``loss_fn=loss.actor_loss``, and an
    :class:`~torchrl_recall.ImitationLoss`. With the latter, imitation of recall traces changes the
    policy by a limited amount.

    Args:
        loss_module: a loss module that holds the policy as ``actor_network``. Its losses are
            scalars.

    Keyword Args:
        loss_fn: function of a tensordict. The sum of its ``loss_*`` outputs is minimised. The
            module's ``forward`` by default.
        max_kl: :math:`\delta`, the radius, in nats.
        damping: number added to the diagonal of the Fisher matrix.
        cg_iterations: iterations of conjugate gradient.
        line_search_steps: largest number of fractions to try.
        line_search_shrink: c, the ratio of successive fractions, in (0, 1).
        fisher_subsampling: use every n-th state for the Fisher products; 1 uses all.

    Raises:
        TypeError: the module holds no policy.
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl.modules import OneHotCategorical, ProbabilisticActor
        >>> from torchrl_recall import ImitationLoss, TrustRegion
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(torch.nn.Linear(3, 4), ["observation"], ["logits"]), ["logits"],
        ...     distribution_class=OneHotCategorical,
        ... )
        >>> traces = TensorDict({
        ...     "observation": torch.randn(8, 20, 3),
        ...     "action": torch.eye(4)[torch.zeros(8, 20).long()],
        ... }, [8, 20])
        >>> region = TrustRegion(ImitationLoss(actor), max_kl=0.02)
        >>> statistics = region.step(traces)
        >>> bool(statistics["accepted"]), bool(statistics["kl"] <= 0.02)
        (True, True)
    """

    def __init__(
        self,
        loss_module: LossModule,
        *,
        loss_fn: Callable[[TensorDictBase], TensorDictBase] | None = None,
        max_kl: float = 0.01,
        damping: float = 0.1,
        cg_iterations: int = 10,
        line_search_steps: int = 10,
        line_search_shrink: float = 0.8,
        fisher_subsampling: int = 1,
    ) -> None:
        if not isinstance(
            getattr(loss_module, "actor_network", None), ProbabilisticTensorDictSequential
        ):
            raise TypeError(
                f"{type(loss_module).__name__} holds no stochastic policy as actor_network, so no "
                "divergence can be measured. Use a loss of a ProbabilisticActor, such as TRPOLoss "
                "or ImitationLoss."
            )
        positive(max_kl=max_kl)
        if not damping >= 0:
            raise ValueError(f"damping must be zero or more, got {damping}.")
        if not 0 < line_search_shrink < 1:
            raise ValueError(f"line_search_shrink must be in (0, 1), got {line_search_shrink}.")
        at_least(
            1,
            cg_iterations=cg_iterations,
            line_search_steps=line_search_steps,
            fisher_subsampling=fisher_subsampling,
        )
        self.loss_module = loss_module
        self.loss_fn = loss_module if loss_fn is None else loss_fn
        self.max_kl = max_kl
        self.damping = damping
        self.cg_iterations = cg_iterations
        self.line_search_steps = line_search_steps
        self.line_search_shrink = line_search_shrink
        self.fisher_subsampling = fisher_subsampling
        self.num_steps = 0
        self.num_refused = 0
        leaves = loss_module.actor_network_params.values(True, True)
        self.parameters = [p for p in leaves if p.requires_grad]

    def step(self, tensordict: TensorDictBase, states: TensorDictBase | None = None) -> TensorDict:
        """Take one step.

        Args:
            tensordict: data of the loss, any batch shape.
            states: observations on which the divergence is measured, any batch shape; those of
                ``tensordict`` by default.

        Returns:
            The detached output of the loss before the step. Further entries are ``accepted``,
            ``kl`` (divergence of the step in nats), ``improvement`` (decrease of the loss),
            ``step_fraction``, ``gradient_norm`` and ``cg_residual``.

        Raises:
            ValueError: the loss is not finite or not a scalar. No parameter has changed then.
            TypeError: the divergence of the policy's distribution has no closed form.
        """
        # The old policy, from which the divergence is measured.
        states = self._rows(tensordict if states is None else states)
        if not len(states):
            raise ValueError(
                "no state is left to measure the divergence on; give states, or a mask with a "
                "True in it."
            )
        with torch.no_grad():
            old = self._dist(states, frozen=True)
            kl_divergence(old, old)  # refuses distributions without a divergence

        # Gradient, and the natural direction of it.
        rng = torch.get_rng_state()  # so that each evaluation draws the same random numbers
        losses = self.loss_fn(tensordict)
        loss = self._total(losses, tensordict)
        gradient = self._flat(torch.autograd.grad(loss, self.parameters, **_UNUSED_ARE_ZERO))
        statistics = losses.detach().update({"gradient_norm": gradient.norm()})
        direction, residual = self._natural_direction(gradient, states)

        # Line search on the true loss and divergence.
        def evaluate() -> tuple[Tensor, Tensor]:
            torch.set_rng_state(rng)
            after = self._total(self.loss_fn(tensordict), tensordict, check=False)
            return loss - after, kl_divergence(old, self._dist(states)).mean()

        with torch.no_grad():
            taken = self._line_search(direction, evaluate)
        self.num_steps += 1
        self.num_refused += not taken["accepted"]
        return statistics.update(taken).update({"cg_residual": residual})

    def _natural_direction(self, gradient: Tensor, states: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Compute the step that reaches the radius, to second order, and the relative residual."""
        product = self.fisher_vector_product(states[:: self.fisher_subsampling])
        direction, residual = conjugate_gradient(product, -gradient, iterations=self.cg_iterations)
        curvature = direction @ product(direction)
        # Zero where the gradient is: then no step lowers the loss, and none is taken.
        length = (2 * self.max_kl / curvature).sqrt().nan_to_num(0.0, posinf=0.0)
        return length * direction, residual

    def fisher_vector_product(self, states: TensorDictBase) -> Callable[[Tensor], Tensor]:
        """Return the damped Fisher matrix of the current policy as a function.

        Args:
            states: observations, shape ``[num_states]``.

        Returns:
            A function of flat vectors over the policy's parameters, shape ``[num_parameters]``, in
            double precision.
        """
        # The Fisher matrix is the Hessian of the divergence from the policy to itself.
        dist = self._dist(states)
        with torch.no_grad():
            old = self._dist(states)
        kl = kl_divergence(old, dist).mean()
        gradient = torch.autograd.grad(kl, self.parameters, create_graph=True, **_UNUSED_ARE_ZERO)

        def product(vector: Tensor) -> Tensor:
            parts = self._split(vector)
            along = torch.stack([(g * v).sum() for g, v in zip(gradient, parts, strict=True)]).sum()
            hessian = torch.autograd.grad(
                along, self.parameters, retain_graph=True, **_UNUSED_ARE_ZERO
            )
            return self._flat(hessian) + self.damping * vector

        return product

    def _line_search(
        self, full_step: Tensor, evaluate: Callable[[], tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Take the longest acceptable fraction of a step, or no step."""
        # Fractions from the longest to the shortest, each from the same weights.
        before = [p.detach().clone() for p in self.parameters]
        parts, accepted = self._split(full_step), False
        try:
            for i in range(self.line_search_steps):
                fraction = self.line_search_shrink**i
                for parameter, start, part in zip(self.parameters, before, parts, strict=True):
                    parameter.copy_(start + fraction * part)
                improvement, kl = evaluate()
                accepted = bool(improvement > 0 and kl <= self.max_kl)  # False for NaN
                if accepted:
                    break
        finally:
            if not accepted:  # no fraction is acceptable, or the loss failed: restore exactly
                for parameter, start in zip(self.parameters, before, strict=True):
                    parameter.copy_(start)
        if not accepted:
            zero = before[0].new_zeros(())
            fraction, improvement, kl = 0.0, zero, zero.clone()
        device = before[0].device
        return {
            "accepted": torch.tensor(fraction > 0, device=device),
            "kl": kl,
            "improvement": improvement,
            "step_fraction": torch.tensor(fraction, device=device),
        }

    def _dist(self, states: TensorDictBase, *, frozen: bool = False) -> Distribution:
        """Return the policy's distributions; frozen ones do not change with its parameters."""
        actor, parameters = self.loss_module.actor_network, self.loss_module.actor_network_params
        if frozen:  # a network may return a view of a parameter
            parameters = parameters.data.clone()
        with parameters.to_module(actor, preserve_module_state=False):
            return actor.get_dist(states.copy())

    def _rows(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Select the inputs of the policy, as one row for each step without padding."""
        rows = tensordict.select(*self.loss_module.actor_network.in_keys)
        keep = torch.ones(rows.shape, dtype=torch.bool, device=device_of_data(rows))
        for key in self.loss_module._loss_mask_keys():
            if (mask := tensordict.get(key, None)) is not None:
                keep = keep & mask.reshape(keep.shape)
        return rows[keep]

    def _total(
        self, losses: TensorDictBase, tensordict: TensorDictBase, *, check: bool = True
    ) -> Tensor:
        """Sum the losses, and refuse a sum that is not a finite scalar."""
        total = total_loss(losses)
        if check and total.numel() != 1:
            raise ValueError(
                f"the loss has shape {tuple(total.shape)}, but a step needs one number; build "
                f"{type(self.loss_module).__name__} with reduction='mean'."
            )
        if check and not total.isfinite():
            odd = [
                key
                for key, value in tensordict.items(True, True)
                if value.is_floating_point() and not value.isfinite().all()
            ]
            where = f"these entries hold NaN or infinity: {odd}" if odd else "the data are finite"
            raise ValueError(
                f"the loss is {float(total)}, so no step was taken and no parameter touched; "
                f"{where}. Look for NaN rewards, a diverged critic or diverged weights."
            )
        return total

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors of the parameters' shapes into one vector."""
        return torch.cat([t.detach().reshape(-1) for t in tensors]).double()

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Undo :meth:`_flat`."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p).to(p.dtype) for part, p in zip(parts, self.parameters, strict=True)]

    def state_dict(self) -> dict:
        """Return radius, damping and counts; the policy belongs to the loss module."""
        names = ("max_kl", "damping", "num_steps", "num_refused")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)


_UNUSED_ARE_ZERO: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
