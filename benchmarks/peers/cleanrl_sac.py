"""SAC as CleanRL publishes it, rewritten in plain PyTorch: the baseline of ``benchmarks/speed.py``.

All that matters for its speed is kept: a vector environment of one with episode statistics, a NumPy
buffer, eager updates and full float32 precision. Every other step has two policy updates, each with
another forward pass for the entropy coefficient.
"""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CleanRLSAC"]


class Critic(nn.Module):
    """Network of Q(s, a)."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_dim + action_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return values of shape ``[batch]``."""
        hidden = F.relu(self.fc1(torch.cat([observation, action], 1)))
        return self.fc3(F.relu(self.fc2(hidden))).flatten()


class Actor(nn.Module):
    """Squashed Gaussian with a logarithm of the standard deviation in [-5, 2]."""

    scale: Tensor
    bias: Tensor

    def __init__(self, observation_dim: int, space: gymnasium.spaces.Box) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc_mean = nn.Linear(256, space.shape[0])
        self.fc_logstd = nn.Linear(256, space.shape[0])
        self.register_buffer("scale", torch.as_tensor((space.high - space.low) / 2).float())
        self.register_buffer("bias", torch.as_tensor((space.high + space.low) / 2).float())

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw an action; return its log-density too."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(observation))))
        log_std = -5.0 + 3.5 * (torch.tanh(self.fc_logstd(hidden)) + 1.0)
        normal = torch.distributions.Normal(self.fc_mean(hidden), log_std.exp())
        raw = normal.rsample()
        squashed = torch.tanh(raw)
        log_prob = normal.log_prob(raw) - torch.log(self.scale * (1 - squashed.pow(2)) + 1e-6)
        return squashed * self.scale + self.bias, log_prob.sum(1)


class CleanRLSAC:
    """SAC with collection and updates; :meth:`run` takes a number of environment steps.

    Args:
        env_name: id of a Gymnasium task.
        seed: seed of all random numbers.
        learning_starts: number of steps with random actions.
        device: device of the networks.
    """

    def __init__(
        self,
        env_name: str,
        *,
        seed: int = 0,
        learning_starts: int = 1_000,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.rng = np.random.default_rng(seed)
        self.envs = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(env_name))],
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        )
        space = self.envs.single_action_space
        assert isinstance(space, gymnasium.spaces.Box)
        obs_dim, act_dim = self.envs.observation_space.shape[-1], space.shape[0]  # type: ignore[index]
        self.actor = Actor(obs_dim, space).to(device)
        self.critics = [Critic(obs_dim, act_dim).to(device) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros(1, requires_grad=True, device=device)
        self.alpha = 1.0
        self.target_entropy = -float(act_dim)
        q_parameters = [p for critic in self.critics for p in critic.parameters()]
        self.q_optimizer = torch.optim.Adam(q_parameters, lr=1e-3)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-3)
        size = 1_000_000
        self.data = {
            "observation": np.zeros((size, obs_dim), np.float32),
            "next_observation": np.zeros((size, obs_dim), np.float32),
            "action": np.zeros((size, act_dim), np.float32),
            "reward": np.zeros(size, np.float32),
            "terminated": np.zeros(size, np.float32),
        }
        self.learning_starts, self.size, self.steps = learning_starts, size, 0
        self.observation, _ = self.envs.reset(seed=seed)

    def run(self, num_steps: int) -> None:
        """Take environment steps, each followed by an update."""
        for _ in range(num_steps):
            self._collect()
            if self.steps > self.learning_starts:
                index = self.rng.integers(0, min(self.steps, self.size), 256)
                self._update(
                    {k: torch.as_tensor(v[index]).to(self.device) for k, v in self.data.items()}
                )

    def _collect(self) -> None:
        if self.steps < self.learning_starts:
            action = self.envs.action_space.sample()
        else:
            observation = torch.Tensor(self.observation).to(self.device)
            action = self.actor(observation)[0].detach().cpu().numpy()
        following, reward, terminated, truncated, infos = self.envs.step(action)
        final = infos["final_obs"] if (terminated | truncated).any() else following
        entries = (self.observation, np.stack(final), action, reward, terminated)
        for array, entry in zip(self.data.values(), entries, strict=True):
            array[self.steps % self.size] = entry[0]
        self.observation = following
        self.steps += 1

    def _update(self, data: dict[str, Tensor]) -> None:
        with torch.no_grad():
            action, log_prob = self.actor(data["next_observation"])
            following = torch.min(*(q(data["next_observation"], action) for q in self.targets))
            target = data["reward"] + (1 - data["terminated"]) * 0.99 * (
                following - self.alpha * log_prob
            )
        first, second = (q(data["observation"], data["action"]) for q in self.critics)
        q_loss = F.mse_loss(first, target) + F.mse_loss(second, target)
        self.q_optimizer.zero_grad()
        q_loss.backward()
        self.q_optimizer.step()
        if self.steps % 2 == 0:
            for _ in range(2):  # makes up for the steps without one
                self._update_policy(data["observation"])
        for critic, target_critic in zip(self.critics, self.targets, strict=True):
            pairs = zip(critic.parameters(), target_critic.parameters(), strict=True)
            for parameter, target in pairs:
                target.data.copy_(0.005 * parameter.data + 0.995 * target.data)

    def _update_policy(self, observation: Tensor) -> None:
        action, log_prob = self.actor(observation)
        value = torch.min(*(q(observation, action) for q in self.critics))
        actor_loss = (self.alpha * log_prob - value).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        with torch.no_grad():
            _, log_prob = self.actor(observation)
        alpha_loss = (-self.log_alpha.exp() * (log_prob + self.target_entropy)).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        self.alpha = self.log_alpha.exp().item()
