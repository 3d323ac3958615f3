"""A trainer as a Hydra configuration names it, with hooks that were instantiated before it."""

from __future__ import annotations

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate
from torchrl.trainers.algorithms import SACTrainer


def make(hooks: list) -> SACTrainer:
    env = GymEnv("Pendulum-v1", max_episode_steps=25)
    net = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
    )
    qvalue = ValueOperator(MLP(in_features=4, out_features=1), ["observation", "action"])
    loss = SACLoss(actor, qvalue, action_spec=env.action_spec)
    trainer = SACTrainer(
        collector=Collector(env, actor, frames_per_batch=100, total_frames=300),
        total_frames=300,
        frame_skip=1,
        optim_steps_per_batch=1,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters()),
        replay_buffer=TensorDictReplayBuffer(storage=LazyTensorStorage(300), batch_size=16),
        target_net_updater=SoftUpdate(loss, tau=0.005),
        enable_logging=False,
        progress_bar=False,
    )
    for hook in hooks:  # as TorchRL's own Hydra trainers do
        hook.register(trainer)
    return trainer
