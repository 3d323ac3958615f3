"""Transitions that a forward model imagines, for a critic: a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.checks import at_least, positive, require
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.devices import device_of
from torchrl_recall.forward_updates import ForwardUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.policies import check_bounded, uniform_actions
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.reward_updates import RewardUpdates
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.newest import FreshTransitions
from torchrl_recall.traces.transitions import finite_rows, with_rewards

__all__ = ["ForwardDyna"]


class ForwardDyna(Stateful):
    r"""Transitions imagined by a forward model, from which a critic learns, as in Dyna.

    .. math:: s_{t+1} \sim p(s_{t+1} \mid a_t, s_t), \qquad r_t, d_t = r(s_t, a_t, s_{t+1})

    This is the control of :class:`~torchrl_recall.Recall` with ``use="critic"``. A backtracking
    model that is trained on data reversed in time *is* a forward model of the same size. Its state
    predictor takes the same gradient steps on the same data. Rollouts begin in states drawn from
    the replay buffer. They do not end in states of known reward, so rewards have to be learned or
    known.

    From Sutton, *Dyna, an integrated architecture for learning, planning, and reacting*, 1991.

    Args:
        model: a backtracking model, q(s_t | a_t, s_{t+1}). Here its input s_{t+1} holds the state
            in which a step begins.
        reward: module called with the transitions. It writes ``("next", "reward")``, and may write
            ``("next", "terminated")``. A :class:`~torchrl_recall.RewardModel` is trained with as
            many gradient steps, of the same batch size, as the model.

    Keyword Args:
        policy: chooses actions; None draws them uniformly.
        interval: frames between rounds.
        start_frames: number of frames before the first round.
        num_states: rollouts in each round.
        trace_length: steps of each rollout.
        num_model_updates: gradient steps of the model in each round.
        model_batch_size: transitions in each gradient step of the model.
        model_lr: the model's learning rate.
        compile: whether gradient steps are compiled.

    Raises:
        ValueError: a number is out of its range, or uniform actions have no bounds.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall import BacktrackingModel, ForwardDyna, RewardModel
        >>> specs = Unbounded((3,)), Bounded(-1, 1, (2,))
        >>> model, reward = BacktrackingModel.from_specs(*specs), RewardModel(*specs)
        >>> dyna = ForwardDyna(model, reward, interval=40, num_states=16)
        >>> path = torch.randn(41, 3).cumsum(0)
        >>> data = TensorDict({
        ...     "observation": path[:-1], "action": torch.rand(40, 2),
        ...     "next": {
        ...         "observation": path[1:], "reward": torch.randn(40, 1),
        ...         "terminated": torch.zeros(40, 1, dtype=torch.bool),
        ...     },
        ... }, [40])
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(100))
        >>> _ = replay_buffer.extend(data)
        >>> dyna.extend(data)
        >>> _ = dyna.step(replay_buffer)
        >>> dyna.transitions(8)["next", "reward"].shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        model: BacktrackingModel,
        reward: Callable[[TensorDictBase], TensorDictBase | None],
        *,
        policy: TensorDictModuleBase | None = None,
        interval: int = 50,
        start_frames: int = 0,
        num_states: int = 640,
        trace_length: int = 1,
        num_model_updates: int = 50,
        model_batch_size: int = 256,
        model_lr: float = 1e-3,
        compile: bool = False,
    ) -> None:
        at_least(1, num_states=num_states, trace_length=trace_length)
        at_least(0, num_model_updates=num_model_updates)
        at_least(1, model_batch_size=model_batch_size)
        positive(model_lr=model_lr)
        if policy is None:
            check_bounded(model.action_spec)
        self.model, self.reward, self.policy = model, reward, policy
        self.num_states, self.trace_length = num_states, trace_length
        self.schedule = Schedule(interval, start_frames=start_frames)
        steps: dict[str, Any] = {"num_updates": num_model_updates, "batch_size": model_batch_size}
        self.train_model = ForwardUpdates(model, lr=model_lr, compile=compile, **steps)
        self.train_reward = None
        if isinstance(reward, RewardModel):
            self.train_reward = RewardUpdates(reward, lr=model_lr, compile=compile, **steps)
        self.fresh = FreshTransitions(device_of(model))
        self.draws: BatchSource = Draws()

    def extend(self, data: TensorDictBase) -> None:
        """Count the frames of new experience, and add it to the models' statistics.

        Args:
            data: transitions, of any batch shape.
        """
        data = valid_steps(data).reshape(-1)
        if self.train_reward is not None:  # the first, because it checks all entries
            self.train_reward.model.update_statistics(data)
        self.train_model.update_statistics(data)
        self.schedule.advance(len(data))

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the model and imagine transitions, once for each round that is due.

        Args:
            replay_buffer: all experience.

        Returns:
            Detached means of the last round; empty if no round was due.
        """
        metrics: dict[str, Tensor] = {}
        for _ in self.schedule.rounds():
            metrics = self.train_model(replay_buffer)
            if self.train_reward is not None:
                metrics |= self.train_reward(replay_buffer)
            starts = self.draws.candidates(replay_buffer, self.num_states)
            assert starts is not None
            self.fresh.replace(self.imagine(starts))
        return metrics | self.schedule.metrics

    @torch.no_grad()
    def imagine(self, starts: TensorDictBase) -> TensorDictBase:
        """Roll the model out from some states.

        Args:
            starts: states under the model's ``observation_key``, shape ``[num_states]``.

        Returns:
            Transitions like those of :class:`~torchrl_recall.TraceTransitions`, shape
            ``[num_states * trace_length]`` or less, because a rollout stops where its episode ends.
        """
        model, rows = self.model, []
        states = require(starts, model.observation_key, "ForwardDyna", "Give real transitions.")
        for _ in range(self.trace_length):
            if not len(states):
                break
            row = TensorDict({}, batch_size=states.shape[:1])
            row.set(model.observation_key, states).set(model.action_key, self._act(states))
            # By the model's names time runs backwards.
            following = model.sample_observation(row.get(model.action_key), states)
            row.set(model.next_observation_key, following)
            ended = torch.zeros(len(states), 1, dtype=torch.bool, device=states.device)
            row.set(("next", "terminated"), ended)
            row = with_rewards(row, self.reward, "ForwardDyna")
            row.set(("next", "terminated"), row["next", "terminated"].bool())
            row.set(("next", "done"), row["next", "terminated"].clone())
            row.set("steps_to_next_obs", torch.ones_like(ended[:, 0], dtype=torch.int64))
            rows.append(row)
            states = following[~row["next", "terminated"].reshape(-1)]
        imagined = torch.cat(rows)
        keys = [model.observation_key, model.next_observation_key, ("next", "reward")]
        return imagined[finite_rows(imagined, keys)]

    def _act(self, states: Tensor) -> Tensor:
        """Choose an action in each state."""
        if self.policy is None:
            return uniform_actions(self.model.action_spec, len(states), device=states.device)
        seen = TensorDict({}, batch_size=states.shape[:1]).set(self.model.observation_key, states)
        with set_exploration_type(ExplorationType.RANDOM):
            return self.policy(seen).get(self.model.action_key)

    def transitions(self, num: int) -> TensorDictBase | None:
        """Draw imagined transitions of the newest round.

        Args:
            num: number of transitions, drawn with replacement.

        Returns:
            Transitions of shape ``[num]``; None before the first round.
        """
        return self.fresh.sample(num)

    def drop_unfinished(self) -> None:
        """Do nothing: no trajectory is stored."""

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the parts whose state a resumed run needs; the host saves the policy."""
        return {
            "schedule": self.schedule,
            "train_model": self.train_model,
            "fresh": self.fresh,
            **({} if self.train_reward is None else {"train_reward": self.train_reward}),
        }
