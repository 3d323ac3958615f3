"""Show a type checker the options of recall, which are spelled out and not ``**kwargs``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).resolve().parent.parent
RIGHT = """
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded, ReplayBuffer, Unbounded
from torchrl.modules import ProbabilisticActor, TanhNormal

from torchrl_recall import BacktrackingModel, ImitationLoss, Recall, RewardStates, SelfImitation

net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
actor = ProbabilisticActor(
    TensorDictModule(net, ["observation"], ["loc", "scale"]),
    in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
)
loss = ImitationLoss(actor)
model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
recall = Recall(model, loss, RewardStates(4), trace_length=3, max_kl=0.01)
control = SelfImitation(loss, num_updates=3, lr=1e-3)
buffer = ReplayBuffer(batch_size=8)
print(recall.step(buffer), control.step())
"""
MISTAKES = {
    "a_typo_in_recall": ("trace_length=3", "trace_lenght=3", r'"trace_lenght" for "Recall"'),
    "a_typo_in_a_control": ("num_updates=3", "num_update=3", r'"num_update" for "SelfImitation"'),
    "a_wrong_type": ("max_kl=0.01", "max_kl='small'", r'"max_kl" to "Recall" has incompatible'),
    "no_such_option": ("lr=1e-3", "trace_length=9", r'"trace_length" for "SelfImitation"'),
    "a_missing_argument": ("recall.step(buffer)", "recall.step()", r'"replay_buffer" in call to'),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, list[str]]:
    """Errors of each file, from one run of mypy over all of them."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    for name, (word, mistake, _) in MISTAKES.items():
        assert RIGHT.count(word) == 1
        (folder / f"{name}.py").write_text(RIGHT.replace(word, mistake))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports", "."],
        cwd=folder, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    errors: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if ": error: " in line:
            errors.setdefault(line.split(".py:")[0], []).append(line)
    return errors


@pytest.mark.slow
def test_the_right_file_passes(told):
    assert told.get("right", []) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused(told, name):
    (error,) = told[name]
    assert re.search(MISTAKES[name][2], error)
