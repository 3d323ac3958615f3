"""Model of the reward of a transition, and of whether it ends the episode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import TensorSpec, Unbounded
from torchrl.modules import MLP

from torchrl_recall.checks import all_finite, next_key, require, same_batch, unraveled
from torchrl_recall.modules.appendix_c_networks import leaf_spec
from torchrl_recall.modules.standardization import Codec, ContinuousCodec, codec_from_spec

__all__ = ["RewardModel", "real_reward", "write_outcome"]


def write_outcome(
    tensordict: TensorDictBase, rewards: ContinuousCodec, reward: Tensor, logit: Tensor
) -> TensorDictBase:
    """Write the expected reward of transitions, and a terminal flag where it is likelier than not.

    Args:
        tensordict: transitions of any batch shape.
        rewards: codec of the reward.
        reward: standardised reward, shape ``[*batch, 1]``.
        logit: logit of termination, shape ``[*batch, 1]``.

    Returns:
        The same tensordict, with ``("next", "reward")`` and ``("next", "terminated")``.
    """
    tensordict.set(("next", "reward"), rewards.decode(reward))
    return tensordict.set(("next", "terminated"), logit > 0)


def real_reward(tensordict: TensorDictBase, reader: str) -> Tensor:
    """Return the reward of real transitions.

    Args:
        tensordict: real transitions, any batch shape.
        reader: name of the class that needs the reward, for the error.

    Returns:
        Rewards, shape ``[*batch, 1]``.

    Raises:
        KeyError: the transitions have no reward.
        ValueError: they have several each.
    """
    reward = require(tensordict, ("next", "reward"), reader, "Give real transitions.")
    if reward.numel() != tensordict.shape.numel():
        raise ValueError(
            f"('next', 'reward') has shape {tuple(reward.shape)}, where {reader} reads one number "
            f"for each transition of shape {tuple(tensordict.shape)}; sum its parts."
        )
    return reward.reshape(*tensordict.shape, 1)


class RewardModel(TensorDictModuleBase):
    r"""Model of the reward of a transition, and of whether it ends the episode.

    .. math:: \hat r(s_t, a_t, s_{t+1}), \qquad \hat p(d_t = 1 \mid s_t, a_t, s_{t+1})

    One perceptron reads the standardised state, action and change of state. It returns the
    standardised reward and the logit of termination. For discrete states it reads both states as
    one-hot vectors.

    Args:
        observation_spec: spec of the observation, or a composite that holds it.
        action_spec: spec of the action, or a composite that holds it.

    Keyword Args:
        observation_key: key of the observation.
        action_key: key of the action.
        num_cells: hidden units of each layer.

    Raises:
        ValueError: a spec is neither a vector of floats nor categorical or one-hot.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import RewardModel
        >>> model = RewardModel(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3), "reward": torch.randn(64, 1)},
        ... }, [64])
        >>> model.update_statistics(data)
        >>> guess = model(data.clone())["next"]
        >>> guess["reward"].shape, guess["terminated"].dtype
        (torch.Size([64, 1]), torch.bool)
    """

    def __init__(
        self,
        observation_spec: TensorSpec,
        action_spec: TensorSpec,
        *,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        num_cells: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        self.observation_key, self.action_key = unraveled(observation_key), unraveled(action_key)
        self.next_observation_key = next_key(self.observation_key)
        states = leaf_spec(observation_spec, self.observation_key, "observation")
        actions = leaf_spec(action_spec, self.action_key, "action")
        self.observations: Codec = codec_from_spec(states, "observation")
        self.actions: Codec = codec_from_spec(actions, "action")
        self.deltas = (
            ContinuousCodec(states) if isinstance(self.observations, ContinuousCodec) else None
        )
        self.rewards = ContinuousCodec(Unbounded((1,)))
        self.net = MLP(
            in_features=2 * self.observations.num_features + self.actions.num_features,
            out_features=2,
            num_cells=list(num_cells),
            activation_class=nn.ReLU,
        )
        self.in_keys = [self.observation_key, self.action_key, self.next_observation_key]
        self._shapes = states.shape, actions.shape, states.shape
        self.out_keys = [("next", "reward"), ("next", "terminated")]

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Add new transitions to the running means and variances; pass each transition once.

        Args:
            tensordict: real transitions, any batch shape, environment units.

        Raises:
            ValueError: a state, action or reward is NaN or infinite, or batch shapes differ.
        """
        state, action, following = self._read(tensordict)
        reward = self.reward_of(tensordict)
        entries = dict(zip(self.in_keys, (state, action, following), strict=True))
        all_finite(entries | {("next", "reward"): reward})
        if not state.numel():
            return
        self.observations.update(state)
        self.actions.update(action)
        if self.deltas is not None:
            self.deltas.update(following - state)
        self.rewards.update(reward)

    def reward_of(self, tensordict: TensorDictBase) -> Tensor:
        """Return the real reward of transitions.

        Args:
            tensordict: real transitions, any batch shape.

        Returns:
            Rewards, shape ``[*batch, 1]``.
        """
        return real_reward(tensordict, "RewardModel")

    def predict(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Predict the standardised reward and the logit of termination.

        Args:
            tensordict: transitions of any batch shape, environment units.

        Returns:
            Two tensors of shape ``[*batch, 1]``.
        """
        state, action, following = self._read(tensordict)
        if self.deltas is None:
            change = self.observations.features(following)
        else:
            change = self.deltas.features(following - state)
        inputs = self.observations.features(state), self.actions.features(action), change
        reward, logit = self.net(torch.cat(inputs, -1)).chunk(2, -1)
        return reward, logit

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the expected reward, and a terminal flag where termination is likelier than not.

        Args:
            tensordict: transitions of any batch shape, environment units.

        Returns:
            The same tensordict, with ``("next", "reward")`` and ``("next", "terminated")``.
        """
        return write_outcome(tensordict, self.rewards, *self.predict(tensordict))

    def _read(self, tensordict: TensorDictBase) -> list[Tensor]:
        cure = "Rename the entry, or build the model with observation_key= and action_key=."
        shapes = dict(zip(self.in_keys, self._shapes, strict=True))
        read = {
            key: require(tensordict, key, "RewardModel", cure, shape=shape)
            for key, shape in shapes.items()
        }
        same_batch({key: (value, shapes[key]) for key, value in read.items()})
        return list(read.values())
