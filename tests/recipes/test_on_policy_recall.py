"""The TRPO and PPO recipes: every variant, resumption and configuration."""

from __future__ import annotations

import math
import signal

import pytest
from on_policy_fixtures import RECALLS, SCHEMAS, configure, experience, parts, tiny, train
from recipe_fixtures import (
    Faulty,
    checkpoint_frames,
    metrics,
    sha256,
    stopped_copy,
    summary,
)

from torchrl_recall import ForwardModelImitation, NoRecall, Recall, SelfImitation
from torchrl_recall.imitation_updates import TrustRegionSteps
from torchrl_recall.optim.natural_gradient import kl_divergence
from torchrl_recall.trainers.schema import ConfigError


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


# Recall beside it


def test_the_group_decides_what_is_imitated():
    kinds = {
        "none": NoRecall,
        "backtracking": Recall,
        "random_model": Recall,
        "self_imitation": SelfImitation,
        "forward_model": ForwardModelImitation,
    }
    for recall, kind in kinds.items():
        assert type(parts(recall=recall).recall) is kind


@pytest.mark.parametrize("host", SCHEMAS)
def test_a_bounded_round_spends_no_more_than_the_bound(host):
    changes = {
        "recall__interval": 256,
        "recall__max_kl": 0.001,
        "recall__num_updates": 3,
        "recall__anneal_frames": "null",
    }
    built = parts(host, **changes)
    assert isinstance(built.recall.imitate.steps, TrustRegionSteps)
    data = built.clip_actions(experience(built, 256))
    built.add_frames(data)
    built.recall.extend(data)
    policy = built.host.policy_on(data)
    told = built.recall.step(built.replay_buffer)
    spent = float(kl_divergence(policy, built.host.policy_on(data)).mean())
    assert told["recall/accepted"] == 1
    assert 0 < spent <= 0.001 * 1.05  # the sum of the steps' bounds holds to second order


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
    ("trpo", "trpo.line_search_shrink=1.0", r"trpo\.line_search_shrink must be below 1"),
    ("trpo", "trpo.batch_size=100", r"trpo\.batch_size=100 must divide"),
    ("ppo", "ppo.batch_size=100", r"ppo\.batch_size=100 must divide"),
    ("ppo", "+trpo.max_kl=0.1", r"trpo"),
    ("ppo", "ppo.max_grad_norm=0", r"ppo\.max_grad_norm must be positive"),
    ("ppo", "gae.lmbda=1.5", r"gae\.lmbda must be at most 1"),
    ("trpo", "collector.total_frames=5000", r"=5000 must be a multiple.*Take 4096 or 6144"),
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
