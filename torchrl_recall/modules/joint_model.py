"""Backtracking and forward model on one trunk (App. G)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor, nn
from torchrl.data import TensorSpec, Unbounded
from torchrl.modules import MLP

from torchrl_recall.checks import all_finite, next_key, unraveled
from torchrl_recall.modules.appendix_c_networks import leaf_spec, probabilistic_mlp
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.reward_model import real_reward, write_outcome
from torchrl_recall.modules.standardization import ContinuousCodec, codec_from_spec

__all__ = ["JointModel"]


class JointModel(BacktrackingModel):
    r"""Backtracking model that shares its trunk with a forward model and a reward model.

    .. math::
        q(a_t \mid h_{t+1}), \quad q(\Delta s_t \mid a_t, h_{t+1}), \quad
        p(\Delta s_t \mid a_t, h_t), \quad \hat r(h_t, a_t), \ \hat p(d_t = 1 \mid h_t, a_t),
        \qquad h_t = f(s_t)

    App. G leaves joint training to future work. Its idea is that rewards teach the trunk which
    features of a state matter. The value head of App. G is left out, because the host's critic
    already estimates values. A joint model can replace any
    :class:`~torchrl_recall.BacktrackingModel`. :class:`~torchrl_recall.JointLoss` trains all heads
    at once. :class:`~torchrl_recall.Agreement` uses its forward head, and :meth:`predict_outcome`
    gives rewards to transitions for a critic. Neither then needs a network of its own.

    From *Recall Traces: Backtracking Models for Efficient Reinforcement Learning*, Goyal et al.,
    ICLR 2019.

    Args:
        trunk: network of h = f(s), which reads the standardised state.
        backward_policy: the backward policy of a backtracking model, which reads h under
            ``("next", observation_key)``.
        state_predictor: the state predictor of a backtracking model, which reads h in the same way.
        forward_predictor: predicts the next state from h of s_t and the action. It reads the same
            keys as the state predictor, and writes ``delta_key``, or ``observation_key`` for
            discrete states.
        outcome: network that reads h and the features of the action, concatenated. It returns the
            standardised reward and the logit of termination.

    Keyword Args:
        specs: keyword arguments of :class:`~torchrl_recall.BacktrackingModel`.

    Raises:
        ValueError: see :class:`~torchrl_recall.BacktrackingModel`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import JointLoss, JointModel
        >>> model = JointModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {
        ...         "observation": torch.randn(64, 3), "reward": torch.randn(64, 1),
        ...         "terminated": torch.zeros(64, 1, dtype=torch.bool),
        ...     },
        ... }, [64])
        >>> model.update_statistics(data)
        >>> sorted(JointLoss(model)(data).keys())[:3]
        ['loss_backward_policy', 'loss_forward_predictor', 'loss_reward']
        >>> model.forward_log_prob(data).shape
        torch.Size([64])
    """

    def __init__(
        self,
        trunk: nn.Module,
        backward_policy: ProbabilisticTensorDictSequential,
        state_predictor: ProbabilisticTensorDictSequential,
        forward_predictor: ProbabilisticTensorDictSequential,
        outcome: nn.Module,
        **specs: Any,
    ) -> None:
        super().__init__(backward_policy, state_predictor, **specs)
        self.trunk, self.forward_predictor, self.outcome = trunk, forward_predictor, outcome
        self.rewards = ContinuousCodec(Unbounded((1,)))

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
    ) -> JointModel:
        """Build the model with networks of the sizes of App. C.

        Args:
            observation_spec: spec of the observation, or a composite that holds it.
            action_spec: spec of the action, or a composite that holds it.

        Keyword Args:
            observation_key: key of the observation.
            action_key: key of the action.
            delta_key: key to write the change of state to.
            num_cells: hidden units of each layer. The first layer is the trunk; each head has all
                further layers.
            action_scale: see :meth:`BacktrackingModel.from_specs`.
            clamp_actions: see :class:`~torchrl_recall.BacktrackingModel`.
            standardize: see :class:`~torchrl_recall.BacktrackingModel`.
            num_models: must be one, because an ensemble cannot share a trunk.

        Returns:
            A model on the default device.

        Raises:
            ValueError: there is no hidden layer, or more than one model is asked for.
        """
        if num_models != 1:
            raise ValueError(
                f"num_models={num_models} are an ensemble, whose members share no trunk; take "
                "BacktrackingModel.from_specs(..., num_models=...)."
            )
        if not num_cells:
            raise ValueError("num_cells is empty, but its first layer is the trunk; give it one.")
        observation_key = unraveled(observation_key)
        observations = codec_from_spec(
            leaf_spec(observation_spec, observation_key, "observation"), "observation"
        )
        actions = codec_from_spec(leaf_spec(action_spec, action_key, "action"), "action")
        width, *cells = num_cells
        state_key = next_key(observation_key)
        dynamics: dict[str, Any] = {
            "in_features": width + actions.num_features,
            "in_keys": [action_key, state_key],
            "out_key": delta_key if isinstance(observations, ContinuousCodec) else observation_key,
            "num_cells": cells,
            "activation_class": nn.ReLU,
        }
        return cls(
            MLP(
                in_features=observations.num_features,
                out_features=width,
                num_cells=[],
                activation_class=nn.ReLU,
                activate_last_layer=True,
            ),
            probabilistic_mlp(
                actions,
                in_features=width,
                in_keys=[state_key],
                out_key=action_key,
                num_cells=cells,
                activation_class=nn.Tanh,
                unit_scale=action_scale == "unit",
            ),
            probabilistic_mlp(observations, **dynamics),
            probabilistic_mlp(observations, **dynamics),
            MLP(
                in_features=width + actions.num_features,
                out_features=2,
                num_cells=cells,
                activation_class=nn.ReLU,
            ),
            observation_spec=observation_spec,
            action_spec=action_spec,
            observation_key=observation_key,
            action_key=action_key,
            delta_key=delta_key,
            clamp_actions=clamp_actions,
            standardize=standardize,
        )

    def forward_log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Compute log p(s_{t+1} | s_t, a_t) of the data.

        Args:
            tensordict: ``observation``, ``action`` and ``("next", "observation")``, any batch
                shape, in environment units.

        Returns:
            Log-densities in nats, of the batch's shape.
        """
        self.check_statistics()
        observation = self._read(tensordict, self.observation_key)
        following = self._read(tensordict, self.next_observation_key)
        action = self._read(tensordict, self.action_key)
        dist = self.forward_predictor.get_dist(self._condition(observation, action))
        if self.deltas is None:
            return dist.log_prob(self.observations.target(following))
        delta = self.deltas.target(observation - following)
        return dist.log_prob(delta) + self.deltas.log_abs_det()

    def predict(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Predict the standardised reward and the logit of termination.

        Args:
            tensordict: transitions of any batch shape, environment units.

        Returns:
            Two tensors of shape ``[*batch, 1]``.
        """
        self.check_statistics()
        action = self._read(tensordict, self.action_key)
        data = self._condition(self._read(tensordict, self.observation_key), action)
        inputs = data.get(self.next_observation_key), data.get(self.action_key)
        reward, logit = self.outcome(torch.cat(inputs, -1)).chunk(2, -1)
        return reward, logit

    def predict_outcome(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the expected reward, and a terminal flag where termination is likelier than not.

        Args:
            tensordict: transitions of any batch shape, environment units.

        Returns:
            The same tensordict, with ``("next", "reward")`` and ``("next", "terminated")``.
        """
        return write_outcome(tensordict, self.rewards, *self.predict(tensordict))

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Add new transitions to the running means and variances, including those of rewards.

        Pass each transition once.

        Args:
            tensordict: real transitions, any batch shape, environment units.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry holds NaN or infinity, or is of another dtype than its spec.
        """
        reward = self.reward_of(tensordict)
        all_finite({("next", "reward"): reward})
        super().update_statistics(tensordict)
        if reward.numel():
            self.rewards.update(reward)

    def reward_of(self, tensordict: TensorDictBase) -> Tensor:
        """Return the real reward of transitions.

        Args:
            tensordict: real transitions, any batch shape.

        Returns:
            Rewards, shape ``[*batch, 1]``.
        """
        return real_reward(tensordict, "JointModel")

    def _condition(self, next_observation: Tensor, action: Tensor | None = None) -> TensorDict:
        data = super()._condition(next_observation, action)
        features = data.get(self.next_observation_key)
        return data.set(self.next_observation_key, self.trunk(features))
