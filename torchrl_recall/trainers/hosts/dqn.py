"""Deep Q-learning, from TorchRL's parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.envs import EnvBase
from torchrl.modules import EGreedyModule
from torchrl.objectives import DQNLoss, HardUpdate

from torchrl_recall.modules.policies import BoltzmannPolicy
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful, Steps
from torchrl_recall.trainers.hosts.actors import greedy_actor
from torchrl_recall.trainers.hosts.trace_rows import with_traces
from torchrl_recall.trainers.schema import DQNRecallConfig

__all__ = ["DQN"]


class DQN(Stateful):
    """TorchRL's ``DQNLoss`` with double Q-learning, Adam, and a target network copied at intervals.

    For exploration, actions are random with a probability that falls with the number of frames. For
    imitation, the policy is a softmax of the values (:class:`~torchrl_recall.BoltzmannPolicy`).

    Args:
        env: environment that gives the specs.
        config: configuration with ``dqn``, ``optim``, ``collector.total_frames`` and ``compile``.
        device: device of the network.

    Attributes:
        actor: the greedy policy.
        explorer: the policy with exploration, for collection.
        policy: the policy with a distribution, for Eq. 3.
    """

    def __init__(self, env: EnvBase, config: DQNRecallConfig, device: torch.device) -> None:
        dqn, spec = config.dqn, env.action_spec_unbatched.to(device)
        self.actor = greedy_actor(env, spec, dqn.num_cells, device)
        self.policy = BoltzmannPolicy(self.actor, temperature=dqn.imitation_temperature)
        self.exploration = EGreedyModule(
            spec,
            eps_init=dqn.eps_init,
            eps_end=dqn.eps_end,
            annealing_num_steps=max(
                1, round(dqn.annealed_fraction * config.collector.total_frames)
            ),
            device=device,
        )
        self.explorer = TensorDictSequential(self.actor, self.exploration)
        self.loss_module = DQNLoss(
            self.actor,
            action_space=spec,
            loss_function="smooth_l1",
            delay_value=True,
            double_dqn=True,
        )
        self.loss_module.make_value_estimator(gamma=dqn.gamma)
        self.loss_module.to(device)
        self.optimizer = make_adam(self.loss_module, config.optim.lr)
        self._step = make_update(
            self.loss_module,
            self.optimizer,
            loss_fn=with_traces(self.loss_module, self.loss_module.in_keys),
            max_grad_norm=dqn.max_grad_norm,
            compile=bool(config.compile),
        )
        self._targets = HardUpdate(self.loss_module, value_network_update_interval=0)
        self.num_updates, self._interval = dqn.num_updates, dqn.target_update_interval
        self.steps = Steps()

    def explored(self, frames: int) -> None:
        """Lower the probability of random actions.

        Args:
            frames: number of frames since the last call.
        """
        self.exploration.step(frames)

    def update(self, batch: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        """Take one gradient step, and copy the network when it is due (Alg. 1, lines 6 and 7).

        Args:
            batch: real transitions.
            traces: transitions of traces.

        Returns:
            Detached losses.
        """
        losses = self._step(batch) if traces is None else self._step(batch, traces)
        if self.steps.every(self._interval):
            self._targets.step()
        return losses

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, targets, optimiser, exploration and the counter of steps."""
        return {
            "loss": self.loss_module,
            "optimizer": self.optimizer,
            "exploration": self.exploration,
            "steps": self.steps,
        }
