"""Actions whose predecessor a learned state predictor is sure of, and was visited."""

from __future__ import annotations

import math

import pytest
import torch
from seeds_fixtures import successes_of
from tensordict import TensorDict
from torch import nn

from torchrl_recall import RecallTraceGenerator
from torchrl_recall.envs import FourRoomsLayout, four_rooms_model
from torchrl_recall.envs.four_rooms.exact_model import DisplacementPredictor
from torchrl_recall.envs.four_rooms.known_actions import KnownActions
from torchrl_recall.seeds import StackedMLP

CELLS = 25


class Behind(nn.Module):
    """Says that an action came from the cell before by number, with a probability for each."""

    def __init__(self, probability: list[float]) -> None:
        super().__init__()
        self.probability = torch.tensor(probability)

    def forward(self, action, cell):
        logits = torch.zeros(*action.shape, CELLS)
        p = self.probability[action]
        logits[..., CELLS - 1] = (p / (1 - p) * (CELLS - 1)).log()  # displacement -1
        return logits


def build(probability, min_probability=0.5, num_seeds=1):
    successes = successes_of(list(range(num_seeds)), steps=0)
    predictor = DisplacementPredictor(Behind(probability), CELLS)
    return KnownActions(predictor, successes, min_probability), successes


def test_known_actions_by_hand():
    known, successes = build([0.9, 0.6, 0.4, 0.1])
    successes.visited[0, [6, 7]] = True
    assert not known.possible.any()  # until it is asked
    known.update()
    expected = torch.zeros(1, CELLS, 4, dtype=torch.bool)
    expected[0, [7, 8], :2] = True  # their predecessors, 6 and 7, were visited
    assert torch.equal(known.possible, expected)


@pytest.mark.parametrize(("least", "actions"), [(0.3, 3), (0.5, 2), (0.8, 1), (0.95, 0)])
def test_the_least_probability_decides(least, actions):
    known, successes = build([0.9, 0.6, 0.4, 0.2], least)
    successes.visited.fill_(True)
    known.update()
    assert known.possible.sum(-1).unique().tolist() == [actions]


def test_each_seed_knows_what_it_has_visited():
    known, successes = build([0.9] * 4, num_seeds=2)
    successes.visited[0, 6] = successes.visited[1, 11] = True
    known.update()
    assert known.possible.all(-1).nonzero().tolist() == [[0, 7], [1, 12]]


def test_the_table_is_changed_in_place():
    """A model keeps the table that it was given."""
    known, successes = build([0.9] * 4)
    table = known.possible
    successes.visited.fill_(True)
    known.update()
    assert table is known.possible
    assert table.all()


def test_a_generator_asks_first():
    """Traces take the only action that is known where there is one."""
    layout, successes = FourRoomsLayout(5), successes_of([0], steps=0)
    predictor = DisplacementPredictor(Behind([0.2, 0.9, 0.2, 0.2]), CELLS)
    known = KnownActions(predictor, successes, 0.5)
    backward_policy = StackedMLP(1, [CELLS], 8, 4)
    model = four_rooms_model(layout, backward_policy, predictor, possible=known.possible)
    generate = known.before(RecallTraceGenerator(model, trace_length=1, num_traces=200))
    ends = TensorDict({"observation": torch.tensor([8])}, [1])
    assert len(generate(ends)["action"].unique()) == 4  # nothing is known yet
    successes.visited.fill_(True)
    assert generate(ends)["action"].unique().tolist() == [1]
    assert math.isclose(
        float((generate(ends)["observation"] == 7).float().mean()), 0.9, abs_tol=0.1
    )
