"""End states of many seeds: of successes, or of the highest value among visited states."""

from __future__ import annotations

import torch
from seeds_fixtures import random_walks, successes_of

from torchrl_recall.envs import FourRoomsLayout
from torchrl_recall.seeds.end_states import SuccessStates, VisitedStates

GOAL = FourRoomsLayout(5).goal


def test_successes_end_at_the_goal():
    successes = successes_of([0, 1])
    assert successes.seen.all()
    states = SuccessStates(successes)
    assert states.num_states == 2
    assert states(None)["observation"].tolist() == [GOAL, GOAL]


def test_a_seed_without_a_success_gets_a_state_that_it_has_visited():
    successes = successes_of([0, 1], steps=0)
    data = random_walks([0, 1], steps=4)
    data["next", "terminated"][1] = False  # nothing of the second seed is a success
    data["next", "terminated"][0, 0, -1], data["next", "reward"][0, 0, -1] = True, 1.0
    successes.extend(data)
    assert successes.seen.tolist() == [True, False]
    first, second = SuccessStates(successes)()["observation"].tolist()
    assert first in data["next", "observation"][0].flatten().tolist()
    assert second == int(data["next", "observation"][1].min())


def test_the_highest_value_among_visited_states_by_hand():
    successes = successes_of([0, 1], steps=0)
    successes.visited[0, [6, 7, 8]] = True
    successes.visited[1, [6, 16]] = True
    values = torch.zeros(2, 25)
    values[:, 18] = 9.0  # never visited
    values[0, 7], values[1, 16] = 1.0, -1.0
    states = VisitedStates(lambda: values, successes)
    assert states(None)["observation"].tolist() == [7, 6]
    values[0, 8] = 2.0  # values are asked for each time
    assert states(None)["observation"].tolist() == [8, 6]


def test_a_seed_alone_gets_what_it_gets_in_company():
    together, alone = SuccessStates(successes_of([3, 4, 5])), SuccessStates(successes_of([4]))
    for _ in range(5):
        assert together()["observation"][1] == alone()["observation"][0]


def test_visited_states_draw_no_number():
    successes = successes_of([0, 1])
    before = successes.streams.state_dict()["generators"].clone()
    VisitedStates(lambda: torch.rand(2, 25), successes)()
    assert torch.equal(successes.streams.state_dict()["generators"], before)


def test_nan_is_never_the_highest_value():
    successes = successes_of([0, 1], steps=0)
    successes.visited[:, [6, 7]] = True
    values = torch.zeros(2, 25)
    values[:, 6] = torch.nan
    assert VisitedStates(lambda: values, successes)()["observation"].tolist() == [7, 7]
