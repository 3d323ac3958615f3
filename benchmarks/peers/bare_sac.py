"""SAC without any library around it, the limit for the recipe in ``benchmarks/speed.py``.

The same algorithm as ``recipes/sac_recall.py`` with ``recall=none``, on bare tensors: a Gymnasium
task, tensors as buffer, and one compiled graph that holds losses, gradients, Adam and the targets.
Also the bare counterparts of recall's parts: model update, backward step and imitation step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

__all__ = ["BareSAC", "BareTraces", "bare_imitation_update", "bare_model_update"]

Layers = list[Tensor]  # weight, bias, weight, bias, ...


def _compile(function: Callable) -> Callable:
    # Inductor's own generator is slow on a CPU.
    return torch.compile(function, fullgraph=True, options={"fallback_random": True})


def _layers(*sizes: int, device: torch.device | str = "cpu") -> Layers:
    modules = [torch.nn.Linear(a, b, device=device) for a, b in pairwise(sizes)]
    return [p.detach().clone() for module in modules for p in module.parameters()]


def _mlp(layers: Layers, x: Tensor, activation: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
    x = activation(F.linear(x, layers[0], layers[1]))
    x = activation(F.linear(x, layers[2], layers[3]))
    return F.linear(x, layers[4], layers[5])


def _adam(parameters, gradients, state: tuple[Layers, Layers, Tensor], lr: float) -> None:
    means, variances, step = state
    step.add_(1)
    rate, correction = lr / (1 - 0.9**step), (1 - 0.999**step).sqrt()
    for parameter, gradient, mean, variance in zip(
        tree_leaves(parameters), tree_leaves(gradients), means, variances, strict=True
    ):
        mean.lerp_(gradient, 0.1)
        variance.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        parameter.sub_(rate * mean / (variance.sqrt() / correction + 1e-8))


def _adam_state(parameters) -> tuple[Layers, Layers, Tensor]:
    leaves = tree_leaves(parameters)
    return ([torch.zeros_like(p) for p in leaves], [torch.zeros_like(p) for p in leaves],
            torch.zeros((), device=leaves[0].device))  # fmt: skip


def _act(actor: Layers, observation: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a squashed Gaussian's action; return its log-density too."""
    loc, log_scale = _mlp(actor, observation).chunk(2, -1)
    log_scale = log_scale.clamp(-20, 2)
    noise = torch.randn_like(loc)
    raw = loc + log_scale.exp() * noise
    log_prob = -0.5 * noise.square() - log_scale - 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return raw.tanh(), (log_prob - squash).sum(-1)


def _loss(parameters, targets, observation, action, following, reward, terminated) -> Tensor:
    actor, critics, log_alpha = parameters
    alpha = log_alpha.detach().exp()
    with torch.no_grad():
        next_action, log_prob = _act(actor, following)
        pair = torch.cat([following, next_action], -1)
        value = torch.min(*(_mlp(q, pair) for q in targets)).squeeze(-1) - alpha * log_prob
        target = reward + 0.99 * (1 - terminated) * value
    pair = torch.cat([observation, action], -1)
    q_loss = sum((_mlp(q, pair).squeeze(-1) - target).square().mean() for q in critics)
    new_action, log_prob = _act(actor, observation)
    pair = torch.cat([observation, new_action], -1)
    value = torch.min(*(_mlp([p.detach() for p in q], pair) for q in critics)).squeeze(-1)
    actor_loss = (alpha * log_prob - value).mean()
    alpha_loss = -(log_alpha * (log_prob.detach() - action.shape[-1])).mean()
    return q_loss + actor_loss + alpha_loss


def _update(parameters, targets, state, *data: Tensor) -> None:
    gradients = torch.func.grad(_loss)(parameters, targets, *data)
    _adam(parameters, gradients, state, 3e-4)
    for target, source in zip(tree_leaves(targets), tree_leaves(parameters[1]), strict=True):
        target.lerp_(source, 0.005)


