"""Exact values, posteriors and bounds of the four-room grid, by dynamic programming (Sec. 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout, step_limit
from torchrl_recall.modules.backtracking_model import BacktrackingModel

__all__ = ["Oracle", "Posterior"]


@dataclass
class Posterior:
    r"""Distribution of trajectories whose return exceeds a threshold, :math:`p(\tau \mid R > L)`.

    Args:
        log_evidence: :math:`\log p(R > L)`, shape ``[*batch]``.
        starts: distribution of the first cell, shape ``[*batch, num_cells]``.
        lengths: probabilities of trajectories of 0, 1, 2, ... steps, shape
            ``[*batch, horizon + 1]``.
        counts: expected number of times that each transition is taken, shape
            ``[*batch, num_transitions]``.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import FourRoomsLayout, Oracle
        >>> oracle = Oracle(FourRoomsLayout(5, start=(1, 1)), max_steps=20)
        >>> policy = torch.full((oracle.layout.num_cells, 4), 0.25, dtype=torch.float64)
        >>> posterior = oracle.posterior(policy, threshold=oracle.optimum - 1e-6)
        >>> posterior.lengths.argmax().item()  # steps of all trajectories that are as good
        4
    """

    log_evidence: Tensor
    starts: Tensor
    lengths: Tensor
    counts: Tensor


_ROUNDING = 1e-6  # of the probability that a model keeps within the grid


class Oracle:
    r"""Exact values, posteriors and bounds of policies on a four-room grid.

    A policy is a table of :math:`\pi(a \mid s)`, shape ``[*batch, num_cells, 4]``. A backtracking
    model is given by its log-probability of each transition of the grid,
    :math:`\log q(a_t \mid s_{t+1}) + \log q(s_t \mid a_t, s_{t+1})`; see :meth:`log_prob_of`. An
    episode that reaches the goal in :math:`T` steps has the return :math:`\gamma^{T-1}`. So
    :math:`R > L` bounds the number of steps; see :meth:`horizon`. All results are float64 and
    differentiable.

    Args:
        layout: the grid.

    Keyword Args:
        max_steps: largest number of steps of an episode; ``10 * size`` by default.
        gamma: γ, the discount factor.

    Raises:
        ValueError: ``max_steps`` is below one, or gamma is not in (0, 1].

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import FourRoomsLayout, Oracle
        >>> oracle = Oracle(FourRoomsLayout(5, start=(1, 1)), gamma=0.9)
        >>> round(oracle.optimum, 4)  # four steps
        0.729
        >>> uniform = torch.full((25, 4), 0.25)
        >>> float(oracle.success(uniform, steps=4)) == 2 * 0.25**4  # two shortest ways
        True
    """

    def __init__(
        self, layout: FourRoomsLayout, *, max_steps: int | None = None, gamma: float = 0.99
    ) -> None:
        self.layout = layout
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {gamma}.")
        self.max_steps = step_limit(layout.size, max_steps)
        self.gamma = gamma
        self.source, self.action, self.following, self.probability = layout.transitions()
        self.starts = torch.zeros(layout.num_cells, dtype=torch.float64)
        self.starts[layout.starts] = 1 / len(layout.starts)

    @property
    def optimum(self) -> float:
        """The best expected discounted return of any policy, averaged over the starts."""
        layout = self.layout
        value = torch.zeros(layout.num_cells, dtype=torch.float64)
        for _ in range(self.max_steps):  # value iteration, one more step to go each time
            gain = self.probability * self._reward_to_go(value)
            action_value = torch.zeros(layout.num_cells * 4, dtype=torch.float64)
            action_value.index_add_(0, self.source * 4 + self.action, gain)
            value = action_value.reshape(-1, 4).amax(1)
        return float(value @ self.starts)

    def value(self, policy: Tensor) -> Tensor:
        """Compute the expected discounted return from each cell within ``max_steps``.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.

        Returns:
            Values of shape ``[*batch, num_cells]``.
        """
        weights = self._weights(policy)
        value = weights.new_zeros(*policy.shape[:-1])
        for _ in range(self.max_steps):
            value = self._sum(self.source, weights * self._reward_to_go(value))
        return value

    def expected_return(self, policy: Tensor) -> Tensor:
        """Average :meth:`value` over the starts.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.

        Returns:
            Expected returns of shape ``[*batch]``.
        """
        return self.value(policy) @ self.starts

    def success(self, policy: Tensor, steps: int | None = None) -> Tensor:
        """Compute the probability of reaching the goal from the starts.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            steps: largest number of steps; ``max_steps`` by default.

        Returns:
            Probabilities of shape ``[*batch]``.
        """
        horizon = self.max_steps if steps is None else steps
        return self._reach(self._weights(policy), horizon)[-1] @ self.starts

    def horizon(self, threshold: float) -> int:
        """Return the largest number of steps whose return exceeds the threshold L.

        Args:
            threshold: L, in [0, 1).

        Returns:
            The number of steps, at most ``max_steps``.

        Raises:
            ValueError: the threshold is out of its range.
        """
        if not 0 <= threshold < 1:
            raise ValueError(
                f"the threshold must be in [0, 1), got {threshold}: returns here lie between 0 "
                "and 1."
            )
        if threshold == 0 or self.gamma == 1:
            return self.max_steps
        # gamma^(T - 1) > L solved for T, then corrected for rounding.
        steps = math.ceil(1 + math.log(threshold) / math.log(self.gamma)) - 1
        steps += self.gamma**steps > threshold
        steps -= self.gamma ** (steps - 1) <= threshold
        return min(steps, self.max_steps)

    def probability_above(self, policy: Tensor, threshold: float) -> Tensor:
        """Compute p(R > L).

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            threshold: L, in [0, 1).

        Returns:
            Probabilities of shape ``[*batch]``.
        """
        return self.success(policy, self.horizon(threshold))

    def posterior(self, policy: Tensor, threshold: float = 0.0) -> Posterior:
        r"""Compute the exact :math:`p(\tau \mid R > L)`, by forward and backward messages.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            threshold: L, in [0, 1).

        Returns:
            The posterior.

        Raises:
            ValueError: no trajectory of the policy has such a return.
        """
        # Backward messages: reach[n] is the probability of reaching the goal within n steps.
        weights, horizon = self._weights(policy), self.horizon(threshold)
        reach = self._reach(weights, horizon)
        here = self.starts.expand(*policy.shape[:-1])
        evidence = (here * reach[horizon]).sum(-1)
        if not (evidence > 0).all():
            raise ValueError(
                f"no trajectory of the policy has a return above {threshold}, so there is no "
                f"posterior; the best policy's mean return is {self.optimum:.4f}."
            )

        # Forward messages: here is the probability of being in a cell after each number of steps.
        starts = here * reach[horizon] / evidence.unsqueeze(-1)
        counts = torch.zeros_like(weights)
        lengths = [torch.zeros_like(evidence)]
        for step in range(horizon):
            flow = here[..., self.source] * weights
            counts = counts + flow * reach[horizon - step - 1][..., self.following]
            here = self._sum(self.following, flow)
            lengths.append(here[..., self.layout.goal])

        return Posterior(
            log_evidence=evidence.log(),
            starts=starts,
            lengths=torch.stack(lengths, -1) / evidence.unsqueeze(-1),
            counts=counts / evidence.unsqueeze(-1),
        )

    def posterior_policy(self, posterior: Posterior) -> Tensor:
        r"""Compute the best backward policy, :math:`p(a_t \mid s_{t+1}, R > L)`.

        Of all backward policies that depend on the state only, it has the smallest
        :math:`\mathrm{KL}(p(\tau \mid R > L) \,\|\, q(\tau))`.

        Args:
            posterior: result of :meth:`posterior`.

        Returns:
            A table of shape ``[*batch, num_cells, 4]``, with zeros for cells that no such
            trajectory enters.
        """
        visits = self._pairs(posterior.counts)
        return visits / visits.sum(-1, keepdim=True).clamp_min(1e-300)

    def backward_policy_kl(self, posterior: Posterior, backward_policy: Tensor) -> Tensor:
        r"""Average :math:`\mathrm{KL}(p(a_t \mid s_{t+1}, R > L) \,\|\, q)` over steps, in nats.

        Args:
            posterior: result of :meth:`posterior`.
            backward_policy: table of :math:`q(a_t \mid s_{t+1})`, shape ``[*batch, num_cells, 4]``.

        Returns:
            Divergences in nats, shape ``[*batch]``.
        """
        visits = self._pairs(posterior.counts)
        best = self.posterior_policy(posterior)
        kl = _times_log(visits, best) - _times_log(visits, backward_policy.double())
        return kl.sum((-2, -1)) / visits.sum((-2, -1))

    def forward_kl(self, policy: Tensor, posterior: Posterior, log_q: Tensor) -> Tensor:
        r"""Compute :math:`\mathrm{KL}(p(\tau \mid R > L) \,\|\, q(\tau))`, which Eq. 2 minimises.

        Here and below :math:`q(\tau) = q(T) \prod_t q(s_t, a_t \mid s_{t+1})` from the goal
        backwards, with the posterior's lengths as :math:`q(T)`.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            posterior: posterior of the policy.
            log_q: log-probabilities of the transitions under the model, see :meth:`log_prob_of`.

        Returns:
            Divergences in nats, shape ``[*batch]``.
        """
        # E_p[log p - log q], term by term: policy, starts and evidence, lengths, model.
        log_p = _times_log(posterior.counts, self._weights(policy)).sum(-1)
        log_p = log_p + _times_log(posterior.starts, self.starts).sum(-1) - posterior.log_evidence
        lengths = _times_log(posterior.lengths, posterior.lengths).sum(-1)
        return log_p - lengths - _dot(posterior.counts, log_q)

    def elbo(
        self, policy: Tensor, log_q: Tensor, lengths: Tensor, threshold: float = 0.0
    ) -> Tensor:
        r"""Compute the evidence lower bound (Eq. 5).

        .. math:: \mathcal{L} = \sum_\tau q(\tau) \log \frac{p(R > L \mid \tau) \, p(\tau)}{q(\tau)}

        The bound is minus infinity if a trace can begin in a cell where no episode begins, or can
        be longer than :math:`R > L` allows. So it is if a trace can take a step that the grid does
        not have, as with a learned state predictor.

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            log_q: log-probabilities of the transitions under the model.
            lengths: :math:`q(T)`, probabilities of traces of 0, 1, 2, ... steps.
            threshold: L, in [0, 1).

        Returns:
            Bounds in nats, shape ``[*batch]``.
        """
        counts, starts = self.trace_counts(log_q, lengths)
        log_p = _times_log(counts, self._weights(policy)).sum(-1)
        log_p = log_p + _times_log(starts, self.starts).sum(-1)
        bound = log_p - _dot(counts, log_q) - _times_log(lengths, lengths).sum(-1)
        too_long = (lengths[..., self.horizon(threshold) + 1 :] > 0).any(-1)
        leaves = starts.sum(-1) < lengths.sum(-1) - _ROUNDING
        return torch.where(too_long | leaves, -torch.inf, bound)

    def reverse_kl(
        self, policy: Tensor, log_q: Tensor, lengths: Tensor, threshold: float = 0.0
    ) -> Tensor:
        r"""Compute :math:`\mathrm{KL}(q(\tau) \,\|\, p(\tau \mid R > L))`, the bound's gap (Eq. 4).

        Args:
            policy: table, shape ``[*batch, num_cells, 4]``.
            log_q: log-probabilities of the transitions under the model.
            lengths: :math:`q(T)`, probabilities of traces of 0, 1, 2, ... steps.
            threshold: L, in [0, 1).

        Returns:
            Divergences in nats, shape ``[*batch]``.
        """
        evidence = self.probability_above(policy, threshold).log()
        return evidence - self.elbo(policy, log_q, lengths, threshold)

    def trace_counts(self, log_q: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the expected transitions and first cells of recall traces to the goal.

        Args:
            log_q: log-probabilities of the transitions under the model.
            lengths: probabilities of traces of 0, 1, 2, ... steps.

        Returns:
            The expected number of times that a trace takes each transition, shape
            ``[*batch, num_transitions]``. Then the distribution of the first cell of a trace, shape
            ``[*batch, num_cells]``.
        """
        # Backwards from the goal: here is the distribution after each number of backward steps.
        chance = log_q.double().exp()
        here = torch.zeros(*log_q.shape[:-1], self.layout.num_cells, dtype=torch.float64)
        here[..., self.layout.goal] = 1
        counts, starts = torch.zeros_like(chance), here * lengths[..., :1]
        for step in range(1, lengths.shape[-1]):
            flow = here[..., self.following] * chance
            counts = counts + flow * lengths[..., step:].sum(-1, keepdim=True)
            here = self._sum(self.source, flow)
            starts = starts + here * lengths[..., step : step + 1]
        return counts, starts

    def log_prob_of(self, model: BacktrackingModel, num_seeds: int | None = None) -> Tensor:
        """Return the model's log-probability of each transition of the grid.

        Args:
            model: a backtracking model of the grid.
            num_seeds: number of models that are stacked in it; None for a single model.

        Returns:
            Log-probabilities in nats, shape ``[num_transitions]`` or
            ``[num_seeds, num_transitions]``.
        """
        shape = () if num_seeds is None else (num_seeds,)
        data = TensorDict(
            {
                "observation": self.source,
                "action": self.action,
                "next": {"observation": self.following},
            },
            batch_size=[len(self.source)],
        )
        with torch.no_grad():
            return model.log_prob(data.expand(*shape, *data.shape)).double()

    def _weights(self, policy: Tensor) -> Tensor:
        """Compute π(a|s) p(s'|s,a) of each transition."""
        return policy.double()[..., self.source, self.action] * self.probability

    def _reward_to_go(self, value: Tensor) -> Tensor:
        """Return 1 for transitions into the goal, and the discounted next value for all others."""
        goal = self.following == self.layout.goal
        return torch.where(goal, 1.0, self.gamma * value[..., self.following])

    def _reach(self, weights: Tensor, horizon: int) -> list[Tensor]:
        """Compute the probabilities of reaching the goal within 0, 1, ..., horizon steps."""
        goal = torch.zeros(self.layout.num_cells, dtype=torch.float64)
        goal[self.layout.goal] = 1
        reach = [goal.expand(*weights.shape[:-1], -1)]
        for _ in range(horizon):
            reach.append(self._sum(self.source, weights * reach[-1][..., self.following]) + goal)
        return reach

    def _sum(self, cells: Tensor, values: Tensor) -> Tensor:
        """Sum the values of transitions over those with the same given cell."""
        zeros = values.new_zeros(*values.shape[:-1], self.layout.num_cells)
        return zeros.index_add(-1, cells, values)

    def _pairs(self, counts: Tensor) -> Tensor:
        """Sum counts by (next cell, action), shape ``[*batch, num_cells, 4]``."""
        zeros = counts.new_zeros(*counts.shape[:-1], self.layout.num_cells * 4)
        pairs = zeros.index_add(-1, self.following * 4 + self.action, counts)
        return pairs.reshape(*counts.shape[:-1], -1, 4)


def _times_log(weight: Tensor, value: Tensor) -> Tensor:
    """Multiply weight and log(value); value and gradient are zero where the weight is zero."""
    value = value.double()
    safe = torch.where(weight > 0, value, torch.ones_like(value))
    return weight * safe.log()


def _dot(weight: Tensor, log_value: Tensor) -> Tensor:
    """Sum weight * log_value, ignoring zero weights."""
    log_value = log_value.double()
    return (weight * torch.where(weight > 0, log_value, torch.zeros_like(log_value))).sum(-1)
