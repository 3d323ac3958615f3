"""Times of the parts of a step, compared with bare implementations, and growth with size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import torch
from bare_sac import BareSAC, BareTraces, bare_imitation_update, bare_model_update
from tensordict import TensorDict
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded

from speed_parts.loops import CPU, TASK, configure
from speed_parts.measure import Contestants, Rows, measure, warm_and_measure
from torchrl_recall import (
    BacktrackingLoss,
    BacktrackingModel,
    ImitationLoss,
    RecallTraceGenerator,
    TopKTrajectories,
)
from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.tasks.gym import make_env

__all__ = ["four_rooms", "growth", "imitation", "model", "traces", "update"]

OBS_DIM, ACT_DIM = 17, 6


def transitions(*shape: int, obs_dim: int = OBS_DIM, act_dim: int = ACT_DIM) -> TensorDict:
    """Make random experience."""
    return TensorDict(
        {
            "observation": torch.randn(*shape, obs_dim),
            "action": 2 * torch.rand(*shape, act_dim) - 1,
            "next": {
                "observation": torch.randn(*shape, obs_dim),
                "reward": torch.randn(*shape, 1),
                "done": torch.zeros(*shape, 1, dtype=torch.bool),
                "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
            },
        },
        batch_size=shape,
    )


def make_model(obs_dim: int = OBS_DIM, act_dim: int = ACT_DIM) -> BacktrackingModel:
    """Make a model with statistics of random data."""
    model = BacktrackingModel.from_specs(
        Unbounded((obs_dim,)), Bounded(-1, 1, (act_dim,)), action_scale="learned"
    )
    model.update_statistics(transitions(1_000, obs_dim=obs_dim, act_dim=act_dim))
    return model


def model_update(compile: bool, obs_dim: int = OBS_DIM) -> Callable[[TensorDict], object]:
    """Make one step of Eq. 2 on a batch."""
    loss = BacktrackingLoss(make_model(obs_dim))
    return make_update(loss, make_adam(loss, 1e-3), compile=compile)


def make_sac(*overrides: str) -> SAC:
    """Make the host of the SAC recipe."""
    config = configure("sac/sac_recall", f"env.name={TASK}", *overrides)
    return SAC(make_env(TASK), config, CPU)


def update(rounds: int) -> Rows:
    """Measure the SAC update alone."""
    batch, bare = transitions(256), BareSAC(TASK)
    following = batch["next"]
    data = batch["observation"], batch["action"], following["observation"]
    more = following["reward"].squeeze(-1), torch.zeros(256)
    ours = {
        name: make_sac(f"compile={flag}").update
        for name, flag in (("compiled", "true"), ("eager", "false"))
    }
    contestants: Contestants = {
        "bare graph": lambda: bare.update(*data, *more),
        "compiled": lambda: ours["compiled"](batch),
        "eager": lambda: ours["eager"](batch),
    }
    return warm_and_measure("update", contestants, rounds, calls=50)


def model(rounds: int) -> Rows:
    """Measure the update of the backtracking model, batch 256."""
    batch, bare = transitions(256), bare_model_update(OBS_DIM, ACT_DIM)
    compiled, eager = model_update(True), model_update(False)
    data = batch["observation"], batch["action"], batch["next", "observation"]
    contestants: Contestants = {
        "bare graph": lambda: bare(*data),
        "compiled": lambda: compiled(batch),
        "eager": lambda: eager(batch),
    }
    return warm_and_measure("model", contestants, rounds, calls=100)


def imitation(rounds: int) -> Rows:
    """Measure one imitation step, 256 pairs."""
    actor = make_sac().actor
    batch, bare = transitions(256), bare_imitation_update(OBS_DIM, ACT_DIM)
    pairs = batch.select("observation", "action")
    loss = ImitationLoss(actor)
    compiled, eager = (make_update(loss, make_adam(loss, 3e-4), compile=c) for c in (True, False))
    contestants: Contestants = {
        "bare graph": lambda: bare(pairs["observation"], pairs["action"]),
        "compiled": lambda: compiled(pairs),
        "eager": lambda: eager(pairs),
    }
    return warm_and_measure("imitation", contestants, rounds, calls=100)


def traces(rounds: int) -> Rows:
    """Measure 256 traces of 20 steps."""
    backtracking_model, bare = make_model(), BareTraces(OBS_DIM, ACT_DIM)
    seeds = TensorDict({"observation": torch.randn(256, OBS_DIM)}, [256])
    compiled, eager = (
        RecallTraceGenerator(backtracking_model, trace_length=20, compile=c) for c in (True, False)
    )
    contestants: Contestants = {
        "bare compiled loop": lambda: bare.generate(seeds["observation"], 20),
        "compiled": lambda: compiled(seeds),
        "eager": lambda: eager(seeds),
        "env.rollout": lambda: eager.rollout(seeds),
    }
    return warm_and_measure("traces", contestants, rounds, calls=5)


def four_rooms(rounds: int, batch: int = 4096) -> Rows:
    """Measure steps of random walks in the four rooms, with resets."""
    env = FourRoomsEnv(15, batch_size=[batch])
    gym_env = gymnasium.make("torchrl_recall/FourRooms-v0", size=15)
    gym_env.reset(seed=0)
    rng, now = np.random.default_rng(0), env.reset()

    def at_once() -> None:
        nonlocal now
        _, now = env.step_and_maybe_reset(env.rand_action(now))

    def one_by_one() -> None:
        for action in rng.integers(4, size=batch):
            _, _, terminated, truncated, _ = gym_env.step(action)
            if terminated or truncated:
                gym_env.reset()

    contestants: Contestants = {f"{batch} at once": at_once, "one by one": one_by_one}
    return measure("four_rooms", contestants, rounds, calls=3, per=batch)


def growth(rounds: int) -> Rows:
    """Measure growth of times with length and number of traces, buffers, dimensions, kept rows."""
    rows = []
    backtracking_model = make_model()
    for name, sizes in (
        ("trace length", (5, 10, 20, 40, 80)),
        ("traces", (64, 128, 256, 512, 1024)),
    ):
        contestants: Contestants = {}
        for size in sizes:
            length, number = (size, 256) if name == "trace length" else (20, size)
            generate = RecallTraceGenerator(backtracking_model, trace_length=length, compile=True)
            seeds = TensorDict({"observation": torch.randn(number, OBS_DIM)}, [number])
            contestants[str(size)] = partial(generate, seeds)
        rows += warm_and_measure(f"growth: {name}", contestants, rounds, calls=5)

    contestants = {}
    for size in (10_000, 100_000, 1_000_000):
        buffer = ReplayBuffer(storage=LazyTensorStorage(size), batch_size=256)
        for _ in range(size // 10_000):
            buffer.extend(transitions(10_000))
        contestants[f"{size:,}"] = partial(write_and_sample, buffer, transitions(1))
    rows += warm_and_measure(
        "growth: replay buffer, a write and a sample", contestants, rounds, calls=100
    )

    contestants = {}
    for obs_dim in (11, 17, 105, 348):
        step, batch = model_update(True, obs_dim), transitions(256, obs_dim=obs_dim)
        contestants[str(obs_dim)] = partial(step, batch)
    rows += warm_and_measure("growth: state dimension, model update", contestants, rounds, calls=50)

    contestants = {}
    for kept in (10, 100, 1_000):
        frames, writes = filled_filter(kept)
        contestants[f"{kept * 1_000:,}"] = writes
    rows += measure(
        "growth: rows kept by the top-k filter, per frame", contestants, rounds, per=frames
    )
    return rows


def write_and_sample(buffer: ReplayBuffer, frame: TensorDict) -> None:
    """Write and sample as a step of the loop does."""
    buffer.add(frame[0])
    buffer.sample()


def filled_filter(num_trajectories: int) -> tuple[int, Callable[[], None]]:
    """Make a full filter of trajectories of 1,000 steps, and a function that offers a better one.

    The function offers 50 frames at a time, as recall does.
    """
    buffer = ReplayBuffer(storage=LazyTensorStorage(num_trajectories * 1_000), batch_size=256)
    buffer.append_transform(TopKTrajectories(num_trajectories, replay_buffer=buffer))
    best = 0.0

    def offer() -> None:
        nonlocal best
        best += 1.0
        trajectory = transitions(1_000)
        trajectory["next", "reward"].fill_(best)
        trajectory["next", "done"][-1] = True
        for part in trajectory.split(50):
            buffer.extend(part)

    whole = transitions(num_trajectories, 1_000)
    whole["next", "reward"].fill_(0.0)
    whole["next", "done"][:, -1] = True
    buffer.extend(whole)
    return 1_000, offer
