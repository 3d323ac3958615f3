"""Interface of models from which traces are generated; known dynamics need no networks."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import TensorSpec

__all__ = ["BackwardModel", "check_backward_model"]


@runtime_checkable
class BackwardModel(Protocol):
    r"""Interface of models that can be rolled backwards.

    .. math:: a_t \sim q(a_t \mid s_{t+1}), \qquad s_t \sim q(s_t \mid a_t, s_{t+1})

    Any ``torch.nn.Module`` with these attributes and methods can generate traces, for example one
    that computes known dynamics. :class:`~torchrl_recall.BacktrackingModel` is a learned one.
    Recurrent models are not supported, because both methods receive s_{t+1} but no hidden state.

    Attributes:
        observation_key: key of s_t.
        action_key: key of a_t.
        next_observation_key: key of s_{t+1}.
        observation_spec: spec of one state.
        action_spec: spec of one action.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import RecallTraceGenerator
        >>> class Steps(torch.nn.Module):            # s_{t+1} = s_t + a_t, walked back
        ...     observation_key, action_key = "observation", "action"
        ...     next_observation_key = ("next", "observation")
        ...     observation_spec, action_spec = Unbounded((2,)), Bounded(-1, 1, (2,))
        ...
        ...     def sample_action(self, next_observation):
        ...         return torch.rand_like(next_observation)
        ...
        ...     def sample_observation(self, action, next_observation):
        ...         return next_observation - action
        >>> generate = RecallTraceGenerator(Steps(), trace_length=5, num_traces=8)
        >>> traces = generate(TensorDict({"observation": torch.zeros(1, 2)}, [1]))
        >>> arrived = traces["observation"] + traces["action"]
        >>> torch.allclose(arrived, traces["next", "observation"], atol=1e-6)
        True
    """

    observation_key: NestedKey
    action_key: NestedKey
    next_observation_key: NestedKey
    observation_spec: TensorSpec
    action_spec: TensorSpec

    def sample_action(self, next_observation: Tensor) -> Tensor:
        """Draw a_t, given s_{t+1}.

        Args:
            next_observation: s_{t+1}, shape ``[*batch, *state_shape]``, environment units.

        Returns:
            a_t, shape ``[*batch, *action_shape]``, environment units.
        """

    def sample_observation(self, action: Tensor, next_observation: Tensor) -> Tensor:
        """Draw s_t, given a_t and s_{t+1}.

        Args:
            action: a_t, shape ``[*batch, *action_shape]``, environment units.
            next_observation: s_{t+1}, shape ``[*batch, *state_shape]``, environment units.

        Returns:
            s_t, in the shape of s_{t+1}, environment units.
        """


def check_backward_model(model: object) -> None:
    """Refuse a model that cannot be rolled backwards, and name what is missing.

    Args:
        model: the model to check.

    Raises:
        TypeError: an attribute or a method is missing, or the model is no ``torch.nn.Module``.
    """
    members = (*BackwardModel.__annotations__, "sample_action", "sample_observation")
    missing = [name for name in members if not hasattr(model, name)]
    if missing or not isinstance(model, nn.Module):
        fault = f"has no {', '.join(missing)}" if missing else "is no torch.nn.Module"
        raise TypeError(
            "traces need a BacktrackingModel, or a torch.nn.Module with the members of "
            f"BackwardModel; {type(model).__name__} {fault}."
        )
