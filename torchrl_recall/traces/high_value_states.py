"""Sources of high-value states, the end states of recall traces (Alg. 1, line 10, and Alg. 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl_recall.checks import at_least, positive, require
from torchrl_recall.data.top_trajectories import valid_steps

__all__ = ["CriticStates", "GoalStates", "HighValueStates"]


class HighValueStates(nn.Module, ABC):
    """Source of end states for recall traces (Alg. 1, line 10, and Alg. 2).

    A subclass implements :meth:`forward`, which chooses ``num_states`` end states from experience.

    Args:
        num_states: number of end states to return.

    Keyword Args:
        observation_key: key of the state, in the experience and in the output.

    Raises:
        ValueError: ``num_states`` is below one.

    Examples:
        A source of your own, which takes the newest states:

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import HighValueStates
        >>> class NewestStates(HighValueStates):
        ...     def forward(self, tensordict):
        ...         return tensordict.reshape(-1)[-self.num_states :].select(self.observation_key)
        >>> experience = TensorDict({"observation": torch.arange(10.0).view(10, 1)}, [10])
        >>> NewestStates(2)(experience)["observation"].squeeze(-1)
        tensor([8., 9.])
    """

    def __init__(self, num_states: int, *, observation_key: NestedKey = "observation") -> None:
        super().__init__()
        at_least(1, num_states=num_states)
        self.num_states = num_states
        self.observation_key = observation_key

    @abstractmethod
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Choose end states from experience.

        Args:
            tensordict: transitions in forward time, any batch shape.

        Returns:
            End states of shape ``[num_states]`` or less, under ``observation_key``. A source that
            knows the transition into each state adds its ``reward`` and ``terminated``, shape
            ``[num_states, 1]``. Traces for a critic need both.
        """

    def _flat(self, tensordict: TensorDictBase, *keys: NestedKey) -> list[Tensor]:
        """Return entries of experience, flattened; refuse missing entries and empty experience."""
        tensordict = valid_steps(tensordict)
        if not tensordict.shape.numel():
            raise ValueError(
                f"{type(self).__name__} chooses among experience, but there is none; collect some "
                "first."
            )
        cure = "Name it with observation_key= or reward_key=."
        ndim = tensordict.ndim
        entries = [require(tensordict, key, type(self).__name__, cure) for key in keys]
        return [e.reshape(-1, *e.shape[ndim:]) for e in entries]

    def _end_states(self, states: Tensor) -> TensorDict:
        """Put states under the observation key."""
        end_states = TensorDict({}, batch_size=states.shape[:1])
        return end_states.set(self.observation_key, states)

    def _values(self, critic: TensorDictModuleBase, states: Tensor, value_key: NestedKey) -> Tensor:
        """Return V of states, shape ``[num_states]``."""
        end_states = self._end_states(states)
        try:
            found = critic(end_states)
        except KeyError as error:
            raise KeyError(
                f"the critic of {type(self).__name__} reads {list(critic.in_keys)}, but end "
                f"states hold {list(end_states.keys(True, True))} ({error}). Give a critic of "
                "those, such as StateValues of a loss whose networks read them."
            ) from error
        cure = "Name what the critic writes with value_key=."
        values = require(found, value_key, type(self).__name__, cure)
        if values.numel() != len(states):
            raise ValueError(
                f"the critic of {type(self).__name__} writes {value_key!r} of shape "
                f"{tuple(values.shape)} for {len(states)} states; one value for each is needed."
            )
        return values.reshape(-1)


