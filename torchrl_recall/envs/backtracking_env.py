"""Reversed decision process, in which an action leads to the previous state (Sec. 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import ModelBasedEnvBase

from torchrl_recall.checks import next_key, require
from torchrl_recall.devices import device_of
from torchrl_recall.modules.backward_model import BackwardModel, check_backward_model

__all__ = ["BacktrackingEnv", "reverse_time"]


class BacktrackingEnv(ModelBasedEnvBase):
    r"""Backtracking model as an environment whose time runs backwards.

    - *Observation*: ``observation`` is :math:`s_{t+1}`, and ``("next", "observation")`` is
      :math:`s_t \sim q(s_t \mid a_t, s_{t+1})`. In all other classes time runs forward.
    - *Action*: ``action``, chosen by :attr:`backward_policy`, :math:`a_t \sim q(a_t \mid s_{t+1})`,
      or by any other policy.
    - *Reward*: none.
    - *End*: the environment is never done; the length of the rollout ends a trace.

    :func:`reverse_time` converts a rollout to forward time.

    From Goyal et al., *Recall Traces*, ICLR 2019, Sec. 2.1.

    Args:
        model: the backtracking model, or any :class:`~torchrl_recall.BackwardModel`.

    Keyword Args:
        batch_size: batch shape of traces. By default end states may have any batch shape, and a
            reset without end states begins one trace.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingEnv, BacktrackingModel, reverse_time
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> model.update_statistics(TensorDict({
        ...     "observation": torch.randn(64, 3),
        ...     "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64]))
        >>> env = BacktrackingEnv(model)
        >>> end_states = TensorDict({"observation": torch.randn(5, 3)}, [5])
        >>> rollout = env.rollout(
        ...     7, env.backward_policy, tensordict=end_states, auto_reset=False,
        ...     break_when_any_done=False,
        ... )
        >>> traces = reverse_time(rollout)
        >>> bool((traces["next", "observation"][:, -1] == end_states["observation"]).all())
        True
    """

    def __init__(self, model: BackwardModel, *, batch_size: Sequence[int] = ()) -> None:
        check_backward_model(model)
        # No device: tensors follow the end states, and nothing is cast inside the loop.
        super().__init__(model, device=None, batch_size=torch.Size(batch_size))
        self._supports_set_state = True
        self.observation_spec = self._nest(model.observation_key, model.observation_spec)
        self.state_spec = self.observation_spec.clone()
        self.action_spec = self._nest(model.action_key, model.action_spec)
        self.reward_spec = Unbounded((*self.batch_size, 1))

    def expand(self, *size: int | Sequence[int]) -> BacktrackingEnv:
        """Return the same environment with another batch size, as ``expand`` of specs does.

        Args:
            size: the new batch size; its last dimensions are those of the present batch size.

        Returns:
            A new environment with the same model.
        """
        given = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
        shape = torch.Size(given)  # type: ignore[arg-type]
        torch.empty(self.batch_size).expand(shape)  # raises an error for a size that does not fit
        return type(self)(self.world_model, batch_size=shape)

    @property
    def backward_policy(self) -> TensorDictModule:
        """The policy q(a_t | s_{t+1}), which reads s_{t+1} from ``observation``."""
        model = self.world_model
        return TensorDictModule(
            model.sample_action, in_keys=[model.observation_key], out_keys=[model.action_key]
        )

    def any_done(self, tensordict: TensorDictBase) -> bool:
        """Return False: traces have a fixed length, and reading flags would wait for the GPU.

        Args:
            tensordict: ignored.
        """
        return False

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict unchanged, because no trace is ever reset.

        Args:
            tensordict: a step of a rollout.
        """
        return tensordict

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        model = self.world_model
        states = None
        if tensordict is not None and kwargs.get("set_state") is not False:
            states = tensordict.get(model.observation_key, None)
        if tensordict is None or states is None:
            drawn = self.full_observation_spec.rand().update(self.full_done_spec.zero())
            device = device_of(model)
            return drawn if device is None else drawn.to(device)
        out = TensorDict({}, batch_size=tensordict.batch_size)
        out.set(model.observation_key, states)
        return out.update(self._not_done(states, out.batch_size))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.world_model
        observation = model.sample_observation(
            tensordict.get(model.action_key), tensordict.get(model.observation_key)
        )
        shape = tensordict.batch_size
        out = TensorDict({}, batch_size=shape)
        out.set(model.observation_key, observation)
        out.set("reward", torch.zeros(*shape, 1, device=observation.device))
        return out.update(self._not_done(observation, shape))

    def _nest(self, key: NestedKey, spec: TensorSpec) -> Composite:
        composite = Composite(batch_size=self.batch_size)
        composite[key] = spec.expand(*self.batch_size, *spec.shape).clone()
        return composite

    def _not_done(self, observation: Tensor, shape: torch.Size) -> dict[NestedKey, Tensor]:
        device = observation.device
        return {
            key: torch.zeros(*shape, 1, dtype=torch.bool, device=device) for key in self.done_keys
        }


def reverse_time(
    tensordict: TensorDictBase, *, observation_key: NestedKey = "observation"
) -> TensorDictBase:
    """Convert a rollout of :class:`BacktrackingEnv` to forward time, or forward time back.

    The function is its own inverse. It flips the last batch dimension, and swaps the observation of
    each step with its next observation. Actions stay with their steps.

    Args:
        tensordict: steps of shape ``[*batch, time]``.

    Keyword Args:
        observation_key: key that is swapped with ``("next", observation_key)``.

    Returns:
        A new tensordict of the same shape.

    Raises:
        ValueError: there is no time dimension.
        KeyError: an observation is missing.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import reverse_time
        >>> backwards = TensorDict({"observation": torch.tensor([3, 2]),
        ...                         "next": {"observation": torch.tensor([2, 1])}}, [2])
        >>> reverse_time(backwards)["observation"]
        tensor([1, 2])
    """
    if not tensordict.ndim:
        raise ValueError("reverse_time needs a tensordict whose last batch dimension is time.")
    next_observation_key = next_key(observation_key)
    out = tensordict.flip(-1)
    cure = "Name the observation with observation_key=."
    observation = require(out, observation_key, "reverse_time", cure)
    next_observation = require(out, next_observation_key, "reverse_time", cure)
    return out.set(observation_key, next_observation).set(next_observation_key, observation)
