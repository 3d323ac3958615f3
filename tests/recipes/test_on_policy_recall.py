"""The TRPO and PPO recipes: every variant, resumption, configuration and their hosts."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import (
    RECIPES,
    Faulty,
    checkpoint_frames,
    metrics,
    process_state_kept,
    sha256,
    stopped_copy,
    summary,
)
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives.value import GAE

from torchrl_recall import ForwardModelImitation, Recall, SelfImitation
from torchrl_recall.optim.natural_gradient import kl_divergence
from torchrl_recall.optim.trust_region import TrustRegion
from torchrl_recall.recipes import trpo_recall
from torchrl_recall.trainers.hosts.on_policy import PPO, TRPO, make_host, make_recall, minibatches
from torchrl_recall.trainers.schema.on_policy import PPORecallConfig, TRPORecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.gym import evaluate, executed, make_env

CPU = torch.device("cpu")
CONFIG = RECIPES / "config" / "on_policy"
RECALLS = sorted(path.stem for path in (CONFIG / "recall").glob("*.yaml"))
SCHEMAS = {"trpo": TRPORecallConfig, "ppo": PPORecallConfig}
TINY = {
    "collector.total_frames": 256,
    "collector.frames_per_batch": 64,
    "policy.num_cells": "[8,8]",
    "eval.interval": 128,
    "eval.num_episodes": 1,
    "checkpoint.interval": 64,
    "checkpoint.keep": 20,
    "logger.backend": "none",
    "recall.num_updates": 2,
    "recall.batch_size": 16,
    "recall.num_high_value_states": 4,
    "recall.state_batch_size": 64,
    "recall.trace_length": 5,
    "backtracking.num_cells": "[8,8]",
    "backtracking.num_updates": 2,
}
HOSTS = {"trpo": {"trpo.batch_size": 32, "trpo.num_epochs": 2}, "ppo": {"ppo.batch_size": 32}}


def tiny(host: str, recall: str = "backtracking", **changes) -> list[str]:
    values = TINY | HOSTS[host] | {k.replace("__", "."): v for k, v in changes.items()}
    if recall == "random_model":
        values["backtracking.num_updates"] = 0
    return [f"recall={recall}"] + [f"{key}={value}" for key, value in values.items()]


def configure(host: str, overrides: list[str]):
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        return validate(compose(f"{host}_recall", overrides), SCHEMAS[host])


def train(host: str, run_dir: Path, overrides: list[str]) -> int:
    config = configure(host, [*overrides, f"run_dir='{run_dir}'"])
    with process_state_kept():
        os.chdir(run_dir.parent)
        return trpo_recall.train(config)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Uninterrupted runs, made once."""
    made = {}

    def get(host, recall):
        if (host, recall) not in made:
            made[host, recall] = tmp_path_factory.mktemp("runs") / "run"
            assert train(host, made[host, recall], tiny(host, recall)) == 0
        return made[host, recall]

    return get


def build(host="trpo", recall="backtracking", **changes):
    torch.manual_seed(0)
    env = make_env("Hopper-v5", clip_actions=True)
    config = configure(host, tiny(host, recall, **changes))
    algorithm = make_host(env, config, CPU)
    return env, algorithm, make_recall(env, config, algorithm, CPU)


def experience(env, host, n=64):
    torch.manual_seed(1)
    env.set_seed(1)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(n, host.actor, break_when_any_done=False)


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("host", SCHEMAS)
def test_every_variant_runs_end_to_end(runs, host, recall):
    run = runs(host, recall)
    assert summary(run)["recall"] == recall
    assert summary(run)["frames"] == 256
    last = metrics(run)[-1]
    assert all(math.isfinite(float(value)) for value in last.values())
    assert ("recall/kl_spent" in last) == (recall != "none")
    trains = recall in ("backtracking", "paper", "forward_model")
    assert ("backtracking/loss_state_predictor" in last) == trains
    assert f"{host}/loss_critic" in last
    if recall != "none":
        assert float(last["recall/kl_spent"]) > 0
        assert sha256(run) != sha256(runs(host, "none"))


@pytest.mark.parametrize("recall", ["none", "backtracking", "self_imitation", "forward_model"])
@pytest.mark.parametrize("host", SCHEMAS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs, tmp_path, host, recall):
    whole = runs(host, recall)
    assert checkpoint_frames(whole) == [64, 128, 192, 256]
    for frames in (64, 192):
        again = stopped_copy(whole, tmp_path / str(frames), frames)
        assert train(host, again, [*tiny(host, recall), "resume=auto"]) == 0
        assert sha256(again) == sha256(whole)
        assert metrics(again) == metrics(whole)


