"""Filters that ask how sure models are: a forward model, and the members of an ensemble."""

from __future__ import annotations

import copy

import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, LazyTensorStorage, ReplayBuffer, Unbounded

from torchrl_recall import Agreement, BacktrackingModel, Disagreement
from torchrl_recall.filter_updates import FilterUpdates
from torchrl_recall.forward_updates import ForwardUpdates
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError

SPECS = Unbounded((2,)), Bounded(-1, 1, (2,))


def steps(num=400, seed=0):
    """s' = s + a / 2 within [-1, 1]."""
    torch.manual_seed(seed)
    states, actions = torch.rand(num, 2) * 2 - 1, torch.rand(num, 2) * 2 - 1
    following = (states + actions / 2).clamp(-1, 1)
    return TensorDict({"observation": states, "action": actions, "next": {"observation": following}}, [num])  # noqa: E501  # fmt: skip


def trained_forward(data, updates=400):
    torch.manual_seed(0)
    model = BacktrackingModel.from_specs(*SPECS, num_cells=[32, 32])
    train = ForwardUpdates(model, num_updates=updates, batch_size=64, lr=3e-3)
    train.update_statistics(data)
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)))
    buffer.extend(data)
    train(buffer)
    return model


@pytest.fixture(scope="module")
def forward_model():
    return trained_forward(steps(2000))


def test_real_steps_are_kept_as_often_as_the_quantile_says(forward_model):
    agreement = Agreement(forward_model, quantile=0.9, window=2000)
    agreement.observe(steps(2000, seed=1))
    kept = agreement(steps(2000, seed=2).unsqueeze(1))["mask"].float().mean()
    assert kept.item() == pytest.approx(0.9, abs=0.03)


def test_steps_that_cannot_be_are_cut_and_all_before_them(forward_model):
    agreement = Agreement(forward_model, quantile=0.95)
    agreement.observe(steps(1000, seed=1))
    traces = steps(40, seed=3).reshape(10, 4)
    agreement.errors.fill_(agreement.error(traces).max())  # all of these are kept
    assert agreement(traces.clone())["mask"].all()
    traces["next", "observation"][:, 2] += 1.5  # no action leads there
    mask = agreement(traces)["mask"]
    assert not mask[:, :3].any()
    assert mask[:, 3].all()


def test_a_mask_that_is_there_is_narrowed(forward_model):
    agreement = Agreement(forward_model, quantile=1.0)
    agreement.observe(steps(100, seed=1))
    agreement.errors.fill_(1e9)
    traces = steps(8, seed=3).reshape(2, 4)
    traces["mask"] = torch.tensor([[True, False, True, True]] * 2)
    assert torch.equal(agreement(traces.clone())["mask"], traces["mask"])


def test_errors_are_those_of_the_newest(forward_model):
    agreement = Agreement(forward_model, quantile=0.5, window=100)
    agreement.observe(steps(150, seed=1))
    newest = steps(150, seed=1)[-100:]
    expected = agreement.error(newest).detach().sort().values
    torch.testing.assert_close(agreement.errors.sort().values, expected)
    agreement.observe(newest[:30])
    assert int(agreement.count) == 130
    torch.testing.assert_close(agreement.threshold, agreement.errors.median(), rtol=0.05, atol=0.05)


def test_each_stream_gives_its_newest(forward_model):
    """Show four streams to a window of eight: it takes the last two steps of each."""
    data = steps(40, seed=1).reshape(4, 10)
    agreement = Agreement(forward_model, window=8)
    agreement.observe(data)
    expected = agreement.error(data[:, -2:].reshape(-1)).detach()
    torch.testing.assert_close(agreement.errors, expected)


def test_padding_reaches_neither_errors_nor_statistics():
    data = steps(20).reshape(2, 10)
    mask = torch.arange(10).expand(2, 10) < torch.tensor([[10], [4]])
    padded = data.clone()
    for key in ("observation", "action", ("next", "observation")):
        padded[key] = padded[key] * mask.unsqueeze(-1)
    padded["collector", "mask"] = mask
    models = [BacktrackingModel.from_specs(*SPECS) for _ in range(2)]
    for model, seen in zip(models, (padded, data[mask]), strict=True):
        ForwardUpdates(model).update_statistics(seen)
    found, expected = (model.observations for model in models)
    assert found.count == expected.count == 14
    torch.testing.assert_close(found.mean, expected.mean)
    agreement = Agreement(models[0])
    agreement.observe(padded)
    assert int(agreement.count) == 14


def test_disagreement_by_hand():
    """Two members that say +1 and -1 of both dimensions part by a standard deviation of sqrt 2."""
    model = BacktrackingModel.from_specs(*SPECS, num_models=2, num_cells=[])
    model.update_statistics(steps(100))
    with torch.no_grad():
        for layer in model.state_predictor.module[0].module.layers:
            layer.weight.zero_()
            layer.bias.zero_()
            layer.bias[0, :, :2], layer.bias[1, :, :2] = 1.0, -1.0
    error = Disagreement(model).error(steps(5))
    torch.testing.assert_close(error, torch.full((5,), 2**0.5))
    for codec in (model.observations, model.actions, model.deltas):
        codec.standardize = False  # they then say +1 and -1 in units of the environment
    parted = (2**0.5 / model.deltas.scale()).square().mean().sqrt()
    torch.testing.assert_close(Disagreement(model).error(steps(5)), parted.expand(5))


