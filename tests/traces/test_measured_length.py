"""Length of traces by how far a model finds its way back along real trajectories."""

from __future__ import annotations

import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Unbounded

from torchrl_recall import BacktrackingModel, MeasuredLength, RecallTraceGenerator
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError


class Growing(BacktrackingModel):
    """Walks back by the action, and adds a share of the state: an error that grows."""

    share = 0.0

    def sample_observation(self, action, next_observation):
        return (next_observation - action) * (1 + self.share)


def walk(num, begin=0.0):
    """s' = s + 1 in one dimension, from ``begin``."""
    states = torch.arange(num, dtype=torch.float32).unsqueeze(-1) + begin
    done = torch.zeros(num, 1, dtype=torch.bool)
    return TensorDict({"observation": states, "action": torch.ones(num, 1), "next": {"observation": states + 1, "done": done}}, [num])  # noqa: E501  # fmt: skip


def growing(share):
    model = Growing.from_specs(Unbounded((1,)), Bounded(-1, 1, (1,)))
    model.share = share
    return model


def test_length_and_errors_by_hand():
    """From s = 10: 9.9, 9.79, 9.669, ... where 9, 8, 7, ... had been, if a tenth is added."""
    model = growing(0.1)
    length = MeasuredLength(model, max_length=4, max_error=1.0, num_pieces=1)
    length.observe(walk(1, begin=9.0))  # one step: longer ones are not known
    torch.testing.assert_close(length.relative_errors[:1], torch.tensor([0.9]))
    assert length.relative_errors[1:].isnan().all()
    assert int(length) == 1

    length = MeasuredLength(model, max_length=4, max_error=0.91)
    length.observe(walk(9))
    length.sums.zero_()
    length.observe(walk(1, begin=9.0))
    landed = torch.tensor([9.9, 9.79, 9.669, 9.5359])
    expected = (landed - torch.tensor([9.0, 8.0, 7.0, 6.0])).abs() / torch.arange(1, 5)
    torch.testing.assert_close(length.relative_errors, expected)  # 0.9, 0.895, 0.890, 0.884
    assert int(length) == 4
    length.max_error = 0.89
    length._measure()
    assert int(length) == 1  # the first fails


def test_one_diverging_piece_is_forgotten():
    model = growing(0.0)
    length = MeasuredLength(model, max_length=8)
    for share in (1e30, torch.nan):
        model.share = share
        length.observe(walk(20, begin=1.0))
        assert int(length) == 1
        assert length.sums.isfinite().all()
    model.share = 0.0
    for _ in range(30):
        length.observe(walk(20))
    assert int(length) == 8


def test_one_piece_does_not_outweigh_the_others():
    """A state far away, of which the model knows nothing, is one of thirteen ends."""
    model = growing(0.0)
    data = walk(20)
    data["observation"][10] += 1e12
    data["next", "observation"][9] += 1e12
    length = MeasuredLength(model, max_length=1)
    length.observe(data)
    assert length.relative_errors[0] <= 2


def test_pieces_lie_in_the_newest_write_if_it_is_long_enough():
    model = growing(0.0)
    length = MeasuredLength(model, max_length=4)
    length.observe(walk(10))
    seen = []
    model.sample_observation = lambda action, state: seen.append(state) or state - action
    length.observe(walk(6, begin=10.0))
    assert min(state.min() for state in seen) >= 11  # where the first step of the write led


def test_it_ends_before_the_first_length_that_fails():
    length = MeasuredLength(growing(0.0), max_length=6)
    length.sums[0] = torch.tensor([0.1, 0.2, 9.0, 0.2, 0.2, 0.2])
    length.sums[1] = torch.ones(6)
    length._measure()
    assert int(length) == 2
    length.sums[0, 0] = torch.nan
    length._measure()
    assert int(length) == 1


def test_a_good_model_is_trusted_as_far_as_pieces_go():
    length = MeasuredLength(growing(0.0), max_length=8)
    data = walk(12)
    data["next", "done"][4] = True  # pieces lie within the first five and the last seven
    length.observe(data)
    assert length.sums[1].gt(0).sum() == 7
    assert int(length) == 7
    cut = walk(12)
    cut["observation"][6:] += 5  # a stream that was cut without a flag
    cut["next", "observation"][6:] += 5
    length = MeasuredLength(growing(0.0), max_length=8)
    length.observe(cut)
    assert int(length) == 6


def test_pieces_reach_into_the_write_before():
    length = MeasuredLength(growing(0.0), max_length=8)
    for part in walk(12).split(3):
        length.observe(part)
    assert int(length) == 8
    rows = torch.stack([walk(12), walk(12, begin=50.0)])
    length = MeasuredLength(growing(0.0), max_length=8)
    for part in rows.split(2, dim=1):
        length.observe(part)
    assert int(length) == 8
    length.observe(walk(3, begin=12.0))  # another number of rows: nothing is joined
    assert int(length) == 8