def test_a_signal_saves_and_the_run_goes_on(runs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    words = tiny("trpo", env__name="RecipeFaulty-v0")
    whole = tmp_path / "whole"
    assert train("trpo", whole, words) == 0
    monkeypatch.setattr(Faulty, "fault", {"step": 100, "signal": signal.SIGTERM})
    assert train("trpo", run, words) == 128 + signal.SIGTERM
    monkeypatch.setattr(Faulty, "fault", {})
    assert checkpoint_frames(run)[-1] == 128
    assert train("trpo", run, [*words, "resume=auto"]) == 0
    assert sha256(run) == sha256(whole)


def test_nan_is_named_and_the_run_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Faulty, "fault", {"step": 100, "reward": float("nan")})
    with pytest.raises(FloatingPointError, match="RecipeFaulty-v0 returned NaN"):
        train("trpo", tmp_path / "run", tiny("trpo", env__name="RecipeFaulty-v0"))
    assert checkpoint_frames(tmp_path / "run")[-1] == 64


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_a_compiled_run_is_close_to_an_eager_one(tmp_path, runs):
    words = [*tiny("ppo", "none"), "compile=true"]
    assert train("ppo", tmp_path / "run", words) == 0
    ours, theirs = metrics(tmp_path / "run")[0], metrics(runs("ppo", "none"))[0]
    assert float(ours["ppo/loss_critic"]) == pytest.approx(float(theirs["ppo/loss_critic"]), rel=0.05)  # noqa: E501  # fmt: skip


def test_several_environments(tmp_path):
    words = tiny("trpo", collector__num_envs=2)
    assert train("trpo", tmp_path / "run", words) == 0
    assert summary(tmp_path / "run")["frames"] == 256
    assert float(metrics(tmp_path / "run")[-1]["recall/kl_spent"]) > 0


# The host


def test_the_kind_of_host_follows_the_configuration():
    assert isinstance(build("trpo")[1], TRPO)
    assert isinstance(build("ppo")[1], PPO)


def test_policy_and_critic_begin_as_they_are_usually_begun():
    env, host, _ = build(policy__num_cells="[64,64]")
    data = host.policy_on(experience(env, host))
    assert (data.stddev == 1).all()
    assert data.mean.abs().max() < 0.2
    layers = [m for m in host.critic.modules() if isinstance(m, nn.Linear)]
    assert [layer.out_features for layer in layers] == [64, 64, 1]
    gram = layers[1].weight @ layers[1].weight.T
    torch.testing.assert_close(gram, 2 * torch.eye(64), atol=1e-4, rtol=0)
    assert [type(m) for m in host.critic.modules() if isinstance(m, nn.Tanh)] == [nn.Tanh] * 2


def test_advantages_are_those_of_torchrl_with_its_own_calls():
    env, host, _ = build()
    data = experience(env, host)
    ours = host.with_advantages(data)
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=host.critic)
    bare = data.select("observation", "action")
    bare["next"] = data["next"].select("observation", "reward", "done", "terminated")
    theirs = gae(bare)
    torch.testing.assert_close(ours["advantage"], theirs["advantage"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours["value_target"], theirs["value_target"], atol=1e-4, rtol=1e-4)
    expected = host.actor.get_dist(data.copy()).log_prob(data["action"])
    torch.testing.assert_close(ours["action_log_prob"], expected)
    assert not ours["advantage"].requires_grad


def test_advantages_of_parallel_rows_are_those_of_each_row():
    env, host, _ = build()
    rows = torch.stack([experience(env, host, 20), experience(env, host, 20).flip(0)])
    ours = host.with_advantages(rows)["advantage"].reshape(2, 20, 1)
    for i in range(2):
        alone = host.with_advantages(rows[i])["advantage"]
        torch.testing.assert_close(ours[i], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", SCHEMAS)
def test_an_update_moves_policy_and_critic(host):
    env, algorithm, _ = build(host)
    data = experience(env, algorithm, 256)
    before, policy = algorithm.loss_module.state_dict(), algorithm.policy_on(data)
    before = {key: value.clone() for key, value in before.items()}
    algorithm.update(data)
    moved = kl_divergence(policy, algorithm.policy_on(data)).mean()
    assert 0 < float(moved) < 0.1
    changed = [k for k, v in algorithm.loss_module.state_dict().items() if not v.equal(before[k])]
    assert {key.split("_")[0] for key in changed} >= {"actor", "critic"}


def test_the_critic_learns_its_target():
    env, host, _ = build(trpo__num_epochs=300, optim__lr=0.01, policy__num_cells="[64,64]")
    data = experience(env, host, 64)
    target = host.with_advantages(data)["value_target"]
    host.update(data)
    value = host.critic(data.select("observation"))["state_value"]
    assert float((value - target).square().mean()) < 0.3 * float(target.var())


def test_recall_sees_the_actions_that_the_task_saw():
    env, host, _ = build()
    data = experience(env, host)
    assert data["action"].abs().max() > 1
    seen = executed(env, data)
    assert seen["action"].abs().max() == 1
    assert data["action"].abs().max() > 1
    inside = data["action"].abs() < 1
    assert torch.equal(seen["action"][inside], data["action"][inside])


def test_the_task_clips_what_a_gaussian_policy_chooses():
    beyond, within = (make_env("HalfCheetah-v5", clip_actions=True) for _ in range(2))
    task, other = beyond.base_env._env, within.base_env._env
    task.reset(seed=0), other.reset(seed=0)
    one = task.step(np.full(6, 3.0, np.float32))
    two = other.step(np.full(6, 1.0, np.float32))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]  # the control cost too
    unclipped = make_env("HalfCheetah-v5").base_env._env
    unclipped.reset(seed=0)
    assert unclipped.step(np.full(6, 3.0, np.float32))[1] < one[1] - 0.1
    assert beyond.action_spec.space.high.max() == 1
    assert len(evaluate(beyond, lambda x: torch.full((6,), 9.0), num_episodes=1, seed=0)) == 1


def test_minibatches_hold_every_row_once_in_each_epoch():
    data = TensorDict({"x": torch.arange(12)}, [12])
    batches = [batch["x"].tolist() for batch in minibatches(data, 3, 4)]
    assert [len(batch) for batch in batches] == [4] * 9
    epochs = [[x for batch in batches[i : i + 3] for x in batch] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


# Recall beside it


def test_the_group_decides_what_is_imitated():
    assert build(recall="none")[2] is None
    assert type(build(recall="backtracking")[2]) is Recall
    assert type(build(recall="random_model")[2]) is Recall
    assert type(build(recall="self_imitation")[2]) is SelfImitation
    assert type(build(recall="forward_model")[2]) is ForwardModelImitation


@pytest.mark.parametrize("host", SCHEMAS)
def test_a_bounded_round_spends_no_more_than_the_bound(host):
    changes = {
        "recall__interval": 256,
        "recall__max_kl": 0.001,
        "recall__num_updates": 3,
        "recall__anneal_frames": "null",
    }
    env, algorithm, recall = build(host, **changes)
    assert isinstance(recall.optimizer, TrustRegion)
    data = executed(env, experience(env, algorithm, 256))
    recall.extend(data)
    policy = algorithm.policy_on(data)
    told = recall.step(_buffer(data))
    spent = float(kl_divergence(policy, algorithm.policy_on(data)).mean())
    assert told["recall/accepted"] == 1
    assert 0 < spent <= 0.001 * 1.05  # the sum of the steps' bounds holds to second order


def _buffer(data):
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000), batch_size=1)
    buffer.extend(data.reshape(-1))
    return buffer


