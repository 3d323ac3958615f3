"""The loop's bookkeeping: what is evaluated, logged and saved when, and how a run ends."""

from __future__ import annotations

import os
import shutil
import signal
import warnings

import pytest
import torch
from four_rooms_fixtures import configure as configure_rooms
from four_rooms_fixtures import tiny as tiny_rooms
from recipe_fixtures import (
    checkpoint_frames,
    configure,
    metrics,
    process_state_kept,
    summary,
    tiny,
    train,
)

from torchrl_recall.recipes import a2c_recall, sac_recall
from torchrl_recall.trained.load import load_run
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.run import Run
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import DivergenceError

# Books are kept in the same way for all recipes; the grid's is the fastest: 32 frames in a batch.


def rooms(run_dir, *overrides: str, method: str = "none"):
    return configure_rooms([*tiny_rooms(method), f"run_dir='{run_dir}'", *overrides])


def go(config, body=lambda run: None) -> Run:
    """Go through a run without learning, calling ``body`` after each batch."""
    with process_state_kept():
        with Run(config) as run:
            parts = run.resume(a2c_recall.build(config))
            for _ in run.frames_from(parts.collector):
                body(run)
        return run


def test_what_happens_when(tmp_path):
    seen = []
    run = go(
        rooms(tmp_path / "run", "checkpoint.interval=96", "logger.interval=192",
              "collector.total_frames=384"),
        lambda run: seen.append(run.frames),
    )  # fmt: skip
    assert run.status == 0
    assert seen == list(range(0, 384, 32))  # the body sees the frames before its batch
    assert run.parts.evaluation.frames == [64, 128, 192, 256, 320, 384]
    assert [int(row["frames"]) for row in metrics(tmp_path / "run")] == [192, 384]
    assert checkpoint_frames(tmp_path / "run") == [96, 192, 288, 384]


def test_without_an_interval_only_the_end_is_saved(tmp_path):
    go(rooms(tmp_path / "run", "checkpoint.interval=0"))
    assert checkpoint_frames(tmp_path / "run") == [512]


def test_an_interval_between_batches_is_due_at_the_next_one(tmp_path):
    go(rooms(tmp_path / "run", "checkpoint.interval=100", "collector.total_frames=320"))
    assert checkpoint_frames(tmp_path / "run") == [128, 224, 320]


def test_a_row_holds_mean_and_spread_and_the_latest_of_each_metric(tmp_path):
    def body(run):
        run.metrics |= {"a": float(run.frames)}
        if run.frames == 32:
            run.metrics |= {"b": torch.tensor(7.0)}

    go(rooms(tmp_path / "run", "collector.total_frames=256"), body)
    first, second = metrics(tmp_path / "run")
    assert (float(first["a"]), float(second["a"])) == (96, 224)
    assert (float(first["b"]), float(second["b"])) == (7, 7)
    # Both seeds have the uniform policy.
    assert float(first["eval_return"]) == float(second["eval_return"]) > 0
    assert float(first["eval_return_std"]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_batch(tmp_path, capsys, number):
    def body(run):
        if run.frames == 160:
            os.kill(os.getpid(), number)

    run = go(rooms(tmp_path / "run"), body)
    assert run.status == 128 + number
    assert run.frames == 192
    assert checkpoint_frames(tmp_path / "run") == [128, 192]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert f"stopped by {number.name} at 192 steps" in capsys.readouterr().out


def test_a_resumed_run_counts_on(tmp_path):
    def stop(run):
        if run.frames == 160:
            os.kill(os.getpid(), signal.SIGTERM)

    go(rooms(tmp_path / "run"), stop)
    seen = []
    run = go(rooms(tmp_path / "run", "resume=auto"), lambda run: seen.append(run.frames))
    assert seen == list(range(192, 512, 32))
    assert run.parts.evaluation.frames == list(range(64, 513, 64))
    assert summary(tmp_path / "run")["frames"] == 512


class Broken(RuntimeError):
    """Stand for an error that a task may raise."""


def breaking(run, owner: str, after: int, kind: type[Exception] = Broken) -> None:
    """Let a part of the run fail once it has taken so many frames."""
    part = getattr(run.parts, owner)
    name = {"collector": "collect", "evaluation": "evaluate"}[owner]
    real = getattr(part, name)

    def call():
        if run.frames >= after:
            raise kind("it broke")
        return real()

    setattr(part, name, call)


@pytest.mark.parametrize("kind", [Broken, FloatingPointError])
@pytest.mark.parametrize("owner", ["collector", "evaluation"])
def test_an_error_after_a_whole_batch_saves_it_first(tmp_path, capsys, owner, kind):
    def body(run):
        if not run.frames:
            breaking(run, owner, 320, kind)

    with pytest.raises(kind, match="it broke") as error:
        go(rooms(tmp_path / "run"), body)
    assert "after step 320" in error.value.__notes__[0]
    assert checkpoint_frames(tmp_path / "run") == [128, 256, 320]
    assert "saved at 320 steps; go on with:" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["none", "exact"])
