"""The pipelines of docs/pipelines run as they stand, and do what their text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).parents[1] / "docs" / "pipelines"


def code_of(page: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    return block


def run(page: str) -> dict:
    names: dict = {"__name__": page}
    exec(compile(code_of(page), f"docs/pipelines/{page}.md", "exec"), names)
    return names


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_each_is_short(page):
    assert len(code_of(page).strip().splitlines()) < 60


@pytest.mark.filterwarnings("ignore")
def test_own_loop():
    metrics = run("own_loop")["metrics"]
    assert metrics["recall/ready"] == 1
    assert metrics["recall/loss_imitation"].isfinite()


@pytest.mark.filterwarnings("ignore")
def test_trainer():
    trainer = run("trainer")["trainer"]
    assert trainer.collected_frames == 1_000
    assert trainer._log_dict["recall/ready"][-1] == 1.0


@pytest.mark.filterwarnings("ignore")
def test_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("resume")
    run_, resumed, state = names["run"], names["resumed"], names["random_numbers"]
    torch.manual_seed(0)
    data = [run_.env.rollout(50) for _ in range(3)]
    learned = []
    for each in (run_, resumed):
        torch.set_rng_state(state)
        learned.append([each.learn(part.clone()) for part in data])
    assert any("recall/loss_imitation" in metrics for metrics in learned[0])
    assert learned[0] == learned[1]
    for before, after in zip(run_.loss.parameters(), resumed.loss.parameters(), strict=True):
        assert torch.equal(before, after)


def test_offline():
    names = run("offline")
    assert names["last"] < names["first"]
    assert 0 < len(names["written"]) <= names["traces"].numel()
    assert {"observation", "action"} <= set(names["written"][:].keys())


def test_own_model():
    names = run("own_model")
    assert min(names["near"]) > 0.3  # of a single Gaussian a seventh would lie near each side


def test_known_dynamics():
    names = run("known_dynamics")
    assert names["error"].abs().max() < 1e-5
    assert names["last"] < names["first"]
    assert torch.equal(names["traces"]["next", "observation"][:, -1], torch.zeros(500, 2))


@pytest.mark.filterwarnings("ignore")
def test_critic():
    names = run("critic")
    assert names["metrics"]["recall/ready"] == 1
    assert len(names["batch"]) == 128  # real rows and those of traces
    from torchrl.data import LazyTensorStorage, ReplayBufferEnsemble, TensorDictReplayBuffer

    # The other way that the page names.
    real, rows = names["replay_buffer"], names["recall"].fresh.rows
    keys = [key for key in rows.keys(True, True) if key in real[:].keys(True, True)]
    buffers = []
    for data in (real[:].select(*keys), rows.select(*keys)):
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), batch_size=32)
        buffer.extend(data)
        buffers.append(buffer)
    mixed = ReplayBufferEnsemble(*buffers, batch_size=64, sample_from_all=True).sample()
    assert names["loss"](mixed.reshape(-1).select(*keys))["loss_qvalue"].isfinite()


@pytest.mark.filterwarnings("ignore")
def test_workers():
    names: dict = {"__name__": "__main__"}
    exec(compile(code_of("workers"), "docs/pipelines/workers.md", "exec"), names)
    assert names["data"].shape == (2, 100)
    assert names["metrics"]["recall/ready"] == 1