def test_a_bounded_run_resumes_bitwise(tmp_path):
    words = tiny("trpo", recall__max_kl=0.005)
    assert train("trpo", tmp_path / "whole", words) == 0
    again = stopped_copy(tmp_path / "whole", tmp_path / "again", 128)
    assert train("trpo", again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(tmp_path / "whole")


@pytest.mark.parametrize(
    ("task", "length"), [("Hopper-v5", 10), ("Ant-v5", 50), ("Walker2d-v5", 20), ("Swimmer-v5", 20)]
)
@pytest.mark.parametrize("host", SCHEMAS)
def test_trace_lengths_are_those_of_table_1(host, task, length):
    assert configure(host, [f"env.name={task}"]).recall.trace_length == length


# What a user gets wrong

REFUSED = [
    ("trpo", "+trpo.radius=0.1", r"trpo\.radius"),
    ("trpo", "trpo.max_kl=0", r"trpo\.max_kl must be positive"),
    ("trpo", "trpo.max_kl=-0.1", r"trpo\.max_kl must be positive"),
    ("trpo", "trpo.damping=-1", r"trpo\.damping must be zero or more"),
    ("trpo", "trpo.line_search_shrink=1.0", r"trpo\.line_search_shrink=1\.0 must be below 1"),
    ("trpo", "trpo.batch_size=100", r"trpo\.batch_size=100 must divide"),
    ("ppo", "ppo.batch_size=100", r"ppo\.batch_size=100 must divide"),
    ("ppo", "+trpo.max_kl=0.1", r"trpo"),
    ("ppo", "ppo.max_grad_norm=0", r"ppo\.max_grad_norm must be positive"),
    ("ppo", "gae.lmbda=1.5", r"gae\.lmbda must be at most 1"),
    ("trpo", "collector.total_frames=5000", r"total_frames=5000 must be a multiple"),
    ("trpo", "collector.num_envs=3", r"frames_per_batch=2048 .*num_envs=3"),
    ("trpo", "replay_buffer.size=100", r"replay_buffer\.size=100 is smaller than one batch"),
    ("trpo", "recall.max_kl=0", r"recall\.max_kl must be positive"),
    ("trpo", "recall.method=prioritized_replay", r"recall\.method must be one of .*forward_model"),
    ("trpo", "env.name=Nope-v0", None),
]


@pytest.mark.parametrize(("host", "override", "message"), REFUSED)
def test_mistakes_are_named(host, override, message, tmp_path):
    if message is None:
        with pytest.raises(ConfigError, match=r"env\.name='Nope-v0' is not a registered"):
            train(host, tmp_path / "run", [override])
        return
    with pytest.raises(ConfigError, match=message):
        configure(host, [override])


@pytest.mark.parametrize("name", ["CartPole-v1", "RecipeUnbounded-v0"])
def test_tasks_of_another_kind_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=r"this recipe"):
        train("trpo", tmp_path / "run", tiny("trpo", env__name=name))
