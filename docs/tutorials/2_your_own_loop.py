"""
2. Recall in your own TorchRL loop
==================================

A loop of TorchRL has a collector, a replay buffer, a loss and an optimiser. Recall adds two calls:
``extend`` with the collected data, and ``step`` after your own update.
"""

# %%
# The host
# --------
# The host is soft actor-critic in a small U-maze. The reward is one at the far end of the maze and
# zero elsewhere. This part of the script does not depend on recall.

import matplotlib.pyplot as plt
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

import torchrl_recall.envs  # noqa: F401, registers point_umaze

torch.manual_seed(0)
env = GymEnv("point_umaze")
env.set_seed(0)
actor = ProbabilisticActor(
    TensorDictModule(
        torch.nn.Sequential(
            MLP(in_features=2, out_features=4, num_cells=[64, 64]), NormalParamExtractor()
        ),
        ["observation"],
        ["loc", "scale"],
    ),
    ["loc", "scale"],
    spec=env.action_spec,
    distribution_class=TanhNormal,
)
qvalue = ValueOperator(
    MLP(in_features=4, out_features=1, num_cells=[64, 64]), ["observation", "action"]
)
loss = SACLoss(actor, qvalue, action_spec=env.action_spec, alpha_init=0.01)
loss.make_value_estimator(gamma=0.98)
targets = SoftUpdate(loss, tau=0.05)
optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
replay_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)
collector = Collector(
    env, actor, frames_per_batch=40, total_frames=2_000, auto_register_policy_transforms=False
)

# %%
# Recall
# ------
# Recall needs a model for the environment's specs, the policy that imitates, and a source of end
# states. Here traces end in rewarded states. ``filters`` keeps its default, which cuts traces where
# they leave the range of the data.

from torchrl_recall import BacktrackingModel, ImitationLoss, Recall, RewardStates

model = BacktrackingModel.from_specs(env.observation_spec, env.action_spec)
recall = Recall(
    model,
    ImitationLoss(actor),
    RewardStates(num_states=16, threshold=0.0, replacement=True),
    interval=200,
    num_model_updates=20,
    num_updates=5,
    trace_length=10,
)

# %%
# The loop
# --------
# The numbers in the comments are lines of Algorithm 1.

reached, history = [], []
for data in collector:  # l.4
    replay_buffer.extend(data)  # l.5
    recall.extend(data)  # l.5
    for _ in range(10):  # l.6-7
        losses = loss(replay_buffer.sample())
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
        optimizer.step()
        targets.step()
    metrics = recall.step(replay_buffer)  # l.8-13
    if metrics:
        history.append({key: float(value) for key, value in metrics.items()})
    reached.append(float(data["next", "reward"].sum()))

# %%
# ``step`` returns an empty dictionary while no round is due, and the metrics of a round otherwise.

print(f"{len(history)} rounds")
for name, value in sorted(history[-1].items()):
    print(f"{name:40} {value:8.3f}")

# %%
# ``recall/ready`` is zero until one trajectory is better than another, because no state is known to
# be good before. ``recall/kept`` is the share of steps of traces that the filters kept.

plt.plot(torch.arange(1, len(reached) + 1) * 40, torch.tensor(reached).cumsum(0), color="#0072b2")
plt.xlabel("steps")
plt.ylabel("times that the goal was reached")

# %%
# What next
# ---------
# - To train the critic on traces, see :doc:`../pipelines/critic`. In small sparse tasks this gains
#   more than imitation (:doc:`../results/critic`).
# - For other losses, see :doc:`../hosts`, which has a row for each loss of TorchRL.
# - To use recall without a loop of your own, see :doc:`4_trainer_and_hydra`.
