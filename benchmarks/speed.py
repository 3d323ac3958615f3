"""Speed on one core and one thread, as paired ratios against named baselines in the same run.

    python benchmarks/speed.py                                   # all parts, some 25 minutes
    python benchmarks/speed.py parts=[loop] rounds=10 out=runs/speed

``loop`` times whole SAC steps on HalfCheetah-v5: ours, the bare loop, and the peers (extra
``peers``; those not installed are left out). ``on_policy`` does so for TRPO and PPO, 2,048 steps an
update. ``update``, ``model``, ``imitation`` and ``traces``
time the parts against their bare limits, ``four_rooms`` the environment of that name against
itself one step at a time, ``goals`` the goal environments and the Goal GAN's share of an
iteration, and ``growth`` gives costs against sizes.
Contestants of a part take turns within each round, so that a ratio compares neighbours in time; a
table of medians and quartiles is printed, and every measurement goes to ``results.csv``.
"""

from __future__ import annotations

import csv
import importlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["OMP_NUM_THREADS"] = "1"
# What keeps JAX to one thread.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import gymnasium
import numpy as np
import torch
from bare_sac import BareSAC, BareTraces, bare_imitation_update, bare_model_update
from cleanrl_sac import CleanRLSAC
from speed_parts.goals import maze_steps, point_mass_steps, shares
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl_sac import TorchRLSAC

from torchrl_recall import (
    BacktrackingLoss,
    BacktrackingModel,
    ImitationLoss,
    RecallTraceGenerator,
    TopKTrajectories,
)
from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.optim.natural_gradient import kl_divergence
from torchrl_recall.self_imitation import make_adam
from torchrl_recall.trainers.hosts.on_policy import make_host
from torchrl_recall.trainers.hosts.on_policy import make_recall as make_on_policy_recall
from torchrl_recall.trainers.hosts.sac import make_recall, make_sac
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.schema.on_policy import (
    OnPolicyRecallConfig,
    PPORecallConfig,
    TRPORecallConfig,
)
from torchrl_recall.trainers.schema.sac import SACRecallConfig
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.collectors import make_collector, write
from torchrl_recall.trainers.tasks.gym import check_finite, executed, make_env

TASK, OBS_DIM, ACT_DIM = "HalfCheetah-v5", 17, 6
CPU = torch.device("cpu")
PARTS = [
    "loop", "on_policy", "update", "model", "imitation", "traces", "four_rooms", "goals", "growth",
]  # fmt: skip
DEFAULTS = {
    "parts": PARTS,
    "rounds": 10,
    "steps": 200,  # environment steps of each contestant in a round of `loop`
    "out": "runs/speed",
}
Contestants = dict[str, Callable[[], object]]
Rows = list[dict]


def composed(name: str, *overrides: str) -> DictConfig:
    """A recipe's configuration for the task."""
    path = Path(__file__).resolve().parents[1] / "recipes" / "config" / name
    with initialize_config_dir(config_dir=str(path.parent), version_base="1.3"):
        return compose(path.name, [f"env.name={TASK}", *overrides])


def configure(*overrides: str) -> SACRecallConfig:
    """The SAC recipe's configuration for the task."""
    return validate(composed("sac/sac_recall", *overrides))


class Recipe:
    """The loop of ``recipes/sac_recall.py`` without evaluation, log and checkpoints."""

    def __init__(self, *overrides: str) -> None:
        self.config = configure(*overrides)
        torch.manual_seed(0)
        env = make_env(TASK, CPU)
        env.set_seed(0)
        self.sac = make_sac(env, self.config, CPU)
        self.recall = make_recall(env, self.config, self.sac, CPU)
        self.replay_buffer = ReplayBuffer(storage=LazyTensorStorage(1_000_000), batch_size=256)
        self.collector = make_collector(
            env, self.sac.actor, self.config, CPU,
            init_random_frames=self.config.collector.init_random_frames,
        )  # fmt: skip
        self.frames = 0

    def run(self, num_steps: int) -> None:
        """Take environment steps, each followed by an update."""
        for _ in range(num_steps):
            data = self.collector.collect()
            check_finite(data, env_name=TASK, frames=self.frames)
            write(self.replay_buffer, data)
            if self.recall is not None:
                self.recall.extend(data)
            if self.frames >= self.config.collector.init_random_frames:
                self.sac.update(self.replay_buffer.sample())
                if self.recall is not None:
                    self.recall.step(self.replay_buffer)
            self.frames += data.numel()