def test_a_run_goes_on_after_an_error(tmp_path, method):
    """Its environments may be broken, so their episodes do not go on."""

    def body(run):
        if not run.frames:
            breaking(run, "collector", 320)

    with pytest.raises(Broken):
        go(rooms(tmp_path / "run", method=method), body)
    seen = []
    go(
        rooms(tmp_path / "run", "resume=auto", method=method),
        lambda run: seen.append(run.frames),
    )
    assert seen == list(range(320, 512, 32))


def test_a_diverged_policy_is_not_saved(tmp_path):
    def body(run):
        if not run.frames:
            breaking(run, "collector", 320, DivergenceError)

    with pytest.raises(DivergenceError):
        go(rooms(tmp_path / "run"), body)
    assert checkpoint_frames(tmp_path / "run") == [128, 256]


def test_returns_that_are_no_numbers_end_the_run_unsaved(tmp_path):
    def body(run):
        if run.frames == 256:
            run.parts.evaluation.evaluate = lambda: torch.tensor([1.0, float("nan")])

    with pytest.raises(DivergenceError, match=r"evaluation after 320 steps returned \[1.0, nan\]"):
        go(rooms(tmp_path / "run"), body)
    assert checkpoint_frames(tmp_path / "run") == [128, 256]


def test_an_error_within_a_batch_saves_nothing_and_lets_go_of_everything(tmp_path):
    closed, before = [], signal.getsignal(signal.SIGTERM)

    def body(run):
        closed.append(run.parts.env)
        if run.frames == 160:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(rooms(tmp_path / "run"), body)
    assert checkpoint_frames(tmp_path / "run") == [128]
    assert closed[0].is_closed
    assert signal.getsignal(signal.SIGTERM) is before
    with process.lock(tmp_path / "run"):
        pass  # nobody holds it


def test_a_refusal_closes_what_was_built_and_lets_go(tmp_path):
    go(rooms(tmp_path / "run", "collector.total_frames=64"))
    config = rooms(tmp_path / "run")
    parts = a2c_recall.build(config)
    with (
        process_state_kept(),
        pytest.raises(ConfigError, match="already holds a run"),
        Run(config) as run,
    ):
        run.resume(parts)
    assert parts.env.is_closed
    with process.lock(tmp_path / "run"):
        pass


def test_a_target_ends_the_run_with_a_checkpoint(tmp_path):
    words = ["eval.stop_at_target=true", "eval.target=0.01", "eval.patience=2"]
    run = go(rooms(tmp_path / "run", *words))
    assert run.frames == 128  # held in two evaluations
    assert checkpoint_frames(tmp_path / "run") == [128]
    assert summary(tmp_path / "run")["frames_to_target"] == [64, 64]


def test_the_summary_says_what_ran(tmp_path):
    run = go(rooms(tmp_path / "run", "collector.total_frames=128"))
    told = summary(tmp_path / "run")
    assert (told["env"], told["seed"], told["recall"]) == ("four rooms, 5", [3, 4], "none")
    loss = run.parts.host.loss_module
    assert told["weights_sha256"] == process.weights_sha256(loss.state_dict())
    assert told["final_eval_return"] == float(metrics(tmp_path / "run")[-1]["eval_return"])


def test_open_trajectories_are_dropped_where_episodes_do_not_go_on(tmp_path):
    go(rooms(tmp_path / "run", "collector.total_frames=128"))
    dropped = []
    config = rooms(tmp_path / "run", "resume=auto")
    with process_state_kept(), Run(config) as run:
        parts = a2c_recall.build(config)
        parts.collector.load_state_dict = lambda state, frames: False
        parts.recall.drop_unfinished = lambda: dropped.append(run.frames)
        run.resume(parts)
    assert dropped == [128]


def stopped_in_an_evaluation(words: list[str], run_dir, frames: int) -> None:
    """A run that gets a signal in its evaluation after some frames."""
    config = configure([*words, f"run_dir='{run_dir}'"])
    with process_state_kept(), Run(config) as run:
        parts = run.resume(sac_recall.build(config, run.device))
        policy = parts.evaluation.policy

        def stop(observation):
            if run.frames == frames:
                os.kill(os.getpid(), signal.SIGTERM)
            return policy(observation)

        parts.evaluation.policy = stop
        for data in run.frames_from(parts.collector):
            run.metrics |= sac_recall.learn(parts, data, config, run.frames)
    assert (run.status, run.frames) == (143, frames)


