"""The process of a run: device, random numbers, versions, the lock of its folder, signals."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from recipe_fixtures import process_state_kept

from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.schema import ConfigError


def test_devices_by_name():
    assert process.resolve_device("cpu") == torch.device("cpu")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert process.resolve_device("auto").type == kind


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named():
    with pytest.raises(ConfigError, match=r"device=cuda, .*use device=cpu or auto"):
        process.resolve_device("cuda")


def test_random_numbers_go_on():
    torch.rand(3)
    state = process.rng_state_dict()
    expected = torch.rand(5)
    torch.manual_seed(99)
    process.set_rng_state_dict(state)
    assert torch.equal(torch.rand(5), expected)


def test_versions_that_decide_the_bits():
    found = process.versions()
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torchrl-recall", "torchrl", "tensordict", "gymnasium", "mujoco"} < set(found)


def test_a_hash_by_hand():
    state = {"b": torch.tensor([1.0]), "a": torch.tensor([2], dtype=torch.int16), "n": "no tensor"}
    by_hand = hashlib.sha256(b"a" + b"\x02\x00" + b"b" + b"\x00\x00\x80\x3f").hexdigest()
    assert process.weights_sha256(state) == by_hand


def test_one_bit_changes_the_hash():
    weight = torch.rand(4)
    first = process.weights_sha256({"w": weight})
    weight.view(torch.int32)[2] ^= 1
    assert process.weights_sha256({"w": weight}) != first
    assert process.weights_sha256({"w": weight}, {}) == process.weights_sha256({"w": weight})


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    words = (
        "import sys, pathlib; from torchrl_recall.trainers.runs import process\n"
        "with process.lock(pathlib.Path(sys.argv[1])): print('held')"
    )

    def another() -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", words, str(tmp_path / "run")], capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip

    with process.lock(tmp_path / "run"):
        refused = another()
        assert refused.returncode == 1
        assert "another run is writing into" in refused.stderr
    assert another().stdout == "held\n"


def test_a_folder_is_let_go_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), process.lock(tmp_path / "run"):
        raise ZeroDivisionError
    with process.lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(ConfigError, match=r"run_dir=.* is not a folder to write into"),
        process.lock(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_handlers_come_back(number):
    with process_state_kept():
        before = signal.getsignal(number)
        memory = process.StopSignal()
        assert memory.received is None
        os.kill(os.getpid(), number)
        assert memory.received is number
        memory.restore()
        assert signal.getsignal(number) is before


def test_a_second_signal_does_not_break_what_ends_a_run():
    with process_state_kept():
        memory = process.StopSignal()
        memory.at_once = True
        with pytest.raises(process.StopNow):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert memory.received is signal.SIGTERM
        memory.restore()
