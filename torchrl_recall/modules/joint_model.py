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

from torchrl_recall.checks import next_key, unraveled
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

    App. G leaves joint training to future work: the reward would teach the trunk what of a state
    matters. Its value is left out, since a critic says what states are worth. As a
    :class:`~torchrl_recall.BacktrackingModel` it goes wherever one goes.
    :class:`~torchrl_recall.JointLoss` trains all heads at once.
    :class:`~torchrl_recall.Agreement` asks its forward head, and :meth:`predict_outcome` rewards
    what a critic learns from, so that neither needs a network of its own.

    From *Recall Traces: Backtracking Models for Efficient Reinforcement Learning*, Goyal et al.,
    ICLR 2019.

    Args:
        trunk: h = f(s), of the standardised state.
        backward_policy: as of a backtracking model, but reads h under
            ``("next", observation_key)``.
        state_predictor: the same.
        forward_predictor: reads h and the action as the state predictor does, where h is of s_t;
            writes ``delta_key``, or ``observation_key`` for categories.
        outcome: reads h and the features of the action, joined; writes the standardised reward and
            the logit of an end.

    Keyword Args:
        specs: of :class:`~torchrl_recall.BacktrackingModel`.

    Raises:
        ValueError: as a backtracking model.

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
            num_cells: hidden units of each layer; the first is the trunk, the others are of each
                head.
            action_scale: see :meth:`BacktrackingModel.from_specs`.
            clamp_actions: see :class:`~torchrl_recall.BacktrackingModel`.
            num_models: one; an ensemble has no shared trunk.

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
        )

    def forward_log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Compute log p(s_{t+1} | s_t, a_t) of the data, of the batch's shape.

        Args:
            tensordict: ``observation``, ``action`` and ``("next", "observation")``, any batch
                shape, in environment units.
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
        """Return the standardised reward and the logit of an end, each ``[*batch, 1]``."""
        self.check_statistics()
        action = self._read(tensordict, self.action_key)
        data = self._condition(self._read(tensordict, self.observation_key), action)
        inputs = data.get(self.next_observation_key), data.get(self.action_key)
        reward, logit = self.outcome(torch.cat(inputs, -1)).chunk(2, -1)
        return reward, logit

    def predict_outcome(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the expected reward, and whether an end is likelier than none.

        Args:
            tensordict: transitions of any batch shape.

        Returns:
            The same tensordict, with ``("next", "reward")`` and ``("next", "terminated")``.
        """
        return write_outcome(tensordict, self.rewards, *self.predict(tensordict))

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Fold new transitions into the running means and variances, also of rewards.

        Args:
            tensordict: real transitions, any batch shape; give each once.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry holds NaN or infinity.
        """
        reward = self.reward_of(tensordict)
        if not reward.isfinite().all():
            raise ValueError(
                "('next', 'reward') holds NaN or infinity; the statistics were left as they were. "
                "Find the environment step that produced it and drop it from the data."
            )
        super().update_statistics(tensordict)
        if reward.numel():
            self.rewards.update(reward)

    def reward_of(self, tensordict: TensorDictBase) -> Tensor:
        """Return the real reward of transitions, shape ``[*batch, 1]``."""
        return real_reward(tensordict, "JointModel")

    def _condition(self, next_observation: Tensor, action: Tensor | None = None) -> TensorDict:
        data = super()._condition(next_observation, action)
        features = data.get(self.next_observation_key)
        return data.set(self.next_observation_key, self.trunk(features))
