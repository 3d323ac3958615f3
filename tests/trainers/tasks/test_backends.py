"""Frames by each backend: whose they are, by which policy, and of which seed."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import cache
from pathlib import Path

import on_policy_fixtures
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from hydra import compose, initialize_config_dir
from labelled_task import LENGTHS
from recipe_fixtures import (
    RECIPES,
    configure,
    one_thread,
    process_state_kept,
    sha256,
    summary,
    tiny,
    train,
)
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_recall import TopKTrajectories
from torchrl_recall.recipes import dqn_recall
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.schema import ConfigError, DQNRecallConfig, validate
from torchrl_recall.trainers.tasks.collectors import make_collector
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.vector_task import make_vector

CPU = torch.device("cpu")
TASK = "labelled_task:Labelled-v0"
STEPS = 11  # of a batch, which no episode's length divides


@pytest.fixture(autouse=True)
def _tasks_of_tests_are_found(monkeypatch):
    """Let Ray's workers, which are not given this process's path, import the task."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def backends(*names: str) -> list:
    """Name backends; those whose processes take long to start are slow, and Ray may be missing."""
    return [
        pytest.param(
            name,
            marks=[
                *([] if name in ("step", "vector", "parallel") else [pytest.mark.slow]),
                pytest.mark.skipif(
                    name == "ray" and importlib.util.find_spec("ray") is None,
                    reason="Ray is not installed: pip install 'torchrl-recall[ray]'",
                ),
                pytest.mark.skipif(
                    name == "distributed" and not torch.distributed.is_gloo_available(),
                    reason="this torch is built without gloo",
                ),
            ],
        )
        for name in names
    ]


WORKERS = ("multi_sync", "distributed", "ray")
ALL = ("step", "vector", "parallel", *WORKERS)


def make(backend: str, name: str = TASK, num_envs: int = 2, **changes):
    """Make the recipe's own collector, and its host."""
    num_envs = 1 if backend == "step" else num_envs
    sizes = {"frames_per_batch": STEPS * num_envs, "total_frames": 10 * STEPS * num_envs}
    sizes |= {"init_random_frames": 2 * STEPS * num_envs, "backend": backend, "num_envs": num_envs}
    words = {f"collector__{key}": value for key, value in (sizes | changes).items()}
    config = configure(tiny(env__name=name, **words))
    torch.manual_seed(0)
    env = make_env(name, seed=config.seed)
    host = SAC(env, config, CPU)
    random_frames = config.collector.init_random_frames
    return make_collector(env, host.explorer, config, CPU, init_random_frames=random_frames), host


@cache
def collected(backend: str, repetition: int = 0) -> tuple[TensorDict, list[bool], float]:
    """Collect with weights that change after each batch.

    Returns:
        All steps ``[num_envs, time]``; for each batch, whether the policy of the moment would have
        given the same means; and the next random number of this process.
    """
    collector, host = make(backend)
    batches, current = [], []
    with torch.no_grad():
        for data in collector:
            batches.append(data.clone().reshape(-1, STEPS))
            if "loc" in data:
                means = host.explorer(data.select("observation").clone())["loc"]
                current.append(torch.allclose(means, data["loc"], atol=1e-5))
            for parameter in host.explorer.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    collector.shutdown()
    keys = ["observation", "action", "next", "is_init", "loc"]
    whole = torch.cat([batch.select(*keys, strict=False) for batch in batches], 1)
    return whole, current, torch.rand(1).item()


@pytest.mark.parametrize("backend", backends(*ALL))
def test_every_step_is_labelled_with_its_environment_and_episode(backend):
    data, *_ = collected(backend)
    number, _, step = data["observation"].unbind(-1)
    assert data.shape == (1 if backend == "step" else 2, 10 * STEPS)
    assert (number == number[:, :1]).all()  # a row is an environment
    assert len(number[:, 0].unique()) == len(number)
    following = data["next", "observation"]
    assert (following[..., :2] == data["observation"][..., :2]).all()  # no step between episodes
    assert (following[..., 2] == step + 1).all()
    done, terminated = (data["next", key].squeeze(-1) for key in ("done", "terminated"))
    assert (done[:, :-1] == (step[:, 1:] == 0)).all()
    assert done.any()
    assert (terminated == (done & (data["observation"][..., 1] % 2 == 0))).all()
    assert (data["next", "reward"].squeeze(-1) == 1 + data["observation"][..., 1]).all()
    if backend in ("vector", *WORKERS):
        assert (data["is_init"].squeeze(-1) == (step == 0)).all()


