import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest
from recipe_fixtures import (
    Faulty,
    checkpoint_frames,
    command,
    configure,
    load,
    metrics,
    one_thread,
    process_state_kept,
    sha256,
    stopped_copy,
    tiny,
    train,
)

from torchrl_recall import Recall, SelfImitation
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.runs import checkpoints, process
from torchrl_recall.trainers.schema import ConfigError

METHODS = ["none", "backtracking", "imitation", "self_imitation"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Uninterrupted runs, made once."""
    made = {}

    def get(recall, **changes):
        key = recall, *sorted(changes.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            assert train(made[key], tiny(recall, **changes)) == 0
        return made[key]

    return get


def resume(source, target, frames, recall, **changes):
    stopped_copy(source, target, frames)
    return train(target, [*tiny(recall, **changes), "resume=auto"])


@pytest.mark.parametrize(
    ("recall", "frames"),
    [(recall, 80) for recall in METHODS]
    + [("backtracking", 40), ("backtracking", 120)]
    + [
        pytest.param(recall, frames, marks=pytest.mark.slow)
        for recall in ("none", "imitation", "self_imitation")
        for frames in (40, 120)
    ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs, tmp_path, recall, frames):
    whole = runs(recall)
    assert checkpoint_frames(whole) == [40, 80, 120, 160]
    assert resume(whole, tmp_path / "again", frames, recall) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


@pytest.mark.parametrize("name", ["Ant-v5", "HalfCheetah-v5"])
def test_other_tasks_resume_bitwise(runs, tmp_path, name):
    # Episodes of these tasks take a thousand steps, so there is one evaluation only.
    changes = {"env__name": name, "collector__total_frames": 100, "eval__interval": 100}
    whole = runs("backtracking", **changes)
    assert resume(whole, tmp_path / "again", 80, "backtracking", **changes) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


@pytest.mark.parametrize(
    ("recall", "changes"),
    [("forward_dyna", {}), ("none", {"replay_buffer__prioritized": "true"})],
)
def test_a_forward_model_and_priorities_resume_bitwise(runs, tmp_path, recall, changes):
    whole = runs(recall, **changes)
    assert resume(whole, tmp_path / "again", 80, recall, **changes) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_compiled_runs_resume_bitwise(runs, tmp_path):
    changes = {"compile": "true", "collector__total_frames": 120}
    whole = runs("backtracking", **changes)
    assert resume(whole, tmp_path / "again", 80, "backtracking", **changes) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


def test_a_resumed_row_keeps_the_metrics_of_a_round_before_the_checkpoint(runs, tmp_path):
    # Rounds at 50, 100, 150; the row at 90 shows the one at 50, which the resumed run has not seen.
    changes = {
        "recall__interval": 50, "collector__init_random_frames": 40, "eval__interval": 90,
        "checkpoint__interval": 60, "collector__total_frames": 90,
    }  # fmt: skip
    whole = runs("imitation", **changes)
    assert "recall/kept" in metrics(whole)[-1]
    resume(whole, tmp_path / "again", 60, "imitation", **changes)
    assert metrics(tmp_path / "again") == metrics(whole)


def test_runs_repeat_and_seeds_differ(runs, tmp_path):
    train(tmp_path / "same", tiny("backtracking"))
    train(tmp_path / "other", tiny("backtracking", seed=1))
    assert sha256(tmp_path / "same") == sha256(runs("backtracking"))
    assert sha256(tmp_path / "other") != sha256(runs("backtracking"))


PARTS = {
    "random numbers": [("rng",)],
    "optimiser": [("host", "optimizer")],
    "targets": [("host", "loss", "target")],
    "environment": [("collector", "env")],
    "observation": [("collector", "observation")],
    "replay buffer": [("replay_buffer",)],
    "normaliser": [("recall", "model", "observations"), ("recall", "model", "deltas")],
    "filter": [("recall", "trajectories", "buffer", "transforms")],
    "imitation's optimiser": [("recall", "imitate", "optimizer")],
    "model's optimiser": [("recall", "train_model", "optimizer")],
    "newest traces": [("recall", "fresh")],
    "reward model": [("recall", "train_reward", "model")],
    "schedule": [("recall", "schedule", "last_round")],
    "nothing": [],
}


@pytest.mark.parametrize("part", PARTS)
def test_nothing_may_be_left_out_of_a_checkpoint(runs, tmp_path, part):
    recall = "imitation" if part.startswith("imitation") else "backtracking"
    whole = runs(recall)
    beginning = runs(recall, collector__total_frames=2, collector__init_random_frames=1, seed=3)
    again = stopped_copy(whole, tmp_path / "again", 120)
    frames, state = load(again)
    _, fresh = load(beginning)
    changed = 0
    for *path, last in PARTS[part]:
        ours, theirs = state, fresh
        for key in path:
            ours, theirs = ours[key], theirs[key]
        # State dicts of modules are flat: a name there stands for all that begin with it.
        names = [last] if last in ours else [name for name in ours if name.startswith(last)]
        for name in names:
            ours[name] = theirs[name]
            changed += 1
    assert changed or part == "nothing"
    checkpoints.save(again / "checkpoints", frames, state)
    with warnings.catch_warnings():
        if part == "observation":  # the stream does not go on, which is noticed
            warnings.filterwarnings("ignore", "TopKTrajectories dropped")
        if part == "filter":  # it does not know the buffer's rows, which is noticed too
            with pytest.raises(ValueError, match="nothing else writes to"):
                train(again, [*tiny(recall), "resume=auto"])
            return
        train(again, [*tiny(recall), "resume=auto"])
    assert (sha256(again) == sha256(whole)) == (part == "nothing")


def test_a_run_may_be_prolonged(runs, tmp_path):
    again = stopped_copy(runs("backtracking"), tmp_path / "again", 160)
    longer = tiny("backtracking", collector__total_frames=240)
    assert train(again, [*longer, "resume=auto"]) == 0
    train(tmp_path / "whole", longer)
    assert sha256(again) == sha256(tmp_path / "whole")
    assert metrics(again) == metrics(tmp_path / "whole")


def test_a_run_may_be_prolonged_with_default_annealing(tmp_path):
    # By default anneal_frames is collector.total_frames, which a prolonged run changes.
    words = [word for word in tiny("backtracking") if not word.startswith("recall.anneal_frames")]
    short = [*words, "collector.total_frames=80"]
    assert train(tmp_path / "run", short) == 0
    assert train(tmp_path / "run", [*short, "collector.total_frames=100", "resume=auto"]) == 0
    assert load(tmp_path / "run")[0] == 100


def test_resuming_a_finished_run_changes_nothing(runs, tmp_path):
    whole = runs("none")
    again = stopped_copy(whole, tmp_path / "again", 160)
    assert train(again, [*tiny("none"), "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


def test_resume_auto_in_a_new_folder_starts(runs, tmp_path):
    assert train(tmp_path / "run", [*tiny("none"), "resume=auto"]) == 0
    assert sha256(tmp_path / "run") == sha256(runs("none"))


@pytest.mark.parametrize(
    "change",
    [
        {"sac__num_cells": "[8]"}, {"backtracking__num_cells": "[8]"}, {"optim__lr": 0.1},
        {"seed": 5}, {"env__name": "Walker2d-v5"}, {"recall__trace_length": 3},
    ],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_another_configuration_is_refused_by_name(runs, tmp_path, change):
    (key, value), again = *change.items(), tmp_path / "again"
    with pytest.raises(ConfigError, match="another configuration") as error:
        resume(runs("backtracking"), again, 80, "backtracking", **change)
    assert key.replace("__", ".") in str(error.value)
    assert str(value).strip("[]") in str(error.value)
    assert checkpoint_frames(again) == [80]


def test_what_does_not_change_the_weights_may_change(runs, tmp_path):
    changes = {"checkpoint__keep": 1, "checkpoint__interval": 7, "logger__backend": "tensorboard"}
    assert resume(runs("none"), tmp_path / "again", 80, "none", **changes) == 0
    assert sha256(tmp_path / "again") == sha256(runs("none"))


def test_a_used_folder_is_refused_unless_resumed(runs, tmp_path):
    again = stopped_copy(runs("none"), tmp_path / "again", 80)
    before = sorted(path.name for path in again.rglob("*"))
    with pytest.raises(ConfigError, match=r"already holds a run.*resume=auto") as error:
        train(again, tiny("none"))
    assert str(again) in str(error.value)
    assert sorted(path.name for path in again.rglob("*") if path.name != ".lock") == before
    # The refusal, which is still held here, does not hold the folder.
    assert train(again, [*tiny("none"), "resume=auto"]) == 0


def test_damaged_checkpoint_is_replayed_from_the_one_before(runs, tmp_path):
    whole = runs("none")
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for frames in (120, 160):
        (again / "checkpoints" / f"{frames:012d}" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="checksum"):
        train(again, [*tiny("none"), "resume=auto"])
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


def test_another_version_warns(runs, tmp_path):
    again = stopped_copy(runs("none"), tmp_path / "again", 120)
    frames, state = load(again)
    state["versions"]["mujoco"] = "1.0.0"
    checkpoints.save(again / "checkpoints", frames, state)
    with pytest.warns(UserWarning, match=r"1\.0\.0.*not bitwise"):
        train(again, [*tiny("none"), "resume=auto"])


def test_a_second_run_in_a_live_folder_is_refused(tmp_path):
    with (
        process.lock(tmp_path / "run"),
        pytest.raises(ConfigError, match=r"another run is writing.*another run_dir"),
    ):
        train(tmp_path / "run", tiny("none"))
    assert train(tmp_path / "run", tiny("none", collector__total_frames=70)) == 0


def test_trajectories_of_two_episodes_are_not_joined(tmp_path):
    # Pendulum's episodes take 200 steps; with such a wrapper they cannot be saved in their midst.
    changes = {
        "env__name": "RecipeUnsaved-v0", "checkpoint__interval": 250,
        "collector__total_frames": 500,
        "collector__init_random_frames": 480, "eval__interval": 500,
    }  # fmt: skip
    train(tmp_path / "whole", tiny("self_imitation", **changes))
    with pytest.warns(UserWarning, match="new episode"):
        resume(tmp_path / "whole", tmp_path / "again", 250, "self_imitation", **changes)
    _, state = load(tmp_path / "again")
    transforms = state["recall"]["trajectories"]["buffer"]["transforms"]
    lengths = next(value["lengths"] for value in transforms.values() if "lengths" in value)
    assert lengths.tolist() == [200] * len(lengths)
    assert len(lengths) > 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, number, status):
    words = tiny("backtracking", env__name="RecipeFaulty-v0")
    train(tmp_path / "whole", words)
    monkeypatch.setattr(Faulty, "fault", {"step": 101, "signal": number})
    monkeypatch.setattr(sys, "argv", ["recipe.py", *words])
    assert train(tmp_path / "a run", words) == status
    assert 80 < load(tmp_path / "a run")[0] < 120
    assert not (tmp_path / "a run" / "summary.json").exists()
    output = capsys.readouterr().out
    assert f"stopped by {number.name}" in output
    words = shlex.split(output.strip().splitlines()[-1])
    assert words[1] == "recipe.py"
    assert words[-2:] == [f"run_dir='{tmp_path / 'a run'}'", "resume=auto"]
    monkeypatch.setattr(Faulty, "fault", {})
    assert train(tmp_path / "a run", [*words[2:-2], "resume=auto"]) == 0
    assert sha256(tmp_path / "a run") == sha256(tmp_path / "whole")
    assert metrics(tmp_path / "a run") == metrics(tmp_path / "whole")


def test_handlers_of_the_caller_come_back(tmp_path):
    def handler(number, frame):
        raise AssertionError

    with process_state_kept():
        signal.signal(signal.SIGTERM, handler)
        words = tiny("none", collector__total_frames=62)
        assert sac_recall.train(configure([*words, f"run_dir={tmp_path / 'run'}"])).status == 0
        assert signal.getsignal(signal.SIGTERM) is handler


def test_none_is_the_same_run_whatever_recall_says(runs, tmp_path):
    others = tiny(
        "none", recall__trace_length=9, recall__num_traces=3, recall__lr=0.1, recall__interval=7,
        backtracking__num_updates=9, backtracking__num_cells="[4]", backtracking__lr=0.5,
    )  # fmt: skip
    train(tmp_path / "others", others)
    assert sha256(tmp_path / "others") == sha256(runs("none"))
    assert metrics(tmp_path / "others") == metrics(runs("none"))


def test_none_never_constructs_recall(runs, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("constructed")

    for kind in (Recall, SelfImitation):
        monkeypatch.setattr(kind, "__init__", refuse)
    for recall in ("backtracking", "self_imitation"):
        with pytest.raises(AssertionError, match="constructed"):
            train(tmp_path / recall, tiny(recall))
    train(tmp_path / "none", tiny("none"))
    assert sha256(tmp_path / "none") == sha256(runs("none"))
    assert sha256(tmp_path / "none") != sha256(runs("self_imitation"))


def start(run_dir, words):
    return subprocess.Popen(
        command(*words, "resume=auto", run_dir=run_dir), cwd=run_dir.parent, env=one_thread(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_checkpoint_after(process, run_dir, frames):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        folder = run_dir / "checkpoints"
        newest = max((int(n) for n in os.listdir(folder) if n.isdigit()), default=-1) if (
            folder.is_dir()
        ) else -1  # fmt: skip
        if newest > frames:
            return newest
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no checkpoint after {frames}: {process.communicate()[0]}")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_the_uninterrupted_one(tmp_path):
    words = tiny(
        "backtracking", collector__total_frames=600, checkpoint__interval=20, checkpoint__keep=2
    )
    assert train(tmp_path / "whole", words) == 0
    run, frames, moments = tmp_path / "run", -1, random.Random(0)
    for _ in range(5):
        process = start(run, words)
        frames = wait_for_checkpoint_after(process, run, frames)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        frames = max(checkpoint_frames(run))
    process = start(run, words)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert f"resumed at {frames:,} steps" in output
    assert sha256(run) == sha256(tmp_path / "whole")
    assert metrics(run) == metrics(tmp_path / "whole")


def test_sigterm_from_outside_stops_with_143_and_a_command_that_goes_on(tmp_path):
    words = tiny("none", collector__total_frames=400)
    run = tmp_path / "run"
    process = start(run, words)
    wait_for_checkpoint_after(process, run, -1)
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    line = output.strip().splitlines()[-1]
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=one_thread(), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(tmp_path / "whole", words)
    assert sha256(run) == sha256(tmp_path / "whole")
    assert metrics(run) == metrics(tmp_path / "whole")


def test_mujoco_tasks_resume_without_a_word_about_their_state(runs, tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        resume(runs("none"), tmp_path / "again", 120, "none")
    assert not [w for w in seen if "MuJoCo" in str(w.message)]
