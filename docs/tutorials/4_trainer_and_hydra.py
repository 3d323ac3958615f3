"""
4. A TorchRL trainer and Hydra
==============================

TorchRL's trainers run the loop for you. One line adds recall to any of them, and one configuration
group adds it to a trainer that Hydra composes.
"""

# %%
# A trainer
# ---------
# This trainer runs deep Q-learning on CartPole. An action-value network has no distribution over
# actions, so ``make_recall`` uses a softmax of the values for Eq. 3.

from functools import partial

import matplotlib.pyplot as plt
import torch
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl.trainers import ReplayBufferTrainer, Trainer

from torchrl_recall import RecallHook, make_recall

torch.manual_seed(0)
env = GymEnv("CartPole-v1", categorical_action_encoding=True)
env.set_seed(0)
value = QValueActor(
    MLP(in_features=4, out_features=2, num_cells=[64]),
    spec=env.action_spec,
    in_keys=["observation"],
)
loss = DQNLoss(value, action_space=env.action_spec)
loss.make_value_estimator(gamma=0.99)
trainer = Trainer(
    collector=Collector(
        env, value, frames_per_batch=100, total_frames=3_000, auto_register_policy_transforms=False
    ),
    total_frames=3_000,
    frame_skip=1,
    optim_steps_per_batch=20,
    loss_module=loss,
    optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
    progress_bar=False,
)
replay_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)
ReplayBufferTrainer(replay_buffer).register(trainer)
targets = SoftUpdate(loss, tau=0.05)
trainer.register_op("post_optim", targets.step)

# %%
# Recall is one line. The options of ``make_recall`` are those of :class:`~torchrl_recall.Recall`.

options = {"interval": 300, "num_model_updates": 10, "num_updates": 5, "trace_length": 5}
RecallHook(partial(make_recall, **options), replay_buffer=replay_buffer).register(trainer)
trainer.train()

# %%
# The trainer logs the metrics of recall beside its own, and its checkpoints hold the state of
# recall.

logged = {key: rows for key, rows in trainer._log_dict.items() if key.startswith("recall/")}
for key, rows in sorted(logged.items()):
    print(f"{key:24} {len(rows):3} rounds, the last: {float(rows[-1]):.3f}")

plt.plot(logged["recall/kept"], ".-", color="#0072b2")
plt.xlabel("round")
plt.ylabel("share of traces that the filters keep")

# %%
# Hydra
# -----
# TorchRL has a Hydra configuration of its trainers. Importing ``hook_config`` adds a group to it.

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import torchrl_recall.trainers.hook_config  # noqa: F401, adds `hook: recall`

ConfigStore.instance().store(
    name="run",
    node={
        "defaults": [{"hook@recall": "recall"}, "_self_"],
        "recall": {"recall": {"interval": 200, "trace_length": 5}},
        "trainer": {"hooks": ["${recall}"]},
    },
)
with initialize(version_base="1.3"):
    config = compose("run", overrides=["recall.recall.trace_length=10"])
print(OmegaConf.to_yaml(config.trainer, resolve=True))

# %%
# The recipes
# -----------
# The recipes of this project use Hydra too, and check their configurations. A misspelt key, or a
# value out of its range, is refused before the run begins. The :doc:`reference <../configuration>`
# lists all keys. ``-m`` runs sweeps, from one core to a cluster (:doc:`../sweeps`).

import subprocess
import sys

words = ["env.name=CartPole-v1", "env.trace_length=0", "dqn.gamma=2"]
refused = subprocess.run(
    [sys.executable, "-m", "torchrl_recall.recipes.dqn_recall", *words],
    capture_output=True,
    text=True,
)
print(refused.stderr[-600:])
