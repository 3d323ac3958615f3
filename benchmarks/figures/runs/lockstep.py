"""Seeds of CrossQ side by side: one gradient step for all of them, on CUDA one captured graph.

An update of CrossQ's wide critics is 29 GFLOP for each seed: too much for a processor, and too many
small kernels for a GPU to take one seed after the other. Here networks, losses, optimisers and
settings are those of ``recipes/sac_recall.py host=crossq``. The weights of all seeds are stacked,
gradients are ``torch.func.vmap`` of a ``FunctionalLoss``, and a whole step, with its draw from the
replay buffers, is captured once and replayed.

A seed's weights begin as they do in the recipe. Random numbers are drawn for all seeds together, so
that runs are like the recipe's, but are not the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.optim.functional_loss import FunctionalLoss
from torchrl_recall.trainers.hosts.crossq import CrossQ
from torchrl_recall.trainers.schema import SACRecallConfig
from torchrl_recall.trainers.tasks.gym import make_env

__all__ = ["Lockstep", "StackedCrossQ"]

EVALUATION = 1_000_000  # added to a seed, as in the recipes


class StackedCrossQ:
    """Hosts of one task, one for each seed, that act and learn in one call.

    Args:
        hosts: alike but for their weights. The first one's modules compute for all.

    Attributes:
        trained: parameters, ``[seeds, *shape]`` each.
        fixed: running statistics, ``[seeds, *shape]`` each.
    """

    def __init__(self, hosts: Sequence[CrossQ]) -> None:
        self.host = host = hosts[0]
        self.losses = [FunctionalLoss(host.loss_module, losses) for losses in host.losses]
        seeds = [FunctionalLoss(each.loss_module, each.losses[0]) for each in hosts]
        self.trained = _stack([seed.trained for seed in seeds])
        self.fixed = _stack([seed.fixed for seed in seeds])

        # Adam's arithmetic is of single numbers, so that stacked weights step as single ones do.
        of = {leaf: self.trained[i] for i, (_, leaf) in enumerate(self.losses[0].trained)}
        is_cuda = self.trained[0].is_cuda
        self.optimizers = []
        for optimizer in host.optimizers:
            groups = [
                {**group, "params": [of[p] for p in group["params"]], "capturable": is_cuda}
                for group in optimizer.param_groups
            ]
            self.optimizers.append(torch.optim.Adam(groups))
            # The steps before the capture are not captured, as they should be.
            self.optimizers[-1]._warned_capturable_if_run_uncaptured = True

    def initialize(self, rows: dict[str, Any]) -> None:
        """Find out which statistics each loss moves.

        Args:
            rows: of a batch, ``[seeds, batch, ...]`` each.
        """
        first = TensorDict(rows, batch_size=rows["action"].shape[:-1])[0]
        critics, policy = self.losses
        critics.find_moving(first)
        self.host.actor.train()
        policy.find_moving(first)
        self.host.actor.eval()

    def step_critics(self, rows: dict[str, Any]) -> None:
        """Take a gradient step of all critics.

        Args:
            rows: of a batch, ``[seeds, batch, ...]`` each.
        """
        self._step(0, rows)

    def step_policy(self, rows: dict[str, Any]) -> None:
        """Take a gradient step of all policies, which normalise by the batch in it alone.

        Args:
            rows: of a batch, ``[seeds, batch, ...]`` each.
        """
        self.host.actor.train()
        self._step(1, rows)
        self.host.actor.eval()

    def _step(self, which: int, rows: dict[str, Any]) -> None:
        loss, optimizer = self.losses[which], self.optimizers[which]
        size = rows["action"].shape[1:2]

        def gradient(trained: list[Tensor], fixed: list[Tensor], rows: dict) -> list[Tensor]:
            return loss.gradient(trained, fixed, [(rows, size)])[0]

        gradients = _for_all(gradient, self.trained, self.fixed, rows)
        own = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        for tensor, value in zip(self.trained, gradients, strict=True):
            if id(tensor) in own:
                tensor.grad = value.contiguous()  # a fused Adam reads transposed strides wrongly
        optimizer.step()

    def act(self, observations: Tensor, *, explore: bool) -> Tensor:
        """Choose actions.

        Args:
            observations: ``[seeds, states, observation_dim]``.

        Keyword Args:
            explore: draw them, else take the deterministic ones.
        """
        functional, module = self.losses[0], self.host.loss_module
        kind = ExplorationType.RANDOM if explore else ExplorationType.DETERMINISTIC

        def act(trained: list[Tensor], fixed: list[Tensor], states: Tensor) -> Tensor:
            def call() -> Tensor:
                data = TensorDict({"observation": states}, batch_size=states.shape[:-1])
                with module.actor_network_params.to_module(module.actor_network):
                    return module.actor_network(data)["action"]

            return functional.call(call, trained, fixed)

        with torch.no_grad(), set_exploration_type(kind):
            return _for_all(act, self.trained, self.fixed, observations)


class Lockstep:
    """Runs of some seeds in one task, a step of each at a time.

    Args:
        task: of Gymnasium, with continuous actions.
        configs: one for each seed.
        device: of the networks and replay buffers.
    """

    def __init__(self, task: str, configs: Sequence[SACRecallConfig], device: torch.device) -> None:
        self.task, self.config, self.device = task, configs[0], device
        self.seeds = [config.seed for config in configs]
        hosts = []
        for config in configs:
            torch.manual_seed(config.seed)
            hosts.append(CrossQ(make_env(task, device), config, device))
        self.hosts = StackedCrossQ(hosts)
        self.envs = [gymnasium.make(task) for _ in configs]
        first = [env.reset(seed=seed)[0] for env, seed in zip(self.envs, self.seeds, strict=True)]
        self.state = np.stack(first).astype(np.float32)
        self.frames, self.updates = 0, 0

        # A row is state, action, next state, reward, terminated.
        size = self.state.shape[1]
        self.sizes = [size, len(self.envs[0].action_space.sample()), size]
        for env, seed in zip(self.envs, self.seeds, strict=True):
            env.action_space.seed(seed)
        shape = len(configs), self.config.collector.total_frames, sum(self.sizes) + 2
        self.buffer = torch.zeros(shape, device=device)
        self.size = torch.zeros((), device=device)  # of the part that is filled
        self.lane = _Lane(device, self.seeds[0])
        self.learning: dict[bool, Callable[[], Any]] = {}  # by whether policies learn
        self.acting: dict[bool, tuple[Tensor, Callable[[], Tensor]]] = {}  # by whether they explore

    def step(self) -> None:
        """Take a step in every seed's environment, and the update that follows it."""
        with self.lane:
            if self.frames < self.config.collector.init_random_frames:
                action = np.stack([env.action_space.sample() for env in self.envs])
            else:
                action = self._act(self.state[:, None], explore=True)[:, 0]
            self._collect(action)
            if self.frames >= self.config.collector.init_random_frames:
                self._update()

    def evaluate(self) -> NDArray:
        """Return the mean return of the deterministic policy of each seed, ``[seeds]``."""
        number = self.config.eval.num_episodes
        envs = [[gymnasium.make(self.task) for _ in range(number)] for _ in self.seeds]
        states = np.stack([
            np.stack([env.reset(seed=seed + EVALUATION + i)[0] for i, env in enumerate(row)])
            for seed, row in zip(self.seeds, envs, strict=True)
        ]).astype(np.float32)  # fmt: skip
        returns, over = np.zeros(states.shape[:2]), np.zeros(states.shape[:2], bool)
        with self.lane:
            while not over.all():
                action = self._act(states, explore=False)
                for place in zip(*np.nonzero(~over), strict=True):
                    seed, episode = place
                    states[place], reward, terminated, truncated, _ = envs[seed][episode].step(
                        action[place]
                    )
                    returns[place] += reward
                    over[place] = terminated or truncated
        return returns.mean(1)

    def _collect(self, action: NDArray) -> None:
        rows = np.zeros((len(self.envs), self.buffer.shape[-1]), np.float32)
        state, a, following = np.split(rows[:, :-2], np.cumsum(self.sizes)[:-1], axis=1)
        state[:], a[:] = self.state, action
        for i, env in enumerate(self.envs):
            following[i], rows[i, -2], rows[i, -1], truncated, _ = env.step(action[i])
            self.state[i] = env.reset()[0] if rows[i, -1] or truncated else following[i]
        self.buffer[:, self.frames].copy_(torch.from_numpy(rows))
        self.frames += 1
        self.size.fill_(self.frames)

    def _update(self) -> None:
        self.updates += 1
        delay = self.config.crossq.policy_delay
        with_policy = self.updates % delay == 0
        if self.updates == 1:
            self.hosts.initialize(self._sample())

        def update() -> None:
            rows = self._sample()
            self.hosts.step_critics(rows)
            if with_policy:
                self.hosts.step_policy(rows)

        # Before they are captured, steps of either kind make what they make at their first use.
        if self.updates <= 2 * delay:
            update()
        else:
            if with_policy not in self.learning:
                self.learning[with_policy] = self.lane.capture(update)
            self.learning[with_policy]()

    def _sample(self) -> dict[str, Any]:
        shape = len(self.seeds), self.config.replay_buffer.batch_size
        index = (torch.rand(shape, device=self.device) * self.size).long()
        index = index.minimum(self.size.long() - 1)  # where a product is rounded up
        rows = self.buffer[torch.arange(len(self.seeds), device=self.device)[:, None], index]
        state, action, following, reward, terminated = rows.split([*self.sizes, 1, 1], -1)
        terminated = terminated.bool()
        return {
            "observation": state,
            "action": action,
            "next": {
                "observation": following,
                "reward": reward,
                "terminated": terminated,
                "done": terminated,
            },
        }

    def _act(self, states: NDArray, *, explore: bool) -> NDArray:
        if explore not in self.acting:
            held = torch.zeros(states.shape, device=self.device)
            self.hosts.act(held, explore=explore)  # makes what it makes at its first use
            act = self.lane.capture(lambda: self.hosts.act(held, explore=explore))
            self.acting[explore] = held, act
        held, act = self.acting[explore]
        held.copy_(torch.from_numpy(states))
        return act().cpu().numpy()


