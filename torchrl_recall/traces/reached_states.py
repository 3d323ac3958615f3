"""Sources of next states of transitions, with the reward and whether the episode ended."""

from __future__ import annotations

from abc import abstractmethod

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import next_key, positive
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.traces.high_value_states import HighValueStates, best_indices

__all__ = ["ReachedStates", "ReturnStates", "RewardStates", "UniformStates"]


class ReachedStates(HighValueStates):
    """Source of next states of transitions, which carry the reward of the transition.

    End states have ``reward`` and ``terminated`` of the transition into them, shape
    ``[num_states, 1]``, under the keys that TorchRL's ``step_mdp`` uses. A subclass implements
    :meth:`choose`.

    Args:
        num_states: number of states to return.

    Keyword Args:
        observation_key: key of the state.
        reward_key: key of the reward, under ``"next"``.
        terminated_key: key of the terminal flag, under ``"next"``. If it is missing, ``"done"`` is
            read instead. Without both, end states carry no flag.
    """

    def __init__(
        self,
        num_states: int,
        *,
        observation_key: NestedKey = "observation",
        reward_key: NestedKey = "reward",
        terminated_key: NestedKey = "terminated",
    ) -> None:
        super().__init__(num_states, observation_key=observation_key)
        self.reward_key, self.terminated_key = reward_key, terminated_key

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Choose among the next states of the given transitions; see the class.

        Args:
            tensordict: transitions in forward time, any batch shape.

        Returns:
            End states of shape ``[num_states]`` or less, with ``reward`` and, if known,
            ``terminated``.

        Raises:
            KeyError: the transitions lack a next state or a reward.
            ValueError: there are no transitions, or several rewards for each.
        """
        keys = next_key(self.observation_key), next_key(self.reward_key)
        tensordict = valid_steps(tensordict)
        states, rewards = self._flat(tensordict, *keys)
        if rewards.numel() != len(states):
            raise ValueError(
                f"{keys[1]!r} holds {rewards[0].numel()} rewards for each step; end states need "
                "one. Sum them, or name another entry with reward_key=."
            )
        rewards = rewards.reshape(-1)
        terminated = tensordict.get(
            next_key(self.terminated_key), tensordict.get(("next", "done"), None)
        )
        if terminated is not None:
            terminated = terminated.reshape(-1)
        chosen = self.choose(states, rewards, terminated)
        end_states = self._end_states(states[chosen])
        end_states.set("reward", rewards[chosen].unsqueeze(-1))
        if terminated is not None:
            end_states.set("terminated", terminated[chosen].unsqueeze(-1))
        return end_states

    @abstractmethod
    def choose(self, states: Tensor, rewards: Tensor, terminated: Tensor | None) -> Tensor:
        """Return the indices of the chosen states.

        Args:
            states: next states, shape ``[n, *state_shape]``.
            rewards: rewards of the transitions into them, shape ``[n]``.
            terminated: terminal flags of these transitions, shape ``[n]``; None if unknown.

        Returns:
            Indices of the chosen states, shape ``[num_states]`` or less.
        """


class RewardStates(ReachedStates):
    """Source of the states that were entered with the highest reward (on-policy; App. E.1).

    NaN is never the highest reward.

    Args:
        num_states: number of states to return.

    Keyword Args:
        threshold: states whose reward does not exceed it are left out; None keeps all states. If
            no reward exceeds it, no state is returned: before the first reward there is nothing to
            recall.
        replacement: whether to draw ``num_states`` states uniformly, with replacement, from those
            above the threshold, instead of the best ones. In a sparse task these are the successes.
        observation_key: key of the state; its reward is that of the transition into it.
        reward_key: key of the reward, under ``"next"``.
        terminated_key: key of the terminal flag, under ``"next"``.

    Raises:
        ValueError: no reward is finite, or a draw has no threshold.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import RewardStates
        >>> data = TensorDict({"next": {
        ...     "observation": torch.tensor([[1.0], [3.0], [2.0]]),
        ...     "reward": torch.tensor([[0.0], [0.0], [1.0]]),
        ... }}, [3])
        >>> RewardStates(num_states=8, threshold=0.0)(data)["observation"]
        tensor([[2.]])
        >>> RewardStates(3, threshold=0.0, replacement=True)(data)["reward"].flatten()
        tensor([1., 1., 1.])
    """

    def __init__(
        self,
        num_states: int,
        *,
        threshold: float | None = None,
        replacement: bool = False,
        observation_key: NestedKey = "observation",
        reward_key: NestedKey = "reward",
        terminated_key: NestedKey = "terminated",
    ) -> None:
        super().__init__(
            num_states,
            observation_key=observation_key,
            reward_key=reward_key,
            terminated_key=terminated_key,
        )
        if replacement and threshold is None:
            raise ValueError(
                "replacement=True draws among the rewards above a threshold; give one, such as "
                "threshold=0.0, or take UniformStates."
            )
        self.threshold, self.replacement = threshold, replacement

    def choose(self, states: Tensor, rewards: Tensor, terminated: Tensor | None) -> Tensor:
        """Rank states or draw them by the reward; see the class.

        Args:
            states: next states, shape ``[n, *state_shape]``.
            rewards: rewards of the transitions into them, shape ``[n]``.
            terminated: terminal flags of these transitions, shape ``[n]``; None if unknown.

        Returns:
            Indices of the chosen states, shape ``[num_states]`` or less.
        """
        if self.threshold is None:
            return best_indices(rewards, self.num_states, name="rewards")
        above = (rewards > self.threshold).nonzero().squeeze(-1)
        if not len(above):
            return above
        if self.replacement:
            return above[torch.randint(len(above), (self.num_states,), device=above.device)]
        return above[best_indices(rewards[above], self.num_states, name="rewards")]


class ReturnStates(ReachedStates):
    r"""Source of the states with the highest reward plus discounted value.

    .. math:: w(s') = r + \gamma \, (1 - d) \, V(s'), \qquad
        p(s') \propto \exp \frac{w(s') - \max w}{\tau \, (\max w - \min w)}

    Here r and d are reward and terminal flag of the transition into s'. A terminal state counts by
    its reward alone; :class:`~torchrl_recall.CriticStates` leaves terminal states out. States are
    drawn with replacement. The temperature has no unit: at :math:`\tau = 0.1` the worst candidate
    is :math:`e^{10}` times less likely than the best. States without a finite value are never
    drawn.

    Args:
        critic: module that writes ``value_key``, such as :class:`~torchrl_recall.StateValues`.
        num_states: number of states to return.

    Keyword Args:
        gamma: γ, the host's discount factor.
        temperature: τ, relative to the range of w; None takes the best states, each once.
        value_key: key that the critic writes, of shape ``[*batch, 1]`` or ``[*batch]``.
        observation_key: key of the state.
        reward_key: key of the reward, under ``"next"``.
        terminated_key: key of the terminal flag, under ``"next"``.

    Raises:
        KeyError: transitions have no terminal flag.
        ValueError: a number is out of its range, or no state has a finite value.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import ValueOperator
        >>> from torchrl_recall import ReturnStates
        >>> critic = ValueOperator(torch.nn.Identity(), in_keys=["observation"])  # V(s) = s
        >>> data = TensorDict({"next": {
        ...     "observation": torch.tensor([[0.9], [5.0], [0.1]]),
        ...     "reward": torch.tensor([[0.0], [1.0], [0.0]]),
        ...     "terminated": torch.tensor([[False], [True], [False]]),
        ... }}, [3])
        >>> best = ReturnStates(critic, 2, gamma=0.9, temperature=None)(data)
        >>> best["observation"].flatten(), best["reward"].flatten()
        (tensor([5.0000, 0.9000]), tensor([1., 0.]))
    """

    def __init__(
        self,
        critic: TensorDictModuleBase,
        num_states: int,
        *,
        gamma: float = 0.99,
        temperature: float | None = 0.1,
        value_key: NestedKey = "state_value",
        observation_key: NestedKey = "observation",
        reward_key: NestedKey = "reward",
        terminated_key: NestedKey = "terminated",
    ) -> None:
        super().__init__(
            num_states,
            observation_key=observation_key,
            reward_key=reward_key,
            terminated_key=terminated_key,
        )
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}.")
        if temperature is not None:
            positive(temperature=temperature)
        self.critic, self.value_key = critic, value_key
        self.gamma, self.temperature = gamma, temperature

    def choose(self, states: Tensor, rewards: Tensor, terminated: Tensor | None) -> Tensor:
        """Rank states or draw them by w; see the class.

        Args:
            states: next states, shape ``[n, *state_shape]``.
            rewards: rewards of the transitions into them, shape ``[n]``.
            terminated: terminal flags of these transitions, shape ``[n]``; None if unknown.

        Returns:
            Indices of the chosen states, shape ``[num_states]`` or less.

        Raises:
            KeyError: the terminal flags are unknown.
        """
        if terminated is None:
            raise KeyError(
                f"ReturnStates reads {next_key(self.terminated_key)!r}, without which a terminal "
                "state would count by a value that it does not have. Name it with terminated_key=."
            )
        values = self._values(self.critic, states, self.value_key)
        # Not a product: a network's value of a terminal state may be infinite or NaN.
        worth = rewards + torch.where(terminated, 0.0, self.gamma * values)
        if self.temperature is None:
            return best_indices(worth, self.num_states, name="values")
        finite = worth.isfinite()
        best = best_indices(worth, 1, name="values")  # refuses values of which none is finite
        spread = worth[best] - worth[finite].min()
        scores = (worth - worth[best]) / (self.temperature * spread.clamp(min=1e-12))
        weights = torch.where(finite, scores, -torch.inf).softmax(-1)
        return weights.multinomial(self.num_states, replacement=True)


class UniformStates(ReachedStates):
    """Source of uniformly drawn next states, the control of :class:`ReturnStates`.

    Args:
        num_states: number of states to draw, with replacement.

    Keyword Args:
        observation_key: key of the state.
        reward_key: key of the reward, under ``"next"``.
        terminated_key: key of the terminal flag, under ``"next"``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import UniformStates
        >>> data = TensorDict({
        ...     "next": {"observation": torch.ones(3, 2), "reward": torch.zeros(3, 1)}
        ... }, [3])
        >>> UniformStates(5)(data).shape
        torch.Size([5])
    """

    def choose(self, states: Tensor, rewards: Tensor, terminated: Tensor | None) -> Tensor:
        """Draw states uniformly; see the class.

        Args:
            states: next states, shape ``[n, *state_shape]``.
            rewards: rewards of the transitions into them, shape ``[n]``.
            terminated: terminal flags of these transitions, shape ``[n]``; None if unknown.

        Returns:
            Indices of the chosen states, shape ``[num_states]`` or less.
        """
        return torch.randint(len(states), (self.num_states,), device=states.device)