@pytest.mark.parametrize("backend", backends(*ALL))
def test_the_filter_holds_whole_episodes_only(backend):
    data, *_ = collected(backend)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=8)
    kept = TopKTrajectories(8, replay_buffer=buffer)
    buffer.append_transform(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is dropped
        for batch in data.split(STEPS, 1):
            buffer.extend(batch.squeeze(0) if backend == "step" else batch)
    assert kept.trajectories_seen == data["next", "done"].sum()
    lengths = kept.get_extra_state()["lengths"].tolist()
    assert len(lengths) == 8
    for whole in buffer[:].split(lengths):
        number, episode, step = whole["observation"].T
        assert (number == number[0]).all()
        assert (episode == episode[0]).all()
        assert step.tolist() == list(range(len(whole)))
        assert len(whole) == LENGTHS[int(number[0] + episode[0]) % len(LENGTHS)]


@pytest.mark.parametrize("backend", backends("parallel", *WORKERS))
def test_actions_are_those_of_the_current_policy(backend):
    data, current, _ = collected(backend)
    assert len(current) == 10 or backend == "parallel"  # random actions have no mean there
    learned = data["loc"][:, 3 * STEPS :]
    assert all(current[2:])
    assert learned.unique().numel() > STEPS


@pytest.mark.parametrize("backend", ["step", "vector"])
def test_the_policy_is_asked_after_the_random_frames_and_not_before(backend):
    collector, _ = make(backend)
    asked, policy = [], collector.policy
    collector.policy = lambda seen: asked.append(collector.frames) or policy(seen)
    for _ in collector:
        pass
    each = collector.total_frames // (10 * STEPS)  # frames that one call of the policy gives
    assert asked == list(range(2 * STEPS * each, 10 * STEPS * each, each))


@pytest.mark.parametrize("backend", backends("parallel", *WORKERS))
def test_random_frames_come_first(backend):
    data, *_ = collected(backend)
    # a random action has no mean of the policy's
    means = data["loc"].reshape(len(data), 10, STEPS, -1).abs().sum((0, 2, 3))
    assert (means[:2] == 0).all()
    assert (means[2:] > 0).all()


# Of parallel environments `test_faults.py` says the same.
@pytest.mark.parametrize("backend", backends("step", "vector", *WORKERS))
def test_one_seed_gives_one_run(backend, tmp_path):
    num_envs = 1 if backend == "step" else 2
    words = tiny(
        "none",
        env__name="Pendulum-v1",
        collector__backend=backend,
        collector__num_envs=num_envs,
        collector__frames_per_batch=20,
        eval__interval=160,
        checkpoint__interval=0,
    )
    hashes = []
    for name in ("a", "b"):
        assert train(tmp_path / name, words) == 0
        assert summary(tmp_path / name)["frames"] == 160
        hashes.append(sha256(tmp_path / name))
    assert hashes[0] == hashes[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_backends_with_workers_take_the_same_steps():
    (first, *_, number), *others = (collected(backend) for backend in WORKERS)
    for data, *_, other in others:
        for key in ("observation", "action", ("next", "reward")):
            assert torch.equal(data[key], first[key])
        assert other == number  # this process drew no other random numbers


@pytest.mark.parametrize("backend", backends("vector", *WORKERS))
def test_a_resumed_run_begins_new_episodes(backend):
    collector, _ = make(backend, total_frames=2 * 3 * STEPS)
    first = next(iter(collector))["observation"].clone()
    with pytest.warns(UserWarning, match="new episodes"):
        assert not collector.load_state_dict(collector.state_dict(), 4 * STEPS)
    data = list(collector)
    collector.shutdown()
    assert [batch.shape for batch in data] == [(2, STEPS)]  # those that are left
    again = data[0]["observation"]
    assert (again[:, 0, 2] == 0).all()
    assert not set(again[:, 0, 0].tolist()) & set(first[:, 0, 0].tolist())  # other seeds
    if backend in WORKERS:  # the random frames are over
        assert (data[0]["loc"].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("backend", backends(*WORKERS))
def test_a_worker_that_fails_ends_the_run_and_not_the_wait(backend):
    collector, _ = make(backend, "labelled_task:Failing-v0")
    start = time.time()
    with pytest.raises(RuntimeError, match=f"a worker of collector.backend={backend}"):
        list(collector)
    collector.shutdown()
    assert time.time() - start < 60
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends(*WORKERS))
def test_ctrl_c_saves(backend, tmp_path):
    words = [
        "env.name=Pendulum-v1", "recall=none", f"collector.backend={backend}",
        "collector.num_envs=2", "collector.frames_per_batch=512", "collector.total_frames=512000",
        "eval.interval=512", "eval.num_episodes=1", "compile=false", "logger.backend=none",
        "checkpoint.interval=0", "run_dir=run",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(RECIPES / "trpo_recall.py"), *words],
        cwd=tmp_path, env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.time() + 120
        while not (tmp_path / "run" / "metrics.csv").exists() and time.time() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, out
    assert "stopped by SIGINT" in out
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert "Traceback" not in out


def compose_dqn(words: list[str]):
    with initialize_config_dir(config_dir=str(RECIPES / "config" / "dqn"), version_base="1.3"):
        return validate(compose("dqn_recall", words), DQNRecallConfig)


@pytest.mark.parametrize("host", ["trpo", "ppo", "dqn"])
def test_other_recipes_collect_from_vectors(host, tmp_path):
    run = tmp_path / "run"
    words = ["collector.backend=vector", "collector.num_envs=4", "eval.interval=256"]
    if host == "dqn":
        words += ["env.name=labelled_task:Switched-v0", "collector.frames_per_batch=64"]
        words += ["collector.total_frames=256", "collector.init_random_frames=64"]
        words += ["dqn.num_updates=2", "replay_buffer.batch_size=16", "recall=none"]
        words += ["compile=false", "logger.backend=none", f"run_dir='{run}'"]
        with process_state_kept():
            assert dqn_recall.train(compose_dqn(words)).status == 0
    else:
        tiny_run = on_policy_fixtures.tiny(host, env__name=TASK)
        assert on_policy_fixtures.train(host, run, [*tiny_run, *words]) == 0
    assert summary(run)["frames"] == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "step", "num_envs": 2}, r"backend=step .*num_envs=2; take num_envs=1"),
        ({"backend": "vector", "random_until_reward": "true"}, r"backend=step, not vector"),
        (
            {"backend": "ray", "num_envs": 2, "frames_per_batch": 3},
            r"frames_per_batch=3 .*multiple",
        ),
        ({"backend": "async"}, r"backend must be one of step, vector, .*got 'async'"),
    ],
)
def test_refusals_name_the_cure(changes, message):
    with pytest.raises(ConfigError, match=message):
        configure(tiny(**{f"collector__{key}": value for key, value in changes.items()}))


