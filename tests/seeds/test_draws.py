"""Random batches of many seeds: a seed alone draws what it draws in company."""

from __future__ import annotations

import copy

import pytest
import torch
from seeds_fixtures import random_walks, successes_of
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall.seeds.draws import SeededDraws

KEYS = ["observation", "action", ("next", "observation")]


def build(seeds, *, gate: bool = True, **kwargs):
    successes = successes_of(seeds, **kwargs)
    return SeededDraws(successes.streams, successes, gate=gate), successes


def buffer_of(seeds) -> ReplayBuffer:
    buffer = ReplayBuffer(storage=LazyTensorStorage(500))
    buffer.extend(random_walks(seeds).select(*KEYS).flatten(1).transpose(0, 1))
    return buffer


def traces_of(num_seeds: int, num_traces: int = 2, length: int = 3) -> TensorDict:
    """Traces whose observations count up within each seed, from one hundred times its place."""
    number = torch.arange(num_traces * length).reshape(num_traces, length)
    observation = torch.cat([100 * seed + number for seed in range(num_seeds)])
    return TensorDict({"observation": observation}, observation.shape)


@pytest.mark.parametrize("source", ["successes", "buffer", "traces"])
def test_a_seed_alone_draws_what_it_draws_in_company(source):
    together, alone = build([3, 4, 5]), build([4])
    assert together[1].seen.all()
    if source == "traces":
        data = traces_of(3)
        data["mask"] = data["observation"] % 2 == 0
        pairs = together[0].pairs(data, 4, 6, ["observation"])
        own = alone[0].pairs(data[2:4], 4, 6, ["observation"])
    else:
        both = (
            (together[1], alone[1])
            if source == "successes"
            else (buffer_of([3, 4, 5]), buffer_of([4]))
        )
        pairs = together[0].batches(both[0], 4, 6, KEYS)
        own = alone[0].batches(both[1], 4, 6, KEYS)
    for many, one in zip(pairs, own, strict=True):
        assert many.shape == (3, 6)
        assert one.shape == (1, 6)
        assert (many[1] == one[0]).all()


def test_successes_weigh_one_and_seeds_without_any_weigh_nothing():
    draws, successes = build([3, 4])
    assert successes.seen.all()
    successes.count[0] = 0
    (batch,) = draws.batches(successes, 1, 5, KEYS)
    assert batch["weight"].tolist() == [[0.0] * 5, [1.0] * 5]
    assert list(batch["next"].keys()) == ["observation"]


def test_all_experience_has_no_weight_and_comes_from_its_seed():
    draws, _ = build([3, 4])
    buffer = ReplayBuffer(storage=LazyTensorStorage(500))
    rows = torch.stack([torch.arange(50), 100 + torch.arange(50)], 1)
    buffer.extend(TensorDict({"observation": rows}, [50, 2]))
    (batch,) = draws.batches(buffer, 1, 2_000, ["observation"])
    assert batch.get("weight", None) is None
    assert sorted(batch["observation"][0].unique().tolist()) == list(range(50))
    assert sorted(batch["observation"][1].unique().tolist()) == list(range(100, 150))


def test_pairs_are_only_those_that_the_mask_leaves():
    draws, _ = build([3, 4])
    traces = traces_of(2)
    traces["mask"] = torch.zeros(4, 3, dtype=torch.bool)
    traces["mask"][0, 1] = traces["mask"][1, 2] = traces["mask"][2, 0] = True
    (batch,) = draws.pairs(traces, 1, 400, ["observation"])
    assert batch["observation"][0].unique().tolist() == [1, 5]
    assert batch["observation"][1].unique().tolist() == [100]
    assert float((batch["observation"][0] == 1).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert (batch["weight"] == 1).all()


def test_without_a_mask_all_pairs_are_drawn():
    draws, _ = build([3, 4])
    (batch,) = draws.pairs(traces_of(2), 1, 400, ["observation"])
    assert batch["observation"][1].unique().tolist() == list(range(100, 106))


@pytest.mark.parametrize(("gate", "weights"), [(True, [0.0, 0.0, 1.0]), (False, [0.0, 1.0, 1.0])])
def test_who_takes_part(gate, weights):
    """The first seed has no pairs left, the second has had no success."""
    draws, successes = build([3, 4, 5], gate=gate)
    successes.count[1] = 0
    traces = traces_of(3)
    traces["mask"] = torch.ones(6, 3, dtype=torch.bool)
    traces["mask"][:2] = False
    (batch,) = draws.pairs(traces, 1, 4, ["observation"])
    assert batch["weight"].tolist() == [[weight] * 4 for weight in weights]


def test_the_total_by_hand():
    """The sum of each seed's mean: (1 + 3) / 2 + (10 + 0) / 2."""
    draws, _ = build([3, 4])
    loss = torch.tensor([[1.0, 3.0], [10.0, 0.0]])
    assert float(draws.total(loss)) == 7
    assert float(draws.total(loss, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))) == 2


def test_there_are_no_candidates_and_no_number_is_drawn_for_them():
    draws, _ = build([3])
    before = draws.state_dict()["generators"].clone()
    assert draws.candidates(None, 5) is None
    assert torch.equal(draws.state_dict()["generators"], before)


def test_a_restored_source_draws_the_same_numbers():
    draws, other = build([3, 4])[0], build([5, 6])[0]
    other.load_state_dict(copy.deepcopy(draws.state_dict()))
    assert torch.equal(draws.streams.rand((2, 9)), other.streams.rand((2, 9)))
