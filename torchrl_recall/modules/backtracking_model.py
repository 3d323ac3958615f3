"""Backtracking model of Eq. 1: a backward policy and a state predictor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    dispatch,
)
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.data import TensorSpec

from torchrl_recall.checks import (
    all_finite,
    at_least,
    next_key,
    require,
    same_batch,
    same_dtype,
    unraveled,
)
from torchrl_recall.modules.appendix_c_networks import leaf_spec, probabilistic_mlp
from torchrl_recall.modules.ensemble import EnsembleDistribution
from torchrl_recall.modules.standardization import Codec, ContinuousCodec, codec_from_spec

__all__ = ["BacktrackingModel"]


class BacktrackingModel(TensorDictModuleBase):
    r"""Joint distribution of the previous action and state, given the state that followed them.

    .. math::
        q(s_t, a_t \mid s_{t+1}) = q(\Delta s_t \mid a_t, s_{t+1}) \, q(a_t \mid s_{t+1}),
        \qquad \Delta s_t = s_t - s_{t+1} \tag{1}

    Here :math:`q(a_t \mid s_{t+1})` is the *backward policy* and
    :math:`q(\Delta s_t \mid a_t, s_{t+1})` is the *state predictor*. States and actions are
    standardised before they enter the networks. Samples are converted back to environment units
    (App. C). Discrete states and actions enter as one-hot vectors. The state predictor of a
    discrete state is a distribution over :math:`s_t` itself (Sec. 3.1).

    From *Recall Traces: Backtracking Models for Efficient Reinforcement Learning*, Goyal et al.,
    ICLR 2019. Data are in forward time: ``("next", "observation")`` is :math:`s_{t+1}`.

    Args:
        backward_policy: module with ``in_keys=[("next", observation_key)]`` that writes
            ``action_key``. It reads and samples standardised values.
        state_predictor: module with ``in_keys`` among ``action_key`` and
            ``("next", observation_key)`` that writes ``delta_key`` (continuous states,
            standardised) or ``observation_key`` (discrete states).

    Keyword Args:
        observation_spec: spec of the observation, or a composite that holds it.
        action_spec: spec of the action, or a composite that holds it.
        observation_key: key of :math:`s_t`; :math:`s_{t+1}` is the same key under ``"next"``.
        action_key: key of :math:`a_t`.
        delta_key: key to write :math:`\Delta s_t` to, in environment units.
        clamp_actions: whether sampled actions are clamped to the bounds of ``action_spec``. The
            paper does not clamp, but then long traces leave the action space.
        as_index: whether the networks receive categories as indices of the batch's shape, as
            embeddings need them, instead of one-hot vectors.
        standardize: whether the networks read and write standardised values. App. C calls it
            required; ``False`` is the control.

    Raises:
        ValueError: a spec is neither a vector of floats nor categorical or one-hot, or the keys
            of a module do not match.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingModel
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3),
        ...     "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64])
        >>> model.update_statistics(data)
        >>> model.log_prob(data).shape
        torch.Size([64])
        >>> previous = model(data.select(("next", "observation")))
        >>> previous["observation"].shape, previous["action"].shape
        (torch.Size([64, 3]), torch.Size([64, 2]))
    """

    def __init__(
        self,
        backward_policy: ProbabilisticTensorDictSequential,
        state_predictor: ProbabilisticTensorDictSequential,
        *,
        observation_spec: TensorSpec,
        action_spec: TensorSpec,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        delta_key: NestedKey = "observation_delta",
        clamp_actions: bool = True,
        as_index: bool = False,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        self.observation_key = unraveled(observation_key)
        self.action_key = unraveled(action_key)
        self.delta_key = unraveled(delta_key)
        self.next_observation_key = next_key(self.observation_key)
        self.observation_spec = leaf_spec(observation_spec, self.observation_key, "observation")
        self.action_spec = leaf_spec(action_spec, self.action_key, "action")
        self.clamp_actions = clamp_actions

        form: dict[str, bool] = {"as_index": as_index, "standardize": standardize}
        self.observations: Codec = codec_from_spec(self.observation_spec, "observation", **form)
        self.actions: Codec = codec_from_spec(self.action_spec, "action", **form)
        self.deltas = (
            ContinuousCodec(self.observation_spec, standardize=standardize)
            if isinstance(self.observations, ContinuousCodec)
            else None
        )
        self.backward_policy = backward_policy
        self.state_predictor = state_predictor
        self._check_keys()

        self.in_keys = [self.next_observation_key]
        self.out_keys = [self.action_key, self.observation_key]
        if self.deltas is not None:
            self.out_keys.insert(1, self.delta_key)
        self._has_statistics = self._warned_outside = False
        self.num_models = 1  # of an ensemble

    @classmethod
    def from_specs(
        cls,
        observation_spec: TensorSpec,
        action_spec: TensorSpec,
        *,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        delta_key: NestedKey = "observation_delta",
        num_cells: Sequence[int] = (128, 128),
        action_scale: Literal["unit", "learned"] = "unit",
        clamp_actions: bool = True,
        standardize: bool = True,
        num_models: int = 1,
    ) -> BacktrackingModel:
        """Build the model with the networks of App. C.

        The backward policy and the state predictor are perceptrons with two hidden layers of 128
        units. Activations are tanh for the backward policy and ReLU for the state predictor. The
        state predictor learns a variance for each dimension.

        Args:
            observation_spec: spec of the observation, or a composite that holds it.
            action_spec: spec of the action, or a composite that holds it.

        Keyword Args:
            observation_key: key of the observation.
            action_key: key of the action.
            delta_key: key to write the change of state to.
            num_cells: hidden units of each layer.
            action_scale: standard deviation of the standardised action: ``"unit"`` fixes it at one,
                as in the paper; ``"learned"`` learns it for each dimension.
            clamp_actions: see the class.
            standardize: see the class.
            num_models: number of members; more than one form an ensemble. Each step of each trace
                is sampled from a randomly drawn member. :class:`~torchrl_recall.Disagreement` cuts
                traces at steps on which the members disagree.

        Returns:
            A model on the default device.

        Raises:
            ValueError: see the class.
        """
        if action_scale not in ("unit", "learned"):
            raise ValueError(
                f"action_scale must be 'unit' (App. C of the paper) or 'learned', "
                f"got {action_scale!r}."
            )
        at_least(1, num_models=num_models)
        observation_key = unraveled(observation_key)
        next_observation_key = next_key(observation_key)
        observations = codec_from_spec(
            leaf_spec(observation_spec, observation_key, "observation"), "observation"
        )
        actions = codec_from_spec(leaf_spec(action_spec, action_key, "action"), "action")
        backward_policy = probabilistic_mlp(
            actions,
            in_features=observations.num_features,
            in_keys=[next_observation_key],
            out_key=action_key,
            num_cells=num_cells,
            activation_class=nn.Tanh,
            unit_scale=action_scale == "unit",
            num_models=num_models,
        )
        state_predictor = probabilistic_mlp(
            observations,
            in_features=observations.num_features + actions.num_features,
            in_keys=[action_key, next_observation_key],
            out_key=delta_key if isinstance(observations, ContinuousCodec) else observation_key,
            num_cells=num_cells,
            activation_class=nn.ReLU,
            num_models=num_models,
        )
        model = cls(
            backward_policy,
            state_predictor,
            observation_spec=observation_spec,
            action_spec=action_spec,
            observation_key=observation_key,
            action_key=action_key,
            delta_key=delta_key,
            clamp_actions=clamp_actions,
            standardize=standardize,
        )
        model.num_models = num_models
        return model

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Sample the previous action and state of ``("next", observation_key)``.

        Args:
            tensordict: ``("next", observation_key)`` in environment units, any batch shape.

        Returns:
            The same tensordict with the action, the change of state and the previous state.
        """
        next_observation = self._read(tensordict, self.next_observation_key)
        action = self.sample_action(next_observation)
        observation = self.sample_observation(action, next_observation)
        tensordict.set(self.action_key, action)
        if self.deltas is not None:
            tensordict.set(self.delta_key, observation - next_observation)
        return tensordict.set(self.observation_key, observation)

    def sample_action(self, next_observation: Tensor) -> Tensor:
        """Draw a_t from the backward policy.

        Args:
            next_observation: s_{t+1}, shape ``[*batch, *state_shape]``, environment units.

        Returns:
            a_t, shape ``[*batch, *action_shape]``, environment units.
        """
        self.check_statistics()
        data = self._condition(next_observation)
        action = self.actions.decode(self.backward_policy(data).get(self.action_key))
        return self.actions.clamp(action) if self.clamp_actions else action

    def sample_observation(self, action: Tensor, next_observation: Tensor) -> Tensor:
        """Draw s_t from the state predictor.

        Args:
            action: a_t, shape ``[*batch, *action_shape]``, environment units.
            next_observation: s_{t+1}, shape ``[*batch, *state_shape]``, environment units.

        Returns:
            s_t, in the shape of s_{t+1}, environment units.
        """
        self.check_statistics()
        data = self.state_predictor(self._condition(next_observation, action))
        if self.deltas is None:
            return self.observations.decode(data.get(self.observation_key))
        observation = next_observation + self.deltas.decode(data.get(self.delta_key))
        return self.observations.clamp(observation)

    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Compute the log-density of the data's action and state, in environment units (Eq. 1).

        Args:
            tensordict: ``observation``, ``action`` and ``("next", "observation")``, any batch
                shape, environment units. The state predictor reads the action of the data, not a
                sample.

        Returns:
            Log-densities in nats, of the batch's shape.
        """
        return self.backward_policy_log_prob(tensordict) + self.state_predictor_log_prob(
            tensordict
        )  # Eq. 1

    def backward_policy_log_prob(
        self, tensordict: TensorDictBase, *, each_member: bool = False
    ) -> Tensor:
        """Compute log q(a_t | s_{t+1}) of the data's action.

        Args:
            tensordict: see :meth:`log_prob`.

        Keyword Args:
            each_member: whether to return the log-density of each member of an ensemble.

        Returns:
            Log-densities in nats, of the batch's shape; ``[*batch, num_models]`` with
            ``each_member``.
        """
        self.check_statistics()
        action = self._read(tensordict, self.action_key)
        next_observation = self._read(tensordict, self.next_observation_key)
        self._check_batch(action, next_observation)
        data = self._condition(next_observation)
        dist = self.backward_policy.get_dist(data)
        log_prob = _log_prob("backward_policy", dist, self.actions.target(action), each_member)
        return log_prob + self.actions.log_abs_det()

    def state_predictor_log_prob(
        self, tensordict: TensorDictBase, *, each_member: bool = False
    ) -> Tensor:
        """Compute log q(Δs_t | a_t, s_{t+1}) of the data's state.

        Args:
            tensordict: see :meth:`log_prob`.

        Keyword Args:
            each_member: whether to return the log-density of each member of an ensemble.

        Returns:
            Log-densities in nats, of the batch's shape; ``[*batch, num_models]`` with
            ``each_member``.
        """
        observation = self._read(tensordict, self.observation_key)
        next_observation = self._read(tensordict, self.next_observation_key)
        dist = self.state_predictor_dist(tensordict)
        if self.deltas is None:
            target = self.observations.target(observation)
            return _log_prob("state_predictor", dist, target, each_member)
        target = self.deltas.target(observation - next_observation)
        log_prob = _log_prob("state_predictor", dist, target, each_member)
        return log_prob + self.deltas.log_abs_det()

    def state_predictor_dist(self, tensordict: TensorDictBase) -> Distribution:
        """Return q(Δs_t | a_t, s_{t+1}), given the data's action, in units of the networks.

        Args:
            tensordict: see :meth:`log_prob`.

        Returns:
            The distribution over Δs_t, or over s_t if states are discrete.
        """
        self.check_statistics()
        next_observation = self._read(tensordict, self.next_observation_key)
        data = self._condition(next_observation, self._read(tensordict, self.action_key))
        return self.state_predictor.get_dist(data)

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Add new transitions to the running means and variances (App. C).

        Pass each transition once. Dimensions that never change keep a scale of one.

        Args:
            tensordict: ``observation``, ``action`` and ``("next", "observation")``, any batch
                shape, environment units.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry holds NaN or infinity or is of another dtype than its spec, or
                actions and states differ in their batch shape.
        """
        observation = self._read(tensordict, self.observation_key)
        next_observation = self._read(tensordict, self.next_observation_key)
        action = self._read(tensordict, self.action_key)
        self._check_batch(action, next_observation)
        for key, value, spec in (
            (self.observation_key, observation, self.observation_spec),
            (self.next_observation_key, next_observation, self.observation_spec),
            (self.action_key, action, self.action_spec),
        ):
            if spec.dtype.is_floating_point:  # categories may be stored in any dtype
                same_dtype(repr(key), value, spec)
            all_finite({key: value})
        if not next_observation.numel():
            return
        self._warn_outside(observation, next_observation)
        self.observations.update(next_observation)
        self.actions.update(action)
        if self.deltas is not None:
            self.deltas.update(observation - next_observation)

    def _warn_outside(self, *states: Tensor) -> None:
        """Warn once that data lie outside the bounds to which sampled states are clamped."""
        codec = self.observations
        if self._warned_outside or getattr(codec, "low", None) is None:
            return
        if any(not torch.equal(codec.clamp(state), state) for state in states):
            self._warned_outside = True
            warnings.warn(
                f"{self.observation_key!r} lies outside the bounds of its spec, to which "
                "sampled states are clamped. Give the model a spec with true bounds, such as "
                "Unbounded(shape).",
                stacklevel=3,
            )

    def _condition(self, next_observation: Tensor, action: Tensor | None = None) -> TensorDict:
        batch = next_observation.shape[: next_observation.ndim - len(self.observation_spec.shape)]
        data = TensorDict({}, batch_size=batch)
        data.set(self.next_observation_key, self.observations.features(next_observation))
        if action is not None:
            self._check_batch(action, next_observation)
            data.set(self.action_key, self.actions.features(action))
        return data

    def _check_batch(self, action: Tensor, next_observation: Tensor) -> None:
        same_batch(
            {
                self.action_key: (action, self.action_spec.shape),
                self.next_observation_key: (next_observation, self.observation_spec.shape),
            }
        )

    def _read(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor:
        cure = "Rename the entry, or build the model with observation_key= and action_key=."
        spec = self.action_spec if key == self.action_key else self.observation_spec
        return require(tensordict, key, "the backtracking model", cure, shape=spec.shape)

    def check_statistics(self) -> None:
        """Refuse to standardise values without statistics.

        Raises:
            RuntimeError: :meth:`update_statistics` was never called.
        """
        if self._has_statistics or torch.compiler.is_compiling():
            return
        for codec in (self.observations, self.actions):
            if isinstance(codec, ContinuousCodec) and codec.standardize and not codec.count.any():
                raise RuntimeError(
                    "the backtracking model has never seen data, so it cannot standardise its "
                    "inputs. Call model.update_statistics(data) with collected transitions first."
                )
        self._has_statistics = True

    def _check_keys(self) -> None:
        out_key = self.observation_key if self.deltas is None else self.delta_key
        conditions = [self.next_observation_key, self.action_key]
        for name, module, allowed, written in (
            ("backward_policy", self.backward_policy, conditions[:1], self.action_key),
            ("state_predictor", self.state_predictor, conditions, out_key),
        ):
            if not hasattr(module, "get_dist"):
                raise ValueError(
                    f"{name} must be a ProbabilisticTensorDictSequential, whose distribution can "
                    f"be scored, got {type(module).__name__}."
                )
            unknown = [key for key in module.in_keys if unraveled(key) not in allowed]
            if unknown:
                raise ValueError(f"{name} reads {unknown}; it is given {allowed} only.")
            if written not in [unraveled(key) for key in module.out_keys]:
                raise ValueError(
                    f"{name} must write {written!r}, but its out_keys are {list(module.out_keys)}."
                )


def _log_prob(name: str, dist: Distribution, target: Tensor, each_member: bool) -> Tensor:
    """Compute the log-density, of the model or of each member of an ensemble."""
    event = tuple(dist.event_shape)
    if event and event != tuple(target.shape[-len(event) :]):  # broadcasting would hide it
        raise ValueError(
            f"{name} is a distribution of values of shape {event}, but the data's have "
            f"{tuple(target.shape[-len(event) :])}; give its network as many outputs as that needs."
        )
    if each_member and isinstance(dist, EnsembleDistribution):
        return dist.member_log_prob(target)
    return dist.log_prob(target)