@pytest.mark.parametrize("key", ["sac.n_step=3", "sac.return_bound=true"])
def test_one_stream_is_asked_for_whatever_the_backend(key):
    words = [*tiny(collector__backend="vector"), key]
    configure(words)  # one environment is one stream by any backend
    with pytest.raises(ConfigError, match=r"take (num_envs=1|one)"):
        configure([*words, "collector.num_envs=2", "collector.frames_per_batch=2"])


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'torchrl-recall\[ray\]'"):
        make("ray")


def test_a_vector_of_the_users_own_task_is_made_with_all_its_settings():
    from gymnasium.vector import SyncVectorEnv

    from torchrl_recall.trainers.tasks.vector_task import make_vector

    making = configure(tiny()).env.making
    own = make_vector("point_umaze", 3, making)
    assert not isinstance(own.unwrapped, SyncVectorEnv)  # the task's own
    delayed = make_vector("point_umaze", 3, making | {"delay": "end"})
    assert isinstance(delayed, SyncVectorEnv)
    by_function = make_vector("mine", 2, making | {"entry_point": "labelled_task:Labelled"})
    assert by_function.reset(seed=[1, 2])[0].shape == (2, 3)
    # CartPole's own vector loses a step at the end of each episode
    discrete = {"entry_point": None, "observation_keys": None, "actions": "discrete"}
    assert isinstance(make_vector("CartPole-v1", 2, discrete), SyncVectorEnv)
    for vector in (own, delayed, by_function):
        vector.close()


def test_tasks_of_a_vector_are_not_closed_under_way(monkeypatch):
    """TorchRL's environment closes its task when it is collected."""
    closed = []
    monkeypatch.setattr(PendulumEnv, "close", lambda self: closed.append(self))
    vector = make_vector("Pendulum-v1", 2, {"entry_point": None, "observation_keys": None})
    tasks = {id(env.unwrapped) for env in vector.envs}
    gc.collect()  # also what earlier tests left, which is closed here
    assert not tasks & {id(task) for task in closed}
    vector.close()
    assert tasks <= {id(task) for task in closed}