class OnPolicyRecipe:
    """The loop of ``recipes/trpo_recall.py`` without evaluation, log and checkpoints."""

    def __init__(self, host: str, recall: str) -> None:
        composition = composed(f"on_policy/{host}_recall", f"recall={recall}", "compile=true")
        schema = {"trpo": TRPORecallConfig, "ppo": PPORecallConfig}[host]
        self.config: OnPolicyRecallConfig = validate(composition, schema)
        torch.manual_seed(0)
        self.env = env = make_env(TASK, CPU, clip_actions=True)
        env.set_seed(0)
        self.host = make_host(env, self.config, CPU)
        self.recall = make_on_policy_recall(env, self.config, self.host, CPU)
        self.replay_buffer = ReplayBuffer(
            storage=LazyTensorStorage(self.config.replay_buffer.size), batch_size=1
        )
        self.collector = make_collector(env, self.host.actor, self.config, CPU, clip_actions=True)

    def run(self) -> None:
        """Collect once and update."""
        data = self.collector.collect()
        check_finite(data, env_name=TASK, frames=0)
        if self.recall is not None:
            seen = executed(self.env, data)
            write(self.replay_buffer, seen)
            self.recall.extend(seen)
        self.host.update(data)
        if self.recall is not None:
            before = self.host.policy_on(data)
            self.recall.step(self.replay_buffer)
            kl_divergence(before, self.host.policy_on(data)).mean()


def peer(module: str) -> Any:
    """SAC of Stable-Baselines3 or SBX; None if it is not installed."""
    try:
        library = importlib.import_module(module)
    except ImportError:
        print(f"{module} is not installed and is left out; it is in the extra 'peers'")
        return None
    return library.SAC(
        "MlpPolicy", gymnasium.make(TASK), learning_starts=1_000, buffer_size=1_000_000, seed=0,
        **({"device": "cpu"} if module == "stable_baselines3" else {}),
    )  # fmt: skip


def measure(
    part: str, contestants: Contestants, rounds: int, *, calls: int = 1, per: int = 1
) -> Rows:
    """Milliseconds of each contestant in each round, taking turns.

    Args:
        part: names the rows.
        contestants: what to time.
        rounds: how often.

    Keyword Args:
        calls: calls of each contestant in a round.
        per: units in a call, such as environment steps.

    Returns:
        One row for each round and contestant.
    """
    rows = []
    for round in range(rounds):
        for name, function in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            milliseconds = (time.perf_counter() - start) * 1e3 / calls / per
            rows.append({"part": part, "name": name, "round": round, "ms": milliseconds})
    show(part, rows)
    return rows


def show(part: str, rows: Rows) -> None:
    """A table of times and of speeds relative to each contestant."""
    times: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        times[row["name"]].append(row["ms"])
    print(f"\n## {part}\n\n| | ms | " + " | ".join(f"x {name}" for name in times) + " |")
    print("|---|---|" + "---|" * len(times))
    for name, own in times.items():
        cells = []
        for other in times.values():
            ratios = np.array(other) / np.array(own)
            low, median, high = np.percentile(ratios, [25, 50, 75])
            cells.append(f"{median:.2f} [{low:.2f}, {high:.2f}]")
        print(f"| {name} | {np.median(own):.4g} | " + " | ".join(cells) + " |", flush=True)


def loop(rounds: int, steps: int) -> Rows:
    """Whole SAC steps."""
    contestants: dict[str, Callable[[int], object]] = {
        "recall=none": Recipe("recall=none", "compile=true").run,
        "recall=none, highest": Recipe("recall=none", "compile=true").run,
        "recall=none, eager": Recipe("recall=none", "compile=false").run,
        "recall=backtracking": Recipe("recall=backtracking", "compile=true").run,
        "bare loop": BareSAC(TASK).run,
        "CleanRL": CleanRLSAC(TASK).run,
        "TorchRL example": TorchRLSAC(TASK).run,
    }
    for name, module in (("SB3", "stable_baselines3"), ("SBX", "sbx")):
        if (model := peer(module)) is not None:
            contestants[name] = partial(
                model.learn, reset_num_timesteps=False, log_interval=1_000_000
            )
    # The peers at PyTorch's default precision, as they are published.
    highest = ("recall=none, highest", "CleanRL", "SB3", "TorchRL example")

    def call(name: str, n: int) -> None:
        torch.set_float32_matmul_precision("highest" if name in highest else "medium")
        contestants[name](n)

    for name in contestants:
        call(name, 2_400)  # random frames, compilation and the first rounds of recall
    rows = measure(
        "loop", {name: partial(call, name, steps) for name in contestants}, rounds, per=steps
    )
    torch.set_float32_matmul_precision("medium")
    return rows