def test_members_part_where_nothing_was_seen():
    torch.manual_seed(0)
    data = steps(1000)
    model = BacktrackingModel.from_specs(*SPECS, num_models=4, num_cells=[32, 32])
    train = ForwardUpdates(model, num_updates=300, batch_size=64, lr=3e-3)
    train.update_statistics(data)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000))
    buffer.extend(data)
    train(buffer)
    disagreement = Disagreement(model, quantile=0.95)
    backwards = train._reverse(steps(500, seed=4).unsqueeze(0))[0]
    disagreement.observe(backwards)
    far = backwards.clone()
    far["next", "observation"] += 5.0
    assert disagreement(backwards.unsqueeze(1))["mask"].float().mean() > 0.9
    assert disagreement(far.unsqueeze(1))["mask"].float().mean() < 0.1


def test_members_of_categories_part_by_information():
    states = torch.arange(40) % 4
    data = TensorDict({"observation": states, "action": states % 2, "next": {"observation": states}}, [40])  # noqa: E501  # fmt: skip
    model = BacktrackingModel.from_specs(Categorical(4), Categorical(2), num_models=2, num_cells=[])
    with torch.no_grad():
        for layer in model.state_predictor.module[0].module.layers:
            layer.weight.zero_()
            layer.bias.zero_()
            layer.bias[0, :, 0], layer.bias[1, :, 1] = 50.0, 50.0  # each is sure of another
    error = Disagreement(model).error(data)
    torch.testing.assert_close(error, torch.full((40,), 2.0).log(), atol=1e-4, rtol=0)


def test_bad_input_is_named(forward_model):
    with pytest.raises(ValueError, match="num_models=5"):
        Disagreement(forward_model)
    for quantile in (0.0, 1.5):
        with pytest.raises(ValueError, match="quantile must be in"):
            Agreement(forward_model, quantile=quantile)
    with pytest.raises(ValueError, match="window"):
        Agreement(forward_model, window=0)
    with pytest.raises(RuntimeError, match=r"Call observe\(data\)"):
        Agreement(forward_model)(steps(4).unsqueeze(1))
    with pytest.raises(ValueError, match=r"\[num_traces, trace_length\]"):
        Agreement(forward_model)(steps(4))
    with pytest.raises(TypeError, match="got NoneType"):
        Agreement(None)
    with pytest.raises(ValueError, match="given the model that generates them"):
        FilterUpdates([Agreement(forward_model)], forward_model)


def test_nothing_is_learned_from_nothing_and_nan_judges_nothing(forward_model):
    agreement = Agreement(forward_model)
    agreement.observe(steps(4)[:0])
    agreement.observe(steps(4).reshape(2, 2)[:, :0])
    assert not agreement.count
    data = steps(4)
    data["next", "observation"].fill_(torch.nan)
    agreement.observe(data)
    with pytest.raises(RuntimeError, match="are all NaN, so it cannot judge"):
        agreement(steps(4).unsqueeze(1))
    agreement.observe(steps(4))  # one error that is a number is enough
    assert agreement(steps(4).unsqueeze(1))["mask"].any()


# In recall and in the recipe


ENSEMBLE = {"backtracking__num_models": 3, "recall__disagreement": 0.5}
ALL = ENSEMBLE | {"recall__agreement": 0.9, "backtracking__bootstrap": "true"}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


@pytest.mark.parametrize("recall", ["backtracking", "imitation"])
def test_runs_are_cut_and_go_on_bitwise(recall, tmp_path):
    words = tiny(
        recall, env__name="Pendulum-v1", env__trace_length=5, collector__total_frames=480,
        backtracking__buffer_size=1_000, eval__interval=240, checkpoint__interval=240, **ALL,
    )  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    last = metrics(whole)[-1]
    assert "forward_model/loss_state_predictor" in last
    kept = "recall/kept" if recall == "imitation" else "recall/kept_transitions"
    assert float(last[kept]) < (1 if recall == "backtracking" else 0.2)
    stopped_copy(whole, again, 240)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


def test_a_step_is_judged_before_models_learn_from_it():
    words = tiny("backtracking", env__name="Pendulum-v1", recall__agreement=0.9)
    parts = sac_recall.build(configure(words), torch.device("cpu"))
    recall, (judge,) = parts.recall, parts.recall.train_filters.judges
    data = parts.env.rollout(30, break_when_any_done=False)
    before = copy.deepcopy(recall.train_filters.train_forward.model)
    recall.extend(data)
    assert int(judge.count) == 30
    untrained = Agreement(before)
    ForwardUpdates(before).update_statistics(data)
    expected = untrained.error(data).detach()
    torch.testing.assert_close(judge.errors[:30], expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["recall.disagreement=0.9"], "backtracking.num_models=5"),
        (["recall.agreement=1.5"], "recall.agreement"),
        (["recall=self_imitation", "recall.agreement=0.9"], "leave them out"),
        (["recall=self_imitation", "backtracking.joint=true"], "leave it out"),
        (["recall=self_imitation", "backtracking.num_models=5"], "does not have; leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(words, cure):
    with pytest.raises(ConfigError, match=cure):
        sac_recall.build(configure([*tiny("backtracking"), *words]), torch.device("cpu"))


def test_forward_updates_take_any_batch_and_name_their_arguments():
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
    row = {"observation": torch.zeros(3), "action": torch.zeros(2)}
    row["next"] = {"observation": torch.ones(3)}
    ForwardUpdates(model).update_statistics(TensorDict(row, []))
    model.check_statistics()
    for name, value in (("lr", 0.0), ("num_updates", -1), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            ForwardUpdates(model, **{name: value})
