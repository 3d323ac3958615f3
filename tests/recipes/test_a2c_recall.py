"""The four-room recipe: configurations, seeds, resumption and what it learns."""

from __future__ import annotations

import math
import runpy
import sys

import pytest
import torch
from four_rooms_fixtures import METHODS, SCRIPT, configure, parts, returns, tiny, train
from recipe_fixtures import (
    load,
    metrics,
    process_state_kept,
    sha256,
    shell,
    stopped_copy,
    summary,
)

from torchrl_recall.envs import Oracle
from torchrl_recall.trainers.schema import ConfigError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Uninterrupted runs, made once."""
    made = {}

    def get(method, **changes):
        key = method, *sorted(changes.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            assert train(made[key], tiny(method, **changes)) == 0
        return made[key]

    return get


def test_the_methods():
    assert set(METHODS) == {
        "none", "backtracking", "exact", "random_model", "self_imitation", "prioritized_replay",
        "per_table_3", "paper",
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_group_composes_and_says_its_name(method):
    assert configure([f"recall={method}"]).recall.name == method


@pytest.mark.parametrize("method", METHODS)
def test_every_group_trains(runs, method):
    run_dir = runs(method)
    assert summary(run_dir)["frames"] == 512
    assert set(returns(run_dir)) == {3, 4}
    for rows in returns(run_dir).values():
        assert [frames for frames, _ in rows] == list(range(64, 513, 64))
        assert all(0 <= value <= 1 for _, value in rows)
    first, last = (torch.cat([p.flatten() for p in state_of(run_dir, n)]) for n in (128, 512))
    assert not torch.equal(first, last)


def state_of(run_dir, frames):
    _, state = load(stopped_at(run_dir, frames))
    return [v for v in state["host"]["loss"].values() if isinstance(v, torch.Tensor)]


def stopped_at(run_dir, frames):
    target = run_dir.parent / f"stopped_{frames}"
    return target if target.exists() else stopped_copy(run_dir, target, frames)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_alone_is_bitwise_the_seed_in_company(runs, method):
    together, alone = runs(method), runs(method, seeds="[4]")
    assert returns(alone)[4] == returns(together)[4]
    for both, own in zip(state_of(together, 512), state_of(alone, 512), strict=True):
        if both.ndim > 1:
            assert torch.equal(both[1], own[0])
        else:
            assert torch.equal(both, own)  # coefficients of the loss


def test_seeds_differ(runs):
    by_seed = returns(runs("none"))
    assert by_seed[3] != by_seed[4]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frames", [128, 384])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs, tmp_path, method, frames):
    whole = runs(method)
    stopped_copy(whole, tmp_path / "again", frames)
    assert train(tmp_path / "again", [*tiny(method), "resume=auto"]) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)
    assert returns(tmp_path / "again") == returns(whole)
    assert summary(tmp_path / "again")["frames_to_target"] == summary(whole)["frames_to_target"]


def test_another_seed_is_not_resumed(runs, tmp_path):
    stopped_copy(runs("none"), tmp_path / "again", 128)
    with pytest.raises(ConfigError, match=r"another configuration \(seeds: "):
        train(tmp_path / "again", [*tiny("none", seeds="[3]"), "resume=auto"])


def test_nothing_but_recall_differs_before_the_first_reward(tmp_path):
    """So that ratios of frames are paired by seed."""
    big = {"env__size": 15, "env__start": "opposite", "a2c__entropy_coeff": 0.003}
    for method in ("none", "exact", "backtracking", "self_imitation"):
        assert train(tmp_path / method, tiny(method, **big)) == 0
    plain = returns(tmp_path / "none")
    for method in ("exact", "backtracking", "self_imitation"):
        assert returns(tmp_path / method) == plain


@pytest.mark.parametrize("method", ["exact", "backtracking"])
def test_the_backward_policy_approaches_the_posterior(tmp_path, method):
    overrides = [
        f"recall={method}", "seeds=[0,1,2]", "env.size=7", "collector.total_frames=5120",
        "logger.interval=256",
    ]  # fmt: skip
    assert train(tmp_path / "run", overrides) == 0
    kl = [float(row["backward_policy_kl"]) for row in metrics(tmp_path / "run")]
    assert all(value > 0 for value in kl)
    assert kl[-1] < kl[0] / 2


def test_recall_needs_fewer_frames(tmp_path):
    """The claim, in small: the same seeds, a half of the frames."""
    frames = {}
    for method in ("none", "exact", "backtracking"):
        overrides = [
            f"recall={method}", "seeds=[0,1,2,3]", "env.size=9", "eval.stop_at_target=true",
            "collector.total_frames=20480",
        ]  # fmt: skip
        assert train(tmp_path / method, overrides) == 0
        reached = summary(tmp_path / method)["frames_to_target"]
        assert None not in reached
        frames[method] = math.exp(sum(map(math.log, reached)) / len(reached))
    assert frames["exact"] < frames["none"] / 2
    assert frames["backtracking"] < frames["none"] / 1.5


def test_runs_end_when_all_seeds_are_there(tmp_path):
    overrides = ["recall=exact", "seeds=[0,1]", "env.size=7", "eval.stop_at_target=true"]
    assert train(tmp_path / "run", overrides) == 0
    done = summary(tmp_path / "run")
    assert done["frames"] == max(done["frames_to_target"]) + 2 * 256  # held three times
    assert done["frames"] < 60_416


def test_table_3():
    for size, batch_size, alpha in ((11, 200, 0.8), (13, 2000, 0.8), (15, 1000, 0.95)):
        config = configure(["recall=per_table_3", f"env.size={size}"])
        replay = config.prioritized_replay
        assert (replay.batch_size, replay.alpha) == (batch_size, alpha)
        assert (replay.beta, replay.interval, replay.size) == (0.1, 3, 100_000)
        assert config.a2c.entropy_coeff == 0
    assert configure(["recall=per_table_3", "env.size=19"]).prioritized_replay.batch_size == 1000


def test_paper_erases_and_waits_for_nothing():
    recall = configure(["recall=paper"]).recall
    assert (recall.loop_erasure, recall.gate, recall.anneal_frames) == (False, False, None)
    assert recall.high_value_states == "value"  # Alg. 2


REFUSED = [
    ("+a2c.gama=0.9", r"a2c\.gama"),
    ("env.size=4", r"env: .*4"),
    ("env.size=3", r"env: .*3"),
    ("env.goal=[0,0]", r"env: .*goal.*wall"),
    ("env.start=[0,0]", r"env: .*start.*wall"),
    ("env.start=nowhere", r"env: .*start.*nowhere"),
    ("env.goal=[1,99]", r"env: .*goal"),
    ("env.slip=1", r"env: .*slip"),
    ("env.slip=-0.1", r"env\.slip must be zero or more"),
    ("seeds=[]", r"seeds=\[\] must name one seed"),
    ("seeds=[1,1]", r"seeds=\[1, 1\] must name one seed or several different ones"),
    ("seeds=[-1]", r"seeds must be zero or more"),
    ("a2c.gamma=1.5", r"a2c\.gamma must be at most 1"),
    ("optim.lr=nan", r"optim\.lr must be a finite number"),
    ("recall.min_probability=2", r"recall\.min_probability must be at most 1"),
    ("recall.method=recal", r"recall\.method must be one of"),
    ("recall.high_value_states=best", r"high_value_states must be one of rewarded, value"),
    ("backtracking.dynamics=true", r"backtracking\.dynamics"),
    (
        "eval.interval=100",
        r"eval\.interval=100 must be a multiple of the 64 .*take 64 or 128",
    ),
    ("logger.interval=320", r"logger\.interval=320 must be a multiple of eval\.interval"),
    ("collector.total_frames=100", r"collector\.total_frames=100 must be a multiple"),
    ("prioritized_replay.size=10", r"prioritized_replay\.size=10 is smaller"),
]


@pytest.mark.parametrize(("override", "words"), REFUSED)
def test_a_mistake_ends_the_command_line_in_one_line(override, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "recall=exact", override])
    with process_state_kept(), pytest.raises(SystemExit) as exit:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(exit.value.code, str)
    message = pytest.raises(ConfigError, match=words)
    with message:
        raise ConfigError(exit.value.code.removeprefix("ConfigError: "))
    assert "\n" not in exit.value.code
    assert list(tmp_path.iterdir()) == []


def test_the_script_runs_from_a_shell(tmp_path):
    words = [sys.executable, str(SCRIPT), *tiny("exact"), f"run_dir={tmp_path / 'run'}"]
    done = shell(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["seed"] == [3, 4]
    assert f"to go on: {sys.executable} {SCRIPT}" in done.stdout


def test_the_oracle_judges_the_policy(runs):
    run_dir = runs("exact")
    config, built = parts(*tiny("exact"))
    env, a2c = built.env, built.host
    a2c.load_state_dict(load(run_dir)[1]["host"])
    oracle = Oracle(env.layout, max_steps=env.max_steps, gamma=config.a2c.gamma)
    found = oracle.expected_return(a2c.policy_table()) / oracle.optimum
    last = [rows[-1][1] for rows in returns(run_dir).values()]
    assert found.tolist() == pytest.approx(last, abs=1e-5)


def test_help_lists_the_methods(tmp_path):
    done = shell([sys.executable, str(SCRIPT), "--help"], tmp_path)
    assert done.returncode == 0
    assert all(method in done.stdout for method in METHODS)