class CriticStates(HighValueStates):
    r"""Source of the states of highest value under a critic (off-policy; Alg. 2, line 6).

    .. math:: \arg\max_{s \in \mathcal{B}} V(s)
        \quad\text{or}\quad s \sim e^{V(s) / \text{temperature}}

    NaN is never the highest value. Only states in which an action was taken are ranked, so a
    terminal state is never chosen, whatever its reward. :class:`~torchrl_recall.ReturnStates` can
    choose terminal states, because it ranks next states by reward and value.

    Args:
        critic: module that writes ``value_key``, such as a value operator or
            :class:`~torchrl_recall.StateValues`.
        num_states: number of states to return.

    Keyword Args:
        temperature: temperature of a Boltzmann draw without replacement, in units of value; None
            takes the best states.
        value_key: key that the critic writes, of shape ``[*batch, 1]`` or ``[*batch]``.
        observation_key: key of the state.

    Raises:
        ValueError: the temperature is not positive, or no state has a finite value.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import ValueOperator
        >>> from torchrl_recall import CriticStates
        >>> critic = ValueOperator(torch.nn.Identity(), in_keys=["observation"])  # V(s) = s
        >>> data = TensorDict({"observation": torch.tensor([[1.0], [3.0], [2.0]])}, [3])
        >>> CriticStates(critic, num_states=2)(data)["observation"]
        tensor([[3.],
                [2.]])
    """

    def __init__(
        self,
        critic: TensorDictModuleBase,
        num_states: int,
        *,
        temperature: float | None = None,
        value_key: NestedKey = "state_value",
        observation_key: NestedKey = "observation",
    ) -> None:
        super().__init__(num_states, observation_key=observation_key)
        if temperature is not None:
            positive(temperature=temperature)
        self.critic = critic
        self.temperature = temperature
        self.value_key = value_key

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Choose among the given states; see the class.

        Args:
            tensordict: transitions in forward time, any batch shape.

        Returns:
            End states of shape ``[num_states]`` or less.
        """
        (states,) = self._flat(tensordict, self.observation_key)
        return self._end_states(states[self._rank(states)])

    @torch.no_grad()
    def rank(self, tensordict: TensorDictBase) -> Tensor:
        """Return the indices of the chosen states.

        Args:
            tensordict: transitions in forward time, any batch shape.

        Returns:
            Indices into the flattened batch, best first, shape ``[num_states]`` or less.
        """
        (states,) = self._flat(tensordict, self.observation_key)
        index = self._rank(states)
        mask = tensordict.get(("collector", "mask"), None)
        return index if mask is None else mask.reshape(-1).nonzero().squeeze(-1)[index]

    def _rank(self, states: Tensor) -> Tensor:
        scores = self._values(self.critic, states, self.value_key)
        return best_indices(scores, self.num_states, temperature=self.temperature, name="values")


class GoalStates(HighValueStates):
    """Source of states that are known to be good in advance (Sec. 4).

    Args:
        goals: the states, shape ``[num_goals, *state_shape]``, environment units.
        num_states: number of goals to draw, uniformly with replacement. By default every goal is
            returned once.

    Keyword Args:
        observation_key: key under which goals are returned.

    Raises:
        ValueError: there are no goals, or they are not finite.

    Examples:
        >>> import torch
        >>> from torchrl_recall import GoalStates
        >>> GoalStates(torch.zeros(1, 3), num_states=5)()["observation"].shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        goals: Tensor,
        num_states: int | None = None,
        *,
        observation_key: NestedKey = "observation",
    ) -> None:
        if not goals.ndim or not len(goals) or not goals.isfinite().all():
            raise ValueError(
                f"goals must be finite states of shape [num_goals, *state_shape], got shape "
                f"{tuple(goals.shape)}."
            )
        super().__init__(
            len(goals) if num_states is None else num_states, observation_key=observation_key
        )
        self.draw = num_states is not None
        self.goals: Tensor
        self.register_buffer("goals", goals)

    def forward(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        """Return goals.

        Args:
            tensordict: ignored.

        Returns:
            Goals of shape ``[num_states]``, under ``observation_key``.
        """
        if not self.draw:
            return self._end_states(self.goals.clone())
        index = torch.randint(len(self.goals), (self.num_states,), device=self.goals.device)
        return self._end_states(self.goals[index])


def check_rewarded(high_value_states: HighValueStates, reader: str) -> None:
    """Refuse end states without a reward, of which a critic cannot learn.

    Args:
        high_value_states: source of end states.
        reader: what reads them, for the error.

    Raises:
        ValueError: the source is known to give no rewards.
    """
    if isinstance(high_value_states, CriticStates | GoalStates):
        raise ValueError(
            f"{reader} needs end states that carry their reward, which "
            f"{type(high_value_states).__name__} do not; take ReturnStates(critic, num_states), or "
            "RewardStates."
        )


def best_indices(
    scores: Tensor, k: int, *, temperature: float | None = None, name: str = "scores"
) -> Tensor:
    """Return the indices of the k best scores, best first, or a Boltzmann draw of k.

    NaN never wins.

    Args:
        scores: shape ``[n]``; fewer than k finite ones give fewer indices.
        k: number of indices.

    Keyword Args:
        temperature: temperature of the draw, in units of the scores; None takes the best.
        name: name of the scores, for the error.

    Returns:
        Indices of shape ``[k]`` or fewer.

    Raises:
        ValueError: none of the scores is finite.

    Examples:
        >>> import torch
        >>> from torchrl_recall.traces.high_value_states import best_indices
        >>> best_indices(torch.tensor([1.0, float("nan"), 3.0, 2.0]), 2)
        tensor([2, 3])
    """
    candidates = scores.isfinite().nonzero().squeeze(-1)
    if not len(candidates):
        raise ValueError(
            f"none of the {len(scores)} {name} is finite, so no state can be called best. "
            "Look for a diverged critic, or for NaN rewards."
        )
    finite = scores[candidates]
    k = min(k, len(candidates))
    if temperature is None:
        return candidates[finite.topk(k).indices]
    # Gumbel top-k: a draw without replacement in which no probability underflows.
    noise = -torch.empty_like(finite).exponential_().log()
    return candidates[(finite / temperature + noise).topk(k).indices]