def test_padding_is_not_measured():
    data = walk(10).unsqueeze(0)
    mask = torch.arange(10).unsqueeze(0) < 4
    data["next", "observation"][:, 4:] = torch.inf
    data["observation"][:, 4:] = torch.nan
    data["collector", "mask"] = mask
    length = MeasuredLength(growing(0.0), max_length=8)
    length.observe(data)
    assert length.sums.isfinite().all()
    assert int(length) == 4


def test_newer_pieces_count_more():
    model = growing(0.0)
    length = MeasuredLength(model, max_length=3, max_error=0.5)
    length.observe(walk(20))
    assert int(length) == 3
    model.share = 1.0
    lengths = []
    for _ in range(30):
        length.observe(walk(20))
        lengths.append(int(length))
    assert lengths[-1] == 1
    model.share = 0.0
    for _ in range(60):
        length.observe(walk(20))
    assert int(length) == 3


def test_categories_have_no_displacement_but_being_others():
    model = BacktrackingModel.from_specs(Categorical(4), Categorical(2), num_cells=[])
    states = torch.arange(41) % 4
    data = TensorDict({"observation": states[:-1], "action": states[:-1] % 2, "next": {"observation": states[1:], "done": torch.zeros(40, 1, dtype=torch.bool)}}, [40])  # noqa: E501  # fmt: skip
    torch.manual_seed(0)
    length = MeasuredLength(model, max_length=5, max_error=0.5)
    length.observe(data)
    assert int(length) == 1
    assert length.relative_errors[0] == pytest.approx(0.75, abs=0.2)  # one of four by chance
    assert length.sums[1, 3] == 0  # four steps lead back to the same state


def test_state_is_restored():
    torch.manual_seed(0)
    length, other = (MeasuredLength(growing(0.02), max_length=8) for _ in range(2))
    length.observe(walk(20))
    other.load_state_dict(length.state_dict())
    assert int(other) == int(length) > 1
    for each in (length, other):
        each.observe(walk(3, begin=20.0))
    assert torch.equal(length.sums, other.sums)
    fresh = MeasuredLength(growing(0.02), max_length=8)
    fresh.load_state_dict(MeasuredLength(growing(0.02), max_length=8).state_dict())
    assert int(fresh) == 1


def test_generators_follow_it():
    model = growing(0.0)
    model.update_statistics(walk(20))
    length = MeasuredLength(model, max_length=5)
    generate = RecallTraceGenerator(model, trace_length=length)
    ends = TensorDict({"observation": torch.zeros(2, 1)}, [2])
    assert generate(ends).shape == generate.rollout(ends).shape == (2, 1)
    length.observe(walk(20))
    assert generate(ends).shape == generate.rollout(ends).shape == (2, 5)


def test_bad_input_is_named():
    model = growing(0.0)
    for words in ({"max_length": 0}, {"num_pieces": 0}, {"max_error": 0.0}):
        with pytest.raises(ValueError, match=next(iter(words))):
            MeasuredLength(model, **words)
    with pytest.raises(KeyError, match="done_key="):
        MeasuredLength(model).observe(walk(3).exclude(("next", "done")))
    length = MeasuredLength(model)
    length.observe(walk(3)[:0])  # nothing, which says nothing
    assert length.relative_errors.isnan().all()
    with pytest.raises(ValueError, match="at most 10,000"):
        RecallTraceGenerator(model, trace_length=MeasuredLength(model, max_length=10_001))


def test_recall_shows_it_data_and_saves_it():
    words = tiny("imitation", env__name="Pendulum-v1", recall__trace_length="auto")
    recall, other = (sac_recall.build(configure(words), torch.device("cpu")).recall for _ in "ab")
    data = sac_recall.build(configure(words), torch.device("cpu")).env.rollout(30, break_when_any_done=False)  # noqa: E501  # fmt: skip
    recall.extend(data)
    assert recall.measured_length.sums[1].sum() > 0
    other.load_state_dict(recall.state_dict())
    assert torch.equal(other.measured_length.sums, recall.measured_length.sums)
    with pytest.raises(ValueError, match="another model"):
        recall.measured_length.watch(recall.trajectories, growing(0.0))
    with pytest.raises(ValueError, match="take TopTrajectories"):
        recall.measured_length.watch(object(), recall.model)


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


@pytest.mark.usefixtures("_here")
def test_runs_log_it_and_go_on_bitwise(tmp_path):
    words = tiny(
        "imitation", env__name="Pendulum-v1", env__trace_length=5, collector__total_frames=480,
        backtracking__buffer_size=1_000, eval__interval=240, checkpoint__interval=240,
        recall__trace_length="auto", recall__max_landing_error=1.5,
    )  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    lengths = [float(row["recall/trace_length"] or 0) for row in metrics(whole)]
    assert 1 < lengths[-1] <= 5
    stopped_copy(whole, again, 240)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["recall=forward_dyna", "recall.reward=learned"], "give a number"),
        (["recall.max_landing_error=0"], "max_landing_error"),
        (["backtracking.num_updates=0"], "leaves untrained"),
    ],
)
def test_what_does_not_fit_is_refused(words, cure):
    with pytest.raises(ConfigError, match=cure):
        sac_recall.build(configure([*tiny("imitation"), "recall.trace_length=auto", *words]), torch.device("cpu"))  # noqa: E501  # fmt: skip
