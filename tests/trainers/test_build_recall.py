"""Recall, or the control that ``recall=`` names, from a configuration."""

from __future__ import annotations

import pytest
import torch
from on_policy_fixtures import parts as on_policy_parts
from recipe_fixtures import configure, tiny

from torchrl_recall import (
    AdvantageGate,
    ForwardDyna,
    ForwardModelImitation,
    HindsightGoal,
    LoopErasure,
    NoRecall,
    Recall,
    SelfImitation,
    WithinSupport,
)
from torchrl_recall.imitation_updates import AdamSteps, TrustRegionSteps
from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(recall: str = "imitation", *overrides: str):
    return sac_recall.build(configure([*tiny(recall), *overrides]), CPU)


@pytest.mark.parametrize(
    ("recall", "kind"),
    [("backtracking", Recall), ("imitation", Recall), ("paper", Recall), ("random_model", Recall),
     ("self_imitation", SelfImitation), ("none", NoRecall), ("forward_dyna", ForwardDyna)],
)  # fmt: skip
def test_each_variant_builds_its_class(recall, kind):
    assert type(build(recall).recall) is kind


def test_settings_reach_recall():
    recall = build(
        "imitation", "recall.lr=0.011", "recall.interval=13", "recall.num_updates=3",
        "recall.batch_size=17", "recall.anneal_frames=99", "recall.state_batch_size=77",
        "recall.trace_length=6", "recall.num_traces=2", "recall.num_high_value_states=9",
        "recall.temperature=2.5", "backtracking.batch_size=19",
        "backtracking.lr=0.012", "backtracking.num_updates=5", "backtracking.num_trajectories=4",
        "backtracking.buffer_size=1333", "backtracking.state_fraction=0.75",
        "backtracking.state_predictor_data=top", "backtracking.return_threshold=1.5",
    ).recall  # fmt: skip
    schedule, imitate, train_model = recall.schedule, recall.imitate, recall.train_model
    assert (schedule.interval, schedule.anneal_frames) == (13, 99)
    assert (imitate.num_updates, imitate.batch_size) == (3, 17)
    assert type(imitate.steps) is AdamSteps
    assert imitate.steps.optimizer.param_groups[0]["lr"] == 0.011
    assert recall.state_batch_size == train_model.state_batch_size == 77
    assert (recall.generate.trace_length, recall.generate.num_traces) == (6, 2)
    assert (recall.high_value_states.num_states, recall.high_value_states.temperature) == (9, 2.5)
    assert train_model.optimizer.param_groups[0]["lr"] == 0.012
    assert (train_model.num_updates, train_model.batch_size) == (5, 19)
    assert train_model.state_fraction == 0.75
    assert train_model.state_predictor_data == "top"
    assert recall.trajectories.write_every == 13
    assert recall.trajectories.filter.num_trajectories == 4
    assert recall.trajectories.filter.return_threshold == 1.5
    assert recall.trajectories.buffer.storage.max_size == 1333


def test_rounds_begin_after_the_random_frames():
    """60 of them: the first round is due at frame 70."""
    recall = build().recall
    recall.schedule.advance(69)
    assert not recall.schedule.due
    recall.schedule.advance(1)
    assert recall.schedule.due


def test_a_radius_reaches_recall():
    recall = build("self_imitation", "recall.max_kl=0.02").recall
    assert type(recall.imitate.steps) is TrustRegionSteps
    assert recall.imitate.steps.max_kl == 0.02


def test_recall_imitates_with_the_parameters_of_the_host():
    built = build()
    recall, loss = built.recall, built.host.loss_module
    hosts = {p.data_ptr() for p in loss.actor_network_params.parameters()}
    groups = recall.imitate.steps.optimizer.param_groups
    assert {p.data_ptr() for g in groups for p in g["params"]} == hosts
    assert all(p is not q for g in recall.train_model.optimizer.param_groups for p in g["params"]
               for q in loss.parameters())  # fmt: skip


@pytest.mark.parametrize(
    ("recall", "overrides", "kinds"),
    [
        ("imitation", [], [WithinSupport, LoopErasure, AdvantageGate]),
        ("imitation", ["recall.max_deviation=null"], [LoopErasure, AdvantageGate]),
        ("imitation", ["recall.loop_erasure=null"], [WithinSupport, AdvantageGate]),
        ("paper", [], []),
        ("self_imitation", [], [AdvantageGate]),  # the control shares the gate only
        ("self_imitation", ["recall.advantage_gate=false"], []),
    ],
)
def test_filters_in_order(recall, overrides, kinds):
    transforms = build(recall, *overrides).recall.imitate.transforms
    assert [type(each) for each in transforms] == kinds


def test_goals_come_before_filters(monkeypatch):
    from goal_fixtures import parts as goal_parts

    transforms = goal_parts(recall__max_deviation=3.0).recall.imitate.transforms
    assert [type(each) for each in transforms] == [HindsightGoal, WithinSupport, LoopErasure]


def test_erasure_is_in_standard_deviations_of_the_model():
    built = build()
    erase = built.recall.imitate.transforms[1]
    data = built.env.rollout(20)
    built.recall.model.update_statistics(data)
    assert torch.equal(erase.scale(), built.recall.model.observations.scale())


def test_the_forward_model_gets_its_own_settings():
    control = on_policy_parts(recall="forward_model", recall__num_high_value_states=5).recall
    assert type(control) is ForwardModelImitation
    assert control.ends.num_states == 5
    assert control.generate.trace_length == 5


def test_units_reach_all_models():
    recall = build("imitation", "recall.agreement=0.95", "backtracking.standardize=false").recall
    for model in (recall.model, recall.train_filters.train_forward.model):
        assert not model.observations.standardize
        assert not model.deltas.standardize


def test_members_of_a_forward_model_are_no_ensemble_that_learns_from_its_own_batches():
    words = ["backtracking.num_models=5", "backtracking.bootstrap=true"]
    with pytest.raises(ConfigError, match="bootstrap=true is of the members of a backtracking"):
        build("forward_dyna", *words)


def test_a_trajectory_must_fit_into_the_buffer():
    for recall in ("backtracking", "self_imitation"):
        with pytest.raises(ConfigError, match=r"buffer_size=100 is less than .* 1000 steps"):
            build(recall, "backtracking.buffer_size=100")
    assert type(build("none", "backtracking.buffer_size=100").recall) is NoRecall


def test_without_recall_no_random_number_is_drawn():
    """Whatever is built for recall, the host's first weights are those without it."""
    weights = []
    for recall in ("none", "backtracking"):
        torch.manual_seed(0)
        weights.append([p.detach().clone() for p in build(recall).host.actor.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
