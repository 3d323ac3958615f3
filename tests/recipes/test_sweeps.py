"""Sweeps by each launcher: every job runs, failures show in the status, signals save first."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from recipe_fixtures import command, one_thread, sha256, shell, summary, tiny, train

PREFIX = ["-m", "seed=0,1", "run_dir='runs/s${seed}'", "resume=auto"]
SMALL = tiny("none", collector__total_frames=70)
LONG = tiny("none", collector__total_frames=800, checkpoint__keep=2)
BY = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}


def sweep(cwd: Path, *words: str) -> subprocess.CompletedProcess:
    return shell(command(*PREFIX, *words), cwd)


def start(cwd: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*PREFIX, *words), cwd=cwd, env=one_thread(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, sweep: subprocess.Popen, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or sweep.poll() is not None:
            sweep.kill()
            raise AssertionError(sweep.communicate()[0])
        time.sleep(0.02)


def has_begun(cwd: Path, *names: str) -> bool:
    return all(any((cwd / "runs" / name / "checkpoints").glob("0*")) for name in names)


@pytest.mark.parametrize("name", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_a_sweep_with_a_job_that_fails_runs_the_other_and_goes_on(name, tmp_path):
    """One test for each launcher, since workers take some seconds to start."""
    blocked = tmp_path / "runs" / "s0"
    blocked.parent.mkdir()
    blocked.touch()  # a file, which is no folder to write into
    failed = sweep(tmp_path, *BY[name], *SMALL)
    assert failed.returncode == 1, failed.stderr
    assert "is not a folder to write into" in failed.stderr
    other = tmp_path / "runs" / "s1"
    assert summary(other)["seed"] == 1
    blocked.unlink()
    finished = (other / "summary.json").stat().st_mtime_ns
    done = sweep(tmp_path, *BY[name], *SMALL)
    assert done.returncode == 0, done.stderr
    assert (other / "summary.json").stat().st_mtime_ns == finished
    train(tmp_path / "alone", [*SMALL, "seed=0"])
    assert sha256(tmp_path / "runs" / "s0") == sha256(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".sweeps", "s0", "s1"]
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "runs"}
    # The line to go on is the job's own, in whatever process it was printed.
    logs = (tmp_path / "runs" / ".sweeps").rglob("*_log.out")
    printed = done.stdout + "".join(path.read_text() for path in logs)
    words = [shlex.split(line) for line in printed.splitlines() if line.startswith("to go on:")]
    (first, *_) = [line for line in words if "seed=0" in line]
    assert Path(first[4]).name == "sac_recall.py"
    assert "run_dir=runs/s0" in first
    assert not any("launcher" in word or word in ("-m", "seed=0,1") for word in first)


def task_of_submitit(cwd: Path) -> int:
    """The process of the first job's task, a child of submitit's controller."""
    controller = min(path.name for path in (cwd / "runs").glob(".sweeps/*/.submitit/[0-9]*"))
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", controller], capture_output=True)
    return int(listed.stdout.split()[0])


@pytest.mark.slow
def test_a_preempted_job_saves_is_requeued_and_ends_as_the_uninterrupted_one(tmp_path):
    """SLURM sends SIGCONT and SIGTERM with the signal of submitit."""
    began = start(tmp_path, *BY["submitit_local"], *LONG)
    wait_for(lambda: has_begun(tmp_path, "s0", "s1"), began)
    task = task_of_submitit(tmp_path)
    for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGUSR2):
        os.kill(task, number)
    output = began.communicate(timeout=200)[0]
    assert began.returncode == 0, output
    logs = [path.read_text() for path in (tmp_path / "runs" / ".sweeps").rglob("*_log.*")]
    (preempted,) = [log for log in logs if "stopped by SIGUSR2" in log]
    assert "resumed at" in preempted
    assert any("Bypassing signal SIGTERM" in log for log in logs)
    for seed in (0, 1):
        train(tmp_path / f"alone{seed}", [*LONG, f"seed={seed}"])
        assert sha256(tmp_path / "runs" / f"s{seed}") == sha256(tmp_path / f"alone{seed}")


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C", "SIGTERM to the command"])
def test_a_signal_to_a_joblib_sweep_saves_every_job(to_all, tmp_path):
    words = [*BY["joblib"], *LONG]
    began = start(tmp_path, *words, "seed=0,1,2")
    wait_for(lambda: has_begun(tmp_path, "s0", "s1"), began)
    if to_all:
        os.killpg(began.pid, signal.SIGINT)
    else:
        began.terminate()
    output = began.communicate(timeout=60)[0]
    assert began.returncode == (130 if to_all else 143), output
    name = "SIGINT" if to_all else "SIGTERM"
    assert output.count(f"stopped by {name}") == 2, output
    assert not (tmp_path / "runs" / "s2").exists()  # the third has not begun
    done = sweep(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed at") == 2
    train(tmp_path / "alone", [*LONG, "seed=1"])
    assert sha256(tmp_path / "runs" / "s1") == sha256(tmp_path / "alone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "run_dir=runs/x"], "run_dir does not name seed"),
        (["seed=0,1", "env.name=Hopper-v5,Ant-v5", "run_dir='runs/${seed}'"], "name env.name"),
        (["collector.total_frames=60,70"], "collector.total_frames is swept, but names no folder"),
        (["seed=0,1", "hydra/launcher=submitit_local"], "Add resume=auto"),
    ],
    ids=["one folder", "two in one", "no folder's name", "requeued"],
)
def test_a_sweep_whose_jobs_would_be_in_the_way_is_refused(words, message, tmp_path):
    done = shell(command("-m", *words), tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