class _Lane(AbstractContextManager):
    """A stream of its own on a CUDA device, with random numbers of its own; nothing elsewhere."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.is_cuda = device.type == "cuda"
        self.context: AbstractContextManager = nullcontext()
        torch.manual_seed(seed)
        if self.is_cuda:
            self.stream = torch.cuda.Stream(device)
            self.default = torch.cuda.default_generators[self.stream.device_index]
            self.generator = self.default.clone_state()
            self.generator.manual_seed(seed)
            torch.cuda.synchronize(device)  # what was made on its other stream

    def __enter__(self) -> None:
        if self.is_cuda:
            self.default.graphsafe_set_state(self.generator)
            self.context = torch.cuda.stream(self.stream)
            self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.is_cuda:
            self.context.__exit__(*error)

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that does the same again, without being called here."""
        if not self.is_cuda:
            return function
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            result = function()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


def _for_all(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function for all seeds at once, whose random numbers differ."""

    # torch's normal distribution fills an empty tensor, which vmap refuses.
    def standard_normal(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    with patch("torch.distributions.normal._standard_normal", standard_normal):
        return torch.func.vmap(function, randomness="different")(*args)


def _stack(seeds: list[list[tuple[tuple[str, ...], Tensor]]]) -> list[Tensor]:
    return [
        torch.stack([leaf.detach() for _, leaf in leaves]) for leaves in zip(*seeds, strict=True)
    ]
