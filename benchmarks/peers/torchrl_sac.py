"""TorchRL's own SAC example, rewritten from its parts: a baseline of ``benchmarks/speed.py``.

All that matters for its speed is kept: one environment with the example's transforms, its collector
on a device, eager ``SACLoss``, three Adams stepped as one, and ``SoftUpdate``. The example collects
1,000 frames at a time. Here it is 100, which is enough to make the collector's overhead small.
"""

from __future__ import annotations

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    InitTracker,
    RewardSum,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate, group_optimizers

__all__ = ["TorchRLSAC"]


class TorchRLSAC:
    """SAC with collection and updates; :meth:`run` takes a multiple of 100 environment steps.

    Args:
        env_name: id of a Gymnasium task.
        seed: seed of all random numbers.
        init_random_frames: number of steps with random actions.
        device: device of the networks.
    """

    def __init__(
        self,
        env_name: str,
        *,
        seed: int = 0,
        init_random_frames: int = 1_000,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        env = TransformedEnv(
            GymEnv(env_name, device=device),
            Compose(InitTracker(), StepCounter(1_000), DoubleToFloat(), RewardSum()),
        )
        obs_dim, act_dim = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
        sizes = {"num_cells": [256, 256], "activation_class": nn.ReLU}
        net = nn.Sequential(
            MLP(in_features=obs_dim, out_features=2 * act_dim, **sizes),
            NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=0.1),
        )
        actor = ProbabilisticActor(
            TensorDictModule(net, ["observation"], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            spec=env.action_spec,
            distribution_class=TanhNormal,
            distribution_kwargs={
                "low": env.action_spec.space.low,
                "high": env.action_spec.space.high,
                "tanh_loc": False,
            },
        )
        qvalue = ValueOperator(
            MLP(in_features=obs_dim + act_dim, out_features=1, **sizes),
            in_keys=["action", "observation"],
        )
        loss_module = SACLoss(actor, qvalue, num_qvalue_nets=2, loss_function="l2")
        self.loss_module = loss_module.to(device)
        self.loss_module.make_value_estimator(gamma=0.99)
        self.updater = SoftUpdate(self.loss_module, eps=0.995)
        groups = (
            list(self.loss_module.actor_network_params.flatten_keys().values()),
            list(self.loss_module.qvalue_network_params.flatten_keys().values()),
            [self.loss_module.log_alpha],
        )
        self.optimizer = group_optimizers(*(torch.optim.Adam(group, lr=3e-4) for group in groups))
        self.replay_buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(1_000_000, device=device), batch_size=256
        )
        self.collector = Collector(
            env,
            actor,
            init_random_frames=init_random_frames,
            frames_per_batch=100,
            total_frames=-1,
            device=device,
            auto_register_policy_transforms=False,
        )
        self.batches = iter(self.collector)
        self.init_random_frames, self.frames = init_random_frames, 0

    def run(self, num_steps: int) -> None:
        """Take environment steps and as many updates."""
        for _ in range(num_steps // 100):
            data = next(self.batches)
            self.collector.update_policy_weights_()
            self.replay_buffer.extend(data.reshape(-1))
            self.frames += data.numel()
            if self.frames > self.init_random_frames:
                for _ in range(data.numel()):
                    self.update(self.replay_buffer.sample())

    def update(self, data) -> None:
        """Take one gradient step."""
        losses = self.loss_module(data)
        (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updater.step()
