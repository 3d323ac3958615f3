"""Recall of many seeds in the four rooms: where traces end, when rounds are due, who takes part."""

from __future__ import annotations

import pytest
import torch
from experience import steps
from four_rooms_fixtures import experience, parts, tiny

from torchrl_recall import ConfidentSteps, LoopErasure, NoRecall, Recall, SelfImitation
from torchrl_recall.seeds.draws import SeededDraws
from torchrl_recall.trainers.hosts.prioritized_replay import PrioritizedReplay
from torchrl_recall.trainers.schema import ConfigError


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("none", NoRecall), ("exact", Recall), ("backtracking", Recall), ("paper", Recall),
        ("random_model", Recall), ("self_imitation", SelfImitation),
        ("prioritized_replay", PrioritizedReplay), ("per_table_3", PrioritizedReplay),
    ],
)  # fmt: skip
def test_each_method_builds_its_class(method, kind):
    assert type(parts(*tiny(method))[1].recall) is kind


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("exact", [LoopErasure]), ("backtracking", [LoopErasure, ConfidentSteps]), ("paper", []),
        ("self_imitation", [LoopErasure]),
    ],
)  # fmt: skip
def test_filters_in_order(method, kinds):
    transforms = parts(*tiny(method))[1].recall.imitate.transforms
    assert [type(each) for each in transforms] == kinds


def test_settings_reach_recall():
    _, built = parts(
        *tiny("backtracking"), "recall.lr=0.011", "recall.interval=3", "recall.num_updates=5",
        "recall.anneal_frames=99", "backtracking.lr=0.012", "backtracking.state_lr=0.013",
        "backtracking.num_updates=7", "backtracking.state_batch_size=17",
    )  # fmt: skip
    recall = built.recall
    assert (recall.schedule.interval, recall.schedule.anneal_frames) == (3 * 4 * 8, 99)
    assert recall.imitate.steps.optimizer.param_groups[0]["lr"] == 0.011
    assert recall.imitate.num_updates == 5
    assert [g["lr"] for g in recall.train_model.optimizer.param_groups] == [0.012, 0.013]
    assert (recall.train_model.num_updates, recall.train_model.batch_size) == (7, 16)
    assert recall.train_model.all_batch_size == 17
    assert recall.trajectories.num_pairs == 8
    sources = (recall, recall.train_model, recall.imitate, recall.imitate.steps)
    assert type(recall.draws) is SeededDraws
    assert all(each.draws is recall.draws for each in sources)


def test_exact_dynamics_have_no_state_predictor_to_train():
    for method, learns in (("exact", False), ("backtracking", True)):
        recall = parts(*tiny(method))[1].recall
        assert recall.train_model.learns_dynamics is learns
        assert len(recall.train_model.optimizer.param_groups) == 1 + learns


def test_recall_imitates_with_the_parameters_of_the_host():
    _, built = parts(*tiny("exact"))
    hosts = {p.data_ptr() for p in built.host.parameters}
    groups = built.recall.imitate.steps.optimizer.param_groups
    imitated = {p.data_ptr() for g in groups for p in g["params"]}
    assert imitated < hosts  # all but those of the critic's head
    assert len(hosts - imitated) == 2


@pytest.mark.parametrize("method", ["exact", "self_imitation"])
def test_a_round_trains_the_model_and_imitates_only_when_it_is_due(method):
    _, built = parts(*tiny(method, recall__interval=3, recall__num_updates=5))
    recall, found = built.recall, []
    while not recall.trajectories.seen.all():
        recall.trajectories.extend(built.collector.collect())  # without counting frames
    for _ in range(7):
        recall.extend(built.collector.collect())
        recall.step(built.replay_buffer)
        model = steps(recall.train_model.optimizer) if method == "exact" else None
        found.append((steps(recall.imitate.steps.optimizer), model))
    rounds = [0, 0, 1, 1, 1, 2, 2]
    assert [imitated for imitated, _ in found] == [5 * n for n in rounds]
    if method == "exact":
        assert [model for _, model in found] == [2 * n for n in rounds]


def test_without_the_gate_everything_is_imitated():
    words = ["recall=exact", "recall.high_value_states=value", "env.start=opposite", "env.size=15"]
    for gate, changes in ((True, False), (False, True)):
        _, built = parts(*words, f"recall.gate={gate}")
        data = experience(built, 16)
        assert not data["next", "reward"].any()
        built.recall.extend(data)
        before = built.host.policy_table()
        built.recall.step(built.replay_buffer)
        assert torch.equal(built.host.policy_table(), before) is not changes


@pytest.mark.parametrize("method", ["exact", "self_imitation"])
def test_rewarded_end_states_need_a_success_so_that_the_gate_stays(method):
    with pytest.raises(ConfigError, match=r"recall\.gate=false .*high_value_states=value"):
        parts(f"recall={method}", "recall.gate=false")


@pytest.mark.parametrize("mode", ["rewarded", "value"])
def test_where_traces_end(mode):
    _, built = parts(
        "recall=exact", f"recall.high_value_states={mode}", "env.size=5", "seeds=[0,1]"
    )
    recall, a2c = built.recall, built.host
    for _ in range(3):
        data = experience(built, 100)
        recall.extend(data)
        a2c.update(data)
    assert recall.trajectories.seen.all()
    traces = recall.generate(recall.high_value_states(None))
    ends = traces["next", "observation"][:, -1].reshape(2, -1)
    if mode == "rewarded":
        assert (ends == built.env.layout.goal).all()
    else:
        value = a2c.value_table().masked_fill(~recall.trajectories.visited, -torch.inf)
        assert torch.equal(ends, value.argmax(1, keepdim=True).expand_as(ends))


def test_annealing_ends_imitation():
    _, built = parts("recall=exact", "env.size=5", "recall.anneal_frames=3200")
    recall, a2c = built.recall, built.host
    for share in (0.75, 0.5, 0.25, 0.0, 0.0):  # 4 environments, 200 steps
        recall.extend(experience(built, 200))
        before = a2c.policy_table()
        recall.step(built.replay_buffer)
        assert torch.equal(a2c.policy_table(), before) is (share == 0.0)
        if share:
            lr = recall.imitate.steps.optimizer.param_groups[0]["lr"]
            assert lr == pytest.approx(share * 6e-3)


def test_confident_traces_take_only_what_the_model_knows():
    _, built = parts(*tiny("backtracking", backtracking__num_updates=200, recall__interval=20))
    recall = built.recall
    for _ in range(20):
        data = built.collector.collect()
        observed = data.select("observation", "action", ("next", "observation"))
        built.replay_buffer.extend(observed.flatten(1).transpose(0, 1))
        recall.extend(data)
    told = recall.step(built.replay_buffer)
    assert 0 < told["recall/kept"] < 1
    traces = recall.generate(recall.high_value_states(None))
    (confident,) = [t for t in recall.imitate.transforms if isinstance(t, ConfidentSteps)]
    kept = confident(traces.clone())
    possible = built.env.layout.transitions()
    real = set(zip(*[x.tolist() for x in possible[:3]], strict=True))
    steps_of = (kept[key][kept["mask"]].tolist() for key in ("observation", "action"))
    found = list(zip(*steps_of, kept["next", "observation"][kept["mask"]].tolist(), strict=True))
    assert len(found) > 20
    assert sum(step in real for step in found) / len(found) > 0.9
