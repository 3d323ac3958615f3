"""Actor-critic of many seeds at once: the host of the four-room recipe."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Composite
from torchrl.modules import ActorValueOperator, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE

from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.seeds import (
    SeededCategorical,
    SeedStreams,
    StackedEmbedding,
    StackedLinear,
    clip_grad_norm_per_seed_,
)
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.schema import A2CRecallConfig

__all__ = ["A2C"]


class A2C(Stateful):
    """Actor-critic of stacked seeds, after TorchRL's ``A2CLoss``.

    Args:
        env: environment of batch shape ``[num_seeds, num_envs]``.
        config: configuration with ``a2c``, ``optim`` and ``seeds``.
    """

    def __init__(self, env: FourRoomsEnv, config: A2CRecallConfig) -> None:
        self.num_seeds, self.num_cells = len(config.seeds), env.layout.num_cells
        self.max_grad_norm = config.a2c.max_grad_norm
        init, act = (SeedStreams(config.seeds, stream=name) for name in ("init", "act"))
        self.streams = act
        hidden = config.a2c.num_cells
        body = nn.Sequential(
            StackedEmbedding(self.num_seeds, [self.num_cells], hidden, rand=init.rand), nn.ReLU()
        )
        heads = [
            StackedLinear(self.num_seeds, hidden, outputs, rand=init.rand) for outputs in (4, 1)
        ]
        for parameter in (p for head in heads for p in head.parameters()):
            nn.init.zeros_(parameter)  # so that only entropy has an effect before the first reward
        common = TensorDictModule(body, ["observation"], ["hidden"])
        policy = ProbabilisticActor(
            TensorDictModule(heads[0], ["hidden"], ["logits"]),
            in_keys=["logits"],
            spec=Composite(action=env.action_spec),
            distribution_class=SeededCategorical,
            distribution_kwargs={"rand": act.rand},
        )
        operator = ActorValueOperator(common, policy, ValueOperator(heads[1], ["hidden"]))
        self.actor = operator.get_policy_operator()
        self.critic = operator.get_value_operator()
        self.gae = GAE(gamma=config.a2c.gamma, lmbda=config.a2c.lmbda, value_network=None)
        self.loss_module = A2CLoss(
            self.actor,
            self.critic,
            entropy_coeff=config.a2c.entropy_coeff,
            critic_coeff=config.a2c.critic_coeff,
            loss_critic_type="l2",
            reduction="none",
        )
        self.parameters = list(self.loss_module.parameters())
        # Not fused: its rounding depends on the number of seeds.
        self.optimizer = make_adam(self.loss_module, config.optim.lr, foreach=True)

    @torch.no_grad()
    def evaluate(self, data: TensorDictBase) -> None:
        """Write the values of states and next states.

        Args:
            data: transitions of shape ``[num_seeds, num_envs, time]``.
        """
        self.critic(data)
        self.critic(data["next"])

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Take one step on new experience ``[num_seeds, num_envs, time]`` (Alg. 1, lines 6 and 7).

        Args:
            data: transitions of shape ``[num_seeds, num_envs, time]``.

        Returns:
            No metrics: the exact evaluation says more.
        """
        self.evaluate(data)
        self.step(self.gae(data))
        return {}

    def step(self, data: TensorDictBase, weight: Tensor | None = None) -> None:
        """Take one gradient step on data with advantages, on the mean loss of each seed.

        Args:
            data: transitions of shape ``[num_seeds, ...]``.
            weight: weight of each transition; one by default.
        """
        losses = self.loss_module(data)
        total = sum(value for key, value in losses.items() if key.startswith("loss_"))
        total = total if weight is None else total * weight
        self.optimizer.zero_grad()
        total.flatten(1).mean(1).sum().backward()
        clip_grad_norm_per_seed_(self.parameters, self.max_grad_norm)
        self.optimizer.step()

    def every_cell(self) -> TensorDict:
        """Return all cells, shape ``[num_seeds, num_cells]``."""
        cells = torch.arange(self.num_cells).expand(self.num_seeds, -1)
        return TensorDict({"observation": cells}, batch_size=cells.shape)

    @torch.no_grad()
    def policy_table(self) -> Tensor:
        """Return π(a|s), shape ``[num_seeds, num_cells, 4]``."""
        return self.actor.get_dist(self.every_cell()).probs

    @torch.no_grad()
    def value_table(self) -> Tensor:
        """Return V(s), shape ``[num_seeds, num_cells]``."""
        return self.critic(self.every_cell())["state_value"].squeeze(-1)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, optimiser and the policy's random numbers."""
        return {"loss": self.loss_module, "optimizer": self.optimizer, "streams": self.streams}
