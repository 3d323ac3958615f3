"""Parts of a recipe: their state by name, frames into the buffer, and clipped actions."""

from __future__ import annotations

import pytest
import torch
from four_rooms_fixtures import parts as four_rooms_parts
from four_rooms_fixtures import tiny as four_rooms_tiny
from goal_fixtures import parts as goal_parts
from on_policy_fixtures import experience
from on_policy_fixtures import parts as on_policy_parts
from recipe_fixtures import configure, tiny
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.runs.parts import Evaluation


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(*overrides: str):
    return sac_recall.build(configure([*tiny(), *overrides]), torch.device("cpu"))


@pytest.mark.parametrize("frames_per_batch", [1, 3])
def test_frames_are_written_as_a_buffer_is_extended(frames_per_batch):
    built = build(
        "replay_buffer.size=16",
        "backtracking.batch_size=16",
        f"collector.frames_per_batch={frames_per_batch}",
    )
    theirs = ReplayBuffer(storage=LazyTensorStorage(16))
    for _ in range(20):  # round the end of the buffer
        data = built.collector.collect()
        built.add_frames(data)
        theirs.extend(data.reshape(-1))
    ours = built.replay_buffer
    assert len(ours) == len(theirs) == 16
    assert (ours[:] == theirs[:]).all()
    assert ours.writer._cursor == theirs.writer._cursor


def test_rows_of_several_environments_are_written_one_after_another():
    built = on_policy_parts()
    data = torch.stack([experience(built, 4), experience(built, 4)])
    built.add_frames(data)
    assert torch.equal(built.replay_buffer[:]["observation"], data["observation"].flatten(0, 1))


def test_recall_sees_the_actions_that_the_task_saw():
    built = on_policy_parts()
    data = experience(built)
    assert data["action"].abs().max() > 1
    seen = built.clip_actions(data)
    assert seen["action"].abs().max() == 1
    assert data["action"].abs().max() > 1
    inside = data["action"].abs() < 1
    assert torch.equal(seen["action"][inside], data["action"][inside])


def test_all_that_has_a_state_is_named():
    names = ["host", "recall", "replay_buffer", "evaluation"]
    assert list(build().stateful()) == names
    assert list(goal_parts().stateful()) == [*names, "curriculum"]


def test_weights_are_those_of_the_host_and_the_model():
    built = build()
    assert built.weights == [built.host.loss_module, built.recall.model]
    without = build("recall=none")
    assert without.weights == [without.host.loss_module]
    _, rooms = four_rooms_parts(*four_rooms_tiny("exact"))
    assert rooms.weights == [rooms.host.loss_module]  # as the recipe says


class Three(Evaluation):
    """Finds one, two, three, ..."""

    def evaluate(self):
        return torch.tensor([float(len(self.results) + 1)])


def test_an_evaluation_keeps_what_it_found():
    evaluation, other = Three(), Three()
    assert [evaluation(frames).tolist() for frames in (10, 20)] == [[1.0], [2.0]]
    assert (evaluation.frames, evaluation.reached_target) == ([10, 20], False)
    other.load_state_dict(evaluation.state_dict())
    evaluation(30)  # what was saved does not grow
    assert other.frames == [10, 20]
    assert [float(result) for result in other.results] == [1.0, 2.0]
    assert other(30).tolist() == [3.0]