def on_policy(rounds: int) -> Rows:
    """TRPO and PPO: an update and the 2,048 steps it learns from."""
    contestants: Contestants = {
        f"{host.upper()}, recall={recall}": OnPolicyRecipe(host, recall).run
        for host in ("trpo", "ppo")
        for recall in ("none", "backtracking")
    }
    num_steps = 2_048
    try:
        from sb3_peer import make_peer
    except ImportError:
        print("sb3_contrib is not installed and is left out; it is in the extra 'peers'")
    else:
        for name, algorithm in (("sb3-contrib TRPO", "trpo"), ("SB3 PPO", "ppo")):
            model = make_peer(algorithm, gymnasium.make(TASK), seed=0)
            contestants[name] = partial(
                model.learn, num_steps, reset_num_timesteps=False, log_interval=1_000_000
            )
    torch.set_float32_matmul_precision("highest")
    for function in contestants.values():
        for _ in range(3):  # compilation and the first rounds of recall
            function()
    rows = measure("on_policy", contestants, rounds, calls=2, per=num_steps)
    torch.set_float32_matmul_precision("medium")
    return rows


def transitions(*shape: int, obs_dim: int = OBS_DIM, act_dim: int = ACT_DIM) -> TensorDict:
    """Random experience."""
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
    """A model that has seen random data."""
    model = BacktrackingModel.from_specs(
        Unbounded((obs_dim,)), Bounded(-1, 1, (act_dim,)), action_scale="learned"
    )
    model.update_statistics(transitions(1_000, obs_dim=obs_dim, act_dim=act_dim))
    return model


def model_update(compile: bool, obs_dim: int = OBS_DIM) -> Callable[[TensorDict], object]:
    """One step of Eq. 2 on a batch."""
    loss = BacktrackingLoss(make_model(obs_dim))
    return make_update(loss, make_adam(loss, 1e-3), compile=compile)


def update(rounds: int) -> Rows:
    """The SAC update alone."""
    env = make_env(TASK)
    batch, bare = transitions(256), BareSAC(TASK)
    data = [batch["observation"], batch["action"], batch["next", "observation"],
            batch["next", "reward"].squeeze(-1), torch.zeros(256)]  # fmt: skip
    ours = {
        name: make_sac(env, configure(f"compile={flag}"), CPU).update
        for name, flag in (("compiled", "true"), ("eager", "false"))
    }
    contestants: Contestants = {
        "bare graph": lambda: bare.update(*data),
        "compiled": lambda: ours["compiled"](batch),
        "eager": lambda: ours["eager"](batch),
    }
    return warm_and_measure("update", contestants, rounds, calls=50)


def warm_and_measure(part: str, contestants: Contestants, rounds: int, *, calls: int) -> Rows:
    """Measure after compilation."""
    for function in contestants.values():
        for _ in range(5):
            function()
    return measure(part, contestants, rounds, calls=calls)


def model(rounds: int) -> Rows:
    """The update of the backtracking model, batch 256."""
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
    """One imitation step, 256 pairs."""
    actor = make_sac(make_env(TASK), configure(), CPU).actor
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
    """256 traces of 20 steps."""
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
    """Steps of random walks in the four rooms, with resets."""
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


def goals(rounds: int, batch: int = 4096) -> Rows:
    """Point masses and mazes, and how much of an iteration the Goal GAN takes."""
    name, steps = f"goals: point mass, {batch} at once", point_mass_steps(batch)
    rows = measure(name, steps, rounds, calls=20, per=batch)
    for maze in ("PointMaze_UMaze-v3", "AntMaze_UMaze-v5"):
        rows += measure(f"goals: {maze}", maze_steps(maze, 450), rounds, per=450)
    for task, *words in (
        ("point_free2", "recall=none", "compile=false"),
        ("point_free2", "recall=none", "compile=true"),
        ("point_free4", "recall=backtracking", "compile=false"),
        ("point_umaze", "recall=none", "compile=false"),
    ):
        rows += measure(f"goals: {task}, {' '.join(words)}", shares(task, *words), rounds)
    return rows


def growth(rounds: int) -> Rows:
    """Cost against trace length, number of traces, buffer size, state dimension, kept rows."""
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
    """What a step of the loop does with its buffer."""
    write(buffer, frame)
    buffer.sample()


def filled_filter(num_trajectories: int) -> tuple[int, Callable[[], None]]:
    """A full filter of trajectories of 1,000 steps, and a function that offers it a better one.

    It comes as recall offers it: 50 frames at a time.
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


def main() -> None:
    """Measure the parts that are asked for."""
    config = OmegaConf.merge(OmegaConf.create(DEFAULTS), OmegaConf.from_cli())
    if unknown := set(config) - set(DEFAULTS):
        sys.exit(f"unknown keys {sorted(unknown)}; there are {sorted(DEFAULTS)}")
    if unknown := set(config.parts) - set(PARTS):
        sys.exit(f"unknown parts {sorted(unknown)}; there are {PARTS}")
    if config.steps % 100:
        sys.exit(f"steps={config.steps} must be a multiple of 100, what TorchRL's example collects")
    process.quiet()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    for part in config.parts:
        arguments = {"steps": config.steps} if part == "loop" else {}
        rows += globals()[part](config.rounds, **arguments)
        with (out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["part", "name", "round", "ms"])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
