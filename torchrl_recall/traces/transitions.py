"""Recall traces as transitions for a critic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl_recall.checks import next_key, require
from torchrl_recall.data.returns_to_go import RETURN_TO_GO

__all__ = ["TraceTransitions", "finite_rows", "join_rows", "with_rewards"]


class TraceTransitions(nn.Module):
    r"""Conversion of recall traces to transitions in TorchRL's format, for any loss or buffer.

    .. math:: (s_t, a_t, r_t, s_{t+1}, d_t), \qquad
        r_{T-1} = r(s_T), \quad d_{T-1} = d(s_T), \quad r_t = d_t = 0 \text{ for } t < T - 1

    The last transition of a trace leads into its end state. It has the reward and the terminal flag
    of the real transition into that state. All earlier transitions have reward zero, which is right
    for tasks that reward only their goal. Other tasks need ``reward``.

    A critic may learn from these transitions as from real ones. Values propagate back from the real
    end state to imagined states. With a forward model it is the other way round: the value of a
    real state is moved towards that of an imagined one.

    Keyword Args:
        reward: module called with the transitions, such as a :class:`~torchrl_recall.RewardModel`
            or a ``TensorDictModule`` of a known rule. It writes the reward, and may write
            ``("next", "terminated")``. The last transition keeps its real values.
        observation_key: key of the states.
        action_key: key of the actions.
        reward_key: key of the rewards, under ``"next"``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import TraceTransitions
        >>> path = torch.arange(4.0).reshape(1, 4, 1)           # one trace of three steps
        >>> traces = TensorDict({
        ...     "observation": path[:, :-1], "action": torch.ones(1, 3, 1),
        ...     "next": {"observation": path[:, 1:]},
        ... }, [1, 3])
        >>> end_states = TensorDict({
        ...     "observation": path[:, -1], "reward": torch.ones(1, 1),
        ...     "terminated": torch.ones(1, 1, dtype=torch.bool),
        ... }, [1])
        >>> transitions = TraceTransitions()(traces, end_states)
        >>> transitions["next", "reward"].flatten(), transitions["next", "done"].flatten()
        (tensor([0., 0., 1.]), tensor([False, False,  True]))
    """

    def __init__(
        self,
        *,
        reward: Callable[[TensorDictBase], TensorDictBase | None] | None = None,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        reward_key: NestedKey = "reward",
    ) -> None:
        super().__init__()
        self.reward, self._warned = reward, False
        self.observation_key, self.action_key = observation_key, action_key
        self.reward_key = next_key(reward_key)

    @torch.no_grad()
    def forward(self, traces: TensorDictBase, end_states: TensorDictBase) -> TensorDict:
        """Add rewards and flags to the steps of traces, and flatten them.

        Args:
            traces: shape ``[num_traces, trace_length]`` in forward time, with traces to the same
                end state adjacent. Masked steps are dropped.
            end_states: end states as :class:`~torchrl_recall.ReturnStates` returns them, shape
                ``[num_states]``.

        Returns:
            Transitions of shape ``[num_traces * trace_length]`` or less. They have ``observation``,
            ``action`` and ``steps_to_next_obs``, which is one. Under ``"next"`` they have
            ``observation``, ``reward``, ``terminated`` and ``done``. Rows that are not finite are
            left out.

        Raises:
            KeyError: end states carry no reward or no terminal flag, or ``reward`` writes none.
            ValueError: the number of traces is no multiple of the number of end states.
        """
        if traces.ndim != 2 or len(traces) % max(1, end_states.numel()):
            raise ValueError(
                f"traces of shape {tuple(traces.shape)} do not belong to {end_states.numel()} end "
                "states; give [num_traces, trace_length] and the states that they end in."
            )
        cure = (
            "Take end states from ReturnStates, RewardStates or UniformStates, which carry reward "
            "and terminal flag of their transitions; name the flag with terminated_key=."
        )
        reader, num = "TraceTransitions", len(traces) // end_states.numel()
        reward, terminated = (
            require(end_states, key, reader, cure).reshape(-1, 1).repeat_interleave(num, 0)
            for key in ("reward", "terminated")  # where step_mdp puts them too
        )
        if not reward.is_floating_point():  # an integer would cut the fraction off a learned one
            reward = reward.to(torch.get_default_dtype())

        keys = [self.observation_key, self.action_key, next_key(self.observation_key)]
        transitions = TensorDict({}, batch_size=traces.shape)
        for key in keys:
            transitions.set(key, require(traces, key, reader, "Give a generator's traces."))
        shape, device = (*traces.shape, 1), reward.device
        zeros = torch.zeros(shape, dtype=reward.dtype, device=device)
        transitions.set(("next", "terminated"), zeros.bool())
        if self.reward is None:
            self._warn_dense(reward, terminated)
            transitions.set(self.reward_key, zeros)
        else:
            transitions = with_rewards(transitions, self.reward, reader, self.reward_key)
        known = {self.reward_key: reward, ("next", "terminated"): terminated}
        for key, last in known.items():
            rest = transitions.get(key).reshape(shape)[:, :-1].to(last.dtype)
            transitions.set(key, torch.cat([rest, last.unsqueeze(1)], 1))
        transitions.set(("next", "done"), transitions["next", "terminated"].clone())
        steps = torch.ones(traces.shape, dtype=torch.int64, device=device)
        transitions.set("steps_to_next_obs", steps)  # in the batch's shape, as MultiStepTransform's
        kept = _after_terminations(transitions["next", "terminated"].squeeze(-1))
        if (mask := traces.get("mask", None)) is not None:
            kept &= mask.reshape(kept.shape)
        rows = transitions[kept]
        return rows[finite_rows(rows, [*keys, self.reward_key])]

    def _warn_dense(self, reward: Tensor, terminated: Tensor) -> None:
        """Warn once that states other than the goal are rewarded."""
        if not self._warned and ((reward != 0) & ~terminated.bool()).any():
            self._warned = True
            warnings.warn(
                "end states were rewarded without ending the episode, so earlier steps may be "
                "rewarded too, but in traces their reward is set to zero. Learn the reward "
                "(Recall(reward=RewardModel(...)), recall.reward=learned), or give a rule.",
                stacklevel=3,
            )


def with_rewards(
    transitions: TensorDictBase,
    reward: Callable[[TensorDictBase], TensorDictBase | None],
    reader: str,
    key: NestedKey = ("next", "reward"),
) -> TensorDictBase:
    """Call a module that writes the rewards of transitions.

    Args:
        transitions: imagined transitions, of any batch shape.
        reward: writes the rewards, and returns the transitions, or None if it changed them.
        reader: name of the object that needs rewards, for the error.
        key: key of the rewards.

    Returns:
        The transitions with rewards.

    Raises:
        KeyError: there are no rewards.
    """
    given = reward(transitions)
    transitions = transitions if given is None else given
    require(transitions, key, reader, "The module that reward= gives must write it.")
    return transitions


def _after_terminations(terminated: Tensor) -> Tensor:
    """Mark the steps ``[traces, time]`` that follow the last termination in a trace.

    No episode goes on after a terminal state, so only these steps can lead to the end state.
    """
    ends = terminated[:, :-1].flip(-1).cumsum(-1).flip(-1).bool()  # a termination here or later
    return ~torch.cat([ends, torch.zeros_like(terminated[:, -1:])], -1)


def finite_rows(rows: TensorDictBase, keys: Sequence[NestedKey]) -> Tensor:
    """Mark the rows whose entries are all finite, so that a diverged model spares the critic.

    Args:
        rows: transitions of shape ``[num]``.
        keys: entries to look at.

    Returns:
        Booleans of shape ``[num]``.
    """
    finite = [rows.get(key).isfinite() for key in keys]
    return torch.stack([x.flatten(1).all(1) if x.ndim > 1 else x for x in finite]).all(0)


def join_rows(
    real: TensorDictBase, traces: TensorDictBase | None, keys: Sequence[NestedKey]
) -> TensorDictBase:
    """Join real transitions and transitions of traces to one batch for a loss.

    Args:
        real: a batch from the replay buffer.
        traces: transitions from :meth:`~torchrl_recall.Recall.transitions`, or None.
        keys: entries that the loss reads, its ``in_keys``. ``steps_to_next_obs`` and
            ``return_to_go`` are added. Entries that ``real`` lacks are left out.

    Returns:
        A batch of shape ``[len(real) + len(traces)]``, real transitions first. Without traces it
        is ``real`` itself.

    Raises:
        KeyError: traces lack an entry that real transitions have.
        ValueError: real transitions have priorities, or more than one batch dimension.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import join_rows
        >>> real = TensorDict({"action": torch.zeros(3, 1), "episode": torch.zeros(3)}, [3])
        >>> traces = TensorDict({"action": torch.ones(2, 1)}, [2])
        >>> join_rows(real, traces, ["action", "truncated"])["action"].flatten()
        tensor([0., 0., 0., 1., 1.])
    """
    if traces is None:
        return real
    if real.ndim != 1:
        raise ValueError(
            f"real transitions have the batch shape {tuple(real.shape)}; flatten them with "
            "real.reshape(-1)."
        )
    if real.get("priority_weight", None) is not None:
        raise ValueError(
            "rows of traces have no priority, so they do not fit beside those of prioritised "
            "replay; take another sampler."
        )
    rows = TensorDict({}, batch_size=[len(real) + len(traces)])
    for key in [*keys, "steps_to_next_obs", RETURN_TO_GO]:
        own, imagined = real.get(key, None), traces.get(key, None)
        if own is None:
            continue
        if key == RETURN_TO_GO:  # unknown for traces
            imagined = own.new_full((len(traces), 1), -torch.inf)
        if imagined is None:
            raise KeyError(
                f"real transitions have {key!r}, which the loss reads, but those of traces do not. "
                "Leave it out of the replay buffer, rename it by torchrl's RenameTransform, or "
                "write it in Recall(reward=...). A reward of another name is Recall's reward_key=."
            )
        if imagined.is_floating_point() and not own.is_floating_point():  # a reward
            own = own.to(imagined.dtype)
        rows.set(key, torch.cat([own, imagined.to(own.dtype)]))
    return rows
