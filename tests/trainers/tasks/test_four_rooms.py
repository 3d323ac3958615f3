"""The four rooms of many seeds: collection, exact evaluation and what cannot be built."""

from __future__ import annotations

import copy

import pytest
import torch
from four_rooms_fixtures import configure, parts, tiny

from torchrl_recall.seeds import SeedStreams
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.four_rooms import make_four_rooms


def test_rollouts_go_on_where_they_stopped():
    _, built = parts(*tiny("none"))
    first, second = built.collector.collect(), built.collector.collect()
    assert first.shape == second.shape == (2, 4, 8)
    assert built.collector.frames == 2 * 32  # of each seed
    going = ~first["next", "done"][..., -1, 0]
    assert going.any()
    last, now = first["next", "observation"][..., -1], second["observation"][..., 0]
    assert torch.equal(last[going], now[going])


def test_a_collector_goes_on_bitwise():
    _, built = parts(*tiny("none"))
    _, other = parts(*tiny("none"))
    built.collector.collect()
    state = copy.deepcopy(built.collector.state_dict())
    other.host.load_state_dict(built.host.state_dict())
    assert other.collector.load_state_dict(state, built.collector.frames)
    ours, theirs = built.collector.collect(), other.collector.collect()
    assert (ours == theirs).all()
    assert built.collector.frames == other.collector.frames == 64


def evaluate(evaluation, *shares):
    """Pretend that the policy had these shares of the optimum, one row for each evaluation."""
    evaluation.frames = [100 * (i + 1) for i in range(len(shares))]
    evaluation.results = [torch.tensor(row) for row in shares]


def test_the_target_must_be_held_by_hand():
    _, built = parts(*tiny("none", eval__patience=2, eval__target=0.9))
    evaluation = built.evaluation
    evaluate(evaluation, [0.95, 0.1], [0.5, 0.9], [0.9, 0.95], [1.0, 0.2])
    assert evaluation.frames_to_target() == [300, 200]
    evaluate(evaluation, [0.95, 0.95])
    assert evaluation.frames_to_target() == [None, None]  # fewer evaluations than patience


@pytest.mark.parametrize(("stop", "reached"), [("true", True), ("false", False)])
def test_a_run_ends_when_all_seeds_are_there_if_asked(stop, reached):
    _, built = parts(*tiny("none", eval__patience=1, eval__stop_at_target=stop))
    evaluate(built.evaluation, [0.95, 0.1])
    assert not built.evaluation.reached_target
    evaluate(built.evaluation, [0.95, 0.1], [0.2, 1.0])
    assert built.evaluation.reached_target is reached


def test_returns_are_shares_of_the_optimum():
    _, built = parts(*tiny("none"))
    before = torch.get_rng_state()
    shares = built.evaluation(64).tolist()
    assert len(shares) == 2
    assert shares[0] == shares[1]  # both seeds begin with the uniform policy
    assert 0 < shares[0] < 0.9
    assert torch.equal(torch.get_rng_state(), before)
    assert built.evaluation.frames == [64]


def test_a_table_of_returns(tmp_path):
    _, built = parts(*tiny("none", eval__patience=1))
    evaluate(built.evaluation, [0.25, 0.5], [0.75, 1.0])
    assert built.evaluation.finish(tmp_path) == {"frames_to_target": [None, 200]}
    assert (tmp_path / "returns.csv").read_text().splitlines() == [
        "frames,seed,return", "100,3,0.25", "100,4,0.5", "200,3,0.75", "200,4,1.0",
    ]  # fmt: skip


def test_the_backward_policy_is_compared_once_a_seed_has_had_a_success():
    _, built = parts(*tiny("exact"))
    assert built.evaluation.metrics() == {}
    while not built.recall.trajectories.seen.any():
        built.recall.extend(built.collector.collect())
    assert built.evaluation.metrics()["backward_policy_kl"] > 0
    for method in ("none", "self_imitation"):
        assert parts(*tiny(method))[1].evaluation.metrics() == {}


def test_a_task_that_cannot_be_built_is_named():
    config = configure(["env.size=4"])
    with pytest.raises(ConfigError, match=r"env: .*4"):
        make_four_rooms(config, SeedStreams(config.seeds))