def test_an_evaluation_that_a_signal_cut_short_is_made_up_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory
    words = tiny("none", collector__total_frames=80, eval__interval=70)
    assert train(tmp_path / "whole", words) == 0
    stopped_in_an_evaluation(words, tmp_path / "run", 70)
    assert train(tmp_path / "run", [*words, "resume=auto"]) == 0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_an_evaluation_that_was_made_up_for_at_the_end_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = tiny("none", collector__total_frames=80, eval__interval=40)
    stopped_in_an_evaluation(words, tmp_path / "run", 80)
    assert train(tmp_path / "run", [*words, "resume=auto"]) == 0
    found = load_run(tmp_path / "run", restore=("evaluation",))
    assert found.parts.evaluation.frames == [40, 80]
    assert train(tmp_path / "run", [*words, "collector.total_frames=120", "resume=auto"]) == 0
    assert [row["frames"] for row in metrics(tmp_path / "run")] == ["40", "80", "120"]


# The process


@pytest.mark.parametrize(
    ("given", "frames", "decided"),
    [("null", 160, False), ("null", 500, True), ("null", 501, True), ("true", 160, True),
     ("false", 501, False)],
)  # fmt: skip
def test_compilation_is_decided_by_the_number_of_frames(tmp_path, given, frames, decided):
    config = configure(
        tiny(
            compile=given, compile_from_frames=500, collector__total_frames=frames,
            run_dir=tmp_path / "run",
        )
    )  # fmt: skip
    with process_state_kept(), Run(config):
        assert config.compile is decided
    assert not (tmp_path / "run").exists()  # until the run takes hold of it


@pytest.mark.parametrize("saved", [True, False])
def test_a_prolonged_run_keeps_its_kind_of_update(tmp_path, saved):
    (tmp_path / "config.yaml").write_text(f"compile: {str(saved).lower()}\n")
    words = {"compile": "null", "compile_from_frames": 500, "run_dir": tmp_path}
    frames = 160 if saved else 900  # by itself it would decide otherwise
    config = configure(tiny(collector__total_frames=frames, resume="auto", **words))
    with process_state_kept(), Run(config):
        assert config.compile is saved
    config = configure(tiny(collector__total_frames=frames, resume="never", **words))
    with process_state_kept(), Run(config):
        assert config.compile is not saved


def test_threads_seed_and_precision_are_set(tmp_path):
    words = {"torch_threads": 2, "seed": 11, "matmul_precision": "high"}
    with process_state_kept(), Run(configure(tiny(run_dir=tmp_path / "run", **words))):
        assert torch.get_num_threads() == 2
        assert torch.initial_seed() == 11
        assert torch.get_float32_matmul_precision() == "high"


def test_what_may_change_without_a_word(tmp_path):
    go(rooms(tmp_path / "run", "collector.total_frames=64"))
    again = rooms(
        tmp_path / "run", "resume=auto", "collector.total_frames=128", "eval.interval=128",
        "checkpoint.keep=1", "recall.anneal_frames=999",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert go(again).frames == 128
    with pytest.raises(ConfigError, match=r"another configuration \(recall\.lr: 0\.006 was saved"):
        go(rooms(tmp_path / "run", "resume=auto", "recall.lr=0.5", "collector.total_frames=128"))


def test_a_run_that_goes_on_has_no_summary_until_it_ends_again(tmp_path):
    """Otherwise a stopped run would count as one that had reached the new target."""
    folder = tmp_path / "run"
    go(rooms(folder, "collector.total_frames=64"))
    assert (folder / "summary.json").exists()
    longer = rooms(folder, "collector.total_frames=128", "resume=auto")
    seen = []
    go(longer, lambda run: seen.append((folder / "summary.json").exists()))
    assert seen == [False, False]
    assert summary(folder)["total_frames"] == [64, 128]


def test_a_run_without_its_checkpoints_does_not_begin_again_over_its_results(tmp_path):
    folder = tmp_path / "run"
    go(rooms(folder, "collector.total_frames=64"))
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "metrics.csv").read_text()
    with pytest.raises(ConfigError, match="its checkpoints are gone"):
        go(rooms(folder, "collector.total_frames=128", "resume=auto"))
    assert (folder / "metrics.csv").read_text() == before
