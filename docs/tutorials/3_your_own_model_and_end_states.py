"""
3. Your own backward model and end states
=========================================

A state may have several likely predecessors, which a single Gaussian cannot represent. This page
builds a backward model of mixtures and tests whether it is better. Then it chooses end states by
its own rule, and draws traces.
"""

# %%
# Experience
# ----------
# The data are of a pendulum with random torques.

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import GymEnv

torch.manual_seed(0)
env = GymEnv("Pendulum-v1")
env.set_seed(0)
(data,) = Collector(
    env, frames_per_batch=4_000, total_frames=4_000, auto_register_policy_transforms=False
)
data = data.select("observation", "action", "next")
held_out, data = data[:500], data[500:]

# %%
# Two mixtures
# ------------
# A :class:`~torchrl_recall.BacktrackingModel` is made of two modules of TorchRL: a backward policy
# :math:`q(a_t \mid s_{t+1})`, and a state predictor :math:`q(\Delta s_t \mid a_t, s_{t+1})`. They
# read and sample standardised values. Any distribution can be used.

from tensordict import nn as tdnn
from torch import distributions as D
from torch import nn

from torchrl_recall import BacktrackingModel


class Mixture(D.MixtureSameFamily):
    """Mixture of Gaussians."""

    def __init__(self, logits, loc, scale):
        super().__init__(D.Categorical(logits=logits), D.Independent(D.Normal(loc, scale), 1))


class MixtureNet(nn.Module):
    """Network of the parameters of a mixture."""

    def __init__(self, in_features, out_features, components=4):
        super().__init__()
        self.shape = components, out_features
        self.body = nn.Sequential(nn.Linear(in_features, 64), nn.Tanh(), nn.Linear(64, 64))
        self.heads = nn.Sequential(nn.Tanh(), nn.Linear(64, components * (1 + 2 * out_features)))

    def forward(self, *inputs):
        k, d = self.shape
        parts = self.heads(self.body(torch.cat(inputs, -1))).split([k, k * d, k * d], -1)
        loc, scale = (part.unflatten(-1, (k, d)) for part in parts[1:])
        return parts[0], loc, scale.clamp(-5, 2).exp()


def mixture(net, in_keys, out_key):
    parts = ["logits", "loc", "scale"]
    module = tdnn.TensorDictModule(net, in_keys, parts)
    sample = tdnn.ProbabilisticTensorDictModule(parts, [out_key], distribution_class=Mixture)
    return tdnn.ProbabilisticTensorDictSequential(module, sample)


following = ("next", "observation")
mixtures = BacktrackingModel(
    mixture(MixtureNet(3, 1), [following], "action"),
    mixture(MixtureNet(4, 3), ["action", following], "observation_delta"),
    observation_spec=env.observation_spec["observation"],
    action_spec=env.action_spec,
)
gaussian = BacktrackingModel.from_specs(
    env.observation_spec, env.action_spec, action_scale="learned"
)

# %%
# Training
# --------
# Both models are trained by Eq. 2. Their likelihood on held-out transitions shows which is better.

from torchrl_recall import BacktrackingLoss, make_update

likelihood = {}
for name, model in {"mixtures": mixtures, "Gaussians": gaussian}.items():
    model.update_statistics(data)
    loss = BacktrackingLoss(model)
    update = make_update(loss, torch.optim.Adam(loss.parameters(), 1e-3))
    for _ in range(600):
        update(data[torch.randint(len(data), (256,))])
    with torch.no_grad():
        likelihood[name] = float(model.log_prob(held_out).mean())
print({name: f"{value:.2f} nats" for name, value in likelihood.items()})

# %%
# A higher likelihood is better. The predecessor of a pendulum's state is nearly unique, so a single
# Gaussian is enough here, and it learns faster. Mixtures are better if a state is reached from two
# sides: :doc:`../pipelines/own_model`.

# %%
# Your own end states
# -------------------
# A source of end states receives experience and returns states. This one returns the states that
# are nearest to standing still upright.

from torchrl_recall import HighValueStates, RecallTraceGenerator, WithinSupport


class UprightStates(HighValueStates):
    """States nearest to standing still upright."""

    def forward(self, tensordict):
        states = tensordict["observation"].reshape(-1, 3)  # cosine, sine, velocity
        nearness = states[:, 0] - 0.1 * states[:, 2].abs()
        best = states[nearness.topk(self.num_states).indices]
        return TensorDict({"observation": best}, [len(best)])


end_states = UprightStates(8)(data)
traces = RecallTraceGenerator(mixtures, trace_length=12, num_traces=4)(end_states)
traces = WithinSupport(mixtures.observations.normalize, max_deviation=3.0)(traces)
print(f"{traces['mask'].float().mean():.0%} of the steps are left")

# %%
# The picture shows angle and velocity of real states (grey), traces (blue) and end states (orange).


def plane(states):
    return torch.atan2(states[..., 1], states[..., 0]), states[..., 2]


plt.plot(*plane(data["observation"]), ".", color="#c9ced6", markersize=2)
kept = traces[traces["mask"]]
plt.plot(*plane(kept["observation"]), ".", color="#0072b2", markersize=4)
plt.plot(*plane(end_states["observation"]), "o", color="#d55e00")
plt.xlabel("angle, 0 is upright")
plt.ylabel("velocity")

# %%
# ``Recall(mixtures, ImitationLoss(policy), UprightStates(8), ...)`` uses both beside any host.