class BareSAC:
    """SAC with collection and updates; :meth:`run` takes a number of environment steps.

    Args:
        env_name: a Gymnasium task with actions within ±1.
        seed: seed of all random numbers.
        init_random_frames: number of steps with random actions.
        device: device of networks and buffer.
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
        self.device = device
        self.env = gymnasium.make(env_name)
        spaces = self.env.observation_space, self.env.action_space
        obs_dim, act_dim = (space.shape[0] for space in spaces)  # type: ignore[index]
        critics = [_layers(obs_dim + act_dim, 256, 256, 1, device=device) for _ in range(2)]
        actor = _layers(obs_dim, 256, 256, 2 * act_dim, device=device)
        self.parameters = actor, critics, torch.zeros((), device=device)
        self.targets = [[p.clone() for p in q] for q in critics]
        self.state = _adam_state(self.parameters)
        shapes = (obs_dim,), (act_dim,), (obs_dim,), (), ()
        self.data = [torch.zeros(1_000_000, *shape, device=device) for shape in shapes]
        self.policy = _compile(lambda observation: _act(actor, observation)[0])
        self._graph = _compile(_update)
        self.init_random_frames, self.frames = init_random_frames, 0
        self.observation = self._observe(self.env.reset(seed=seed)[0])

    def _observe(self, observation: np.ndarray) -> Tensor:
        return torch.from_numpy(observation.astype(np.float32)).to(self.device)

    def run(self, num_steps: int) -> None:
        """Take environment steps, each followed by an update."""
        for _ in range(num_steps):
            random = self.frames < self.init_random_frames
            action = 2 * torch.rand_like(self.data[1][0]) - 1 if random else self.policy(
                self.observation
            )  # fmt: skip
            following, reward, terminated, truncated, _ = self.env.step(action.cpu().numpy())
            following = self._observe(following)
            row = self.observation, action, following, float(reward), float(terminated)
            for column, value in zip(self.data, row, strict=True):
                column[self.frames] = value
            self.frames += 1
            done = terminated or truncated
            self.observation = self._observe(self.env.reset()[0]) if done else following
            if not random:
                self.update(*self.sample())

    def sample(self) -> list[Tensor]:
        """Draw a batch of 256."""
        index = torch.randint(self.frames, (256,), device=self.device)
        return [column.index_select(0, index) for column in self.data]

    def update(self, *data: Tensor) -> None:
        """Take one gradient step of actor, critics and entropy coefficient, then of the targets."""
        self._graph(self.parameters, self.targets, self.state, *data)


def _gaussian_nll(out: Tensor, target: Tensor) -> Tensor:
    loc, scale = out.chunk(2, -1)
    scale = F.softplus(scale + 0.5413).clamp_min(0.01)
    error = (target - loc) / scale
    return (0.5 * error.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1).mean()


def _gaussian_sample(out: Tensor) -> Tensor:
    loc, scale = out.chunk(2, -1)
    return loc + F.softplus(scale + 0.5413).clamp_min(0.01) * torch.randn_like(loc)


def bare_model_update(obs_dim: int, act_dim: int) -> Callable[..., None]:
    """Make a step of Eq. 2, ``update(observation, action, following)`` of standardised tensors."""
    parameters = (
        _layers(obs_dim, 128, 128, 2 * act_dim),
        _layers(act_dim + obs_dim, 128, 128, 2 * obs_dim),
    )
    state = _adam_state(parameters)
    norm = [torch.zeros(obs_dim), torch.ones(obs_dim), torch.zeros(act_dim), torch.ones(act_dim),
            torch.zeros(obs_dim), torch.ones(obs_dim)]  # fmt: skip

    def loss(parameters, norm, observation, action, following):
        following_n, action_n = (following - norm[0]) / norm[1], (action - norm[2]) / norm[3]
        delta = (observation - following - norm[4]) / norm[5]
        first = _gaussian_nll(_mlp(parameters[0], following_n, torch.tanh), action_n)
        pair = torch.cat([action_n, following_n], -1)
        return first + _gaussian_nll(_mlp(parameters[1], pair), delta)

    def update(parameters, state, norm, *data):
        _adam(parameters, torch.func.grad(loss)(parameters, norm, *data), state, 1e-3)

    graph = _compile(update)
    return lambda *data: graph(parameters, state, norm, *data)


def bare_imitation_update(obs_dim: int, act_dim: int) -> Callable[..., None]:
    """Make a step of Eq. 3 for a squashed Gaussian, ``update(observation, action)``."""
    actor = _layers(obs_dim, 256, 256, 2 * act_dim)
    state = _adam_state(actor)

    def loss(actor, observation, action):
        loc, log_scale = _mlp(actor, observation).chunk(2, -1)
        log_scale = log_scale.clamp(-20, 2)
        raw = torch.atanh(action.clamp(-0.99, 0.99))
        error = (raw - loc) / log_scale.exp()
        log_prob = -0.5 * error.square() - log_scale - 0.5 * math.log(2 * math.pi)
        return -(log_prob - 2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(-1).mean()

    def update(actor, state, *data):
        _adam(actor, torch.func.grad(loss)(actor, *data), state, 3e-4)

    graph = _compile(update)
    return lambda *data: graph(actor, state, *data)


class BareTraces:
    """Loop over one compiled backward step.

    Args:
        obs_dim: number of dimensions of the state.
        act_dim: number of dimensions of the action.
    """

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        self.layers = (
            _layers(obs_dim, 128, 128, 2 * act_dim),
            _layers(act_dim + obs_dim, 128, 128, 2 * obs_dim),
        )
        self.norm = [torch.zeros(obs_dim), torch.ones(obs_dim), torch.zeros(act_dim),
                     torch.ones(act_dim), torch.zeros(obs_dim), torch.ones(obs_dim)]  # fmt: skip
        self._graph = _compile(self._step)

    @staticmethod
    def _step(layers, norm, following: Tensor) -> tuple[Tensor, Tensor]:
        following_n = (following - norm[0]) / norm[1]
        action = _gaussian_sample(_mlp(layers[0], following_n, torch.tanh)) * norm[3] + norm[2]
        action = action.clamp(-1, 1)
        pair = torch.cat([(action - norm[2]) / norm[3], following_n], -1)
        delta = _gaussian_sample(_mlp(layers[1], pair)) * norm[5] + norm[4]
        return action, following + delta

    @torch.no_grad()
    def generate(self, seeds: Tensor, trace_length: int) -> tuple[Tensor, Tensor]:
        """Generate states ``[num, length + 1, obs_dim]`` and actions, in forward time."""
        states, actions = [seeds], []
        for _ in range(trace_length):
            action, state = self._graph(self.layers, self.norm, states[-1])
            actions.append(action)
            states.append(state)
        return torch.stack(states[::-1], 1), torch.stack(actions[::-1], 1)
