"""Times of the parts of a run."""

from __future__ import annotations

import time

import pytest
import torch
from recipe_fixtures import configure, tiny

from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.runs.profile import Profile


class Saving:
    """Something that saves, as a run does."""

    def save(self) -> str:
        time.sleep(0.01)
        return "saved"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(recall: str = "backtracking"):
    built = sac_recall.build(configure(tiny(recall)), torch.device("cpu"))
    run = Saving()
    return built, run, Profile(run, built)


def rows(profile: Profile) -> dict[str, list[str]]:
    """Columns of each row of the table by its name."""
    lines = profile.table().splitlines()[1:]
    return {line[:16].strip(): line[16:].split() for line in lines}


def test_without_a_step_there_is_nothing_to_show():
    assert build()[2].table() == "no step was taken, so there is nothing to show"


def test_times_by_hand():
    """Ten passes of two frames; each saves for ten milliseconds and rests for five."""
    _, run, profile = build("none")
    for _ in range(10):
        assert run.save() == "saved"
        time.sleep(0.005)
        profile.end_pass(2)
    found = rows(profile)
    assert set(found) == {"checkpoint", "rest", "together"}
    calls, per_call, per_frame, share = found["checkpoint"]
    assert calls == "10"
    assert float(per_call) == pytest.approx(10, rel=0.5)
    assert float(per_frame) == pytest.approx(float(per_call) / 2, rel=0.01)
    assert float(share.rstrip("%")) == pytest.approx(67, abs=15)
    assert float(found["rest"][1]) == pytest.approx(5, rel=0.9)
    assert found["together"][0] == "20"
    assert found["together"][-1] == "100%"


def test_parts_do_what_they_did_and_are_counted():
    built, _, profile = build()
    for _ in range(3):
        data = built.collector.collect()
        assert data.shape == (1,)
        built.add_frames(data)
        built.recall.extend(data)
        profile.end_pass(1)
    built.recall.trajectories.flush()
    found = rows(profile)
    assert (found["collect"][0], found["write"][0], found["recall: write"][0]) == ("3", "3", "1")
    assert "update" not in found  # it was not called
    assert len(built.replay_buffer) == 3


def test_a_part_with_a_clock_still_has_its_state():
    built, _, _ = build()
    state = built.recall.state_dict()
    assert set(state["train_model"]) == {"optimizer"}
    built.recall.load_state_dict(state)
    assert built.recall.train_model.num_updates == 2
