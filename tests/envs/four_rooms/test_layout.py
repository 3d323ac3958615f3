"""Walls, doors, starts and transitions of a four-room grid."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from torchrl_recall.envs import FourRoomsLayout
from torchrl_recall.envs.four_rooms.layout import step_limit


@pytest.mark.parametrize("size", [5, 7, 9, 11, 13, 15, 19])
def test_four_rooms_are_joined_by_four_doors(size):
    layout = FourRoomsLayout(size, start="uniform")
    room = size // 2 - 1
    assert len(layout.free) == 4 * room**2 + 4
    assert len(layout.starts) == len(layout.free) - 1
    middle = size // 2
    assert int((~layout.walls[middle]).sum()) == int((~layout.walls[:, middle]).sum()) == 2
    assert layout.distances()[layout.free].isfinite().all()


def test_opposite_starts_are_the_room_across():
    layout = FourRoomsLayout(11)
    rows, columns = layout.starts // 11, layout.starts % 11
    assert len(layout.starts) == 16
    assert int(rows.max()) == int(columns.max()) == 4
    other = FourRoomsLayout(11, goal=(1, 9))
    assert int((other.starts // 11).min()) == 6
    assert int((other.starts % 11).max()) == 4


def test_distances_are_those_of_a_breadth_first_search():
    layout = FourRoomsLayout(9, start="uniform")
    distance, frontier, steps = {layout.goal: 0}, [layout.goal], 0
    while frontier:
        steps += 1
        reached = []
        for cell in map(int, layout.free):
            if cell not in distance and set(layout.next_cell[cell].tolist()) & set(frontier):
                reached.append(cell)
        for cell in reached:
            distance[cell] = steps
        frontier = reached
    expected = torch.full((81,), float("inf"))
    for cell, number in distance.items():
        expected[cell] = number
    assert layout.distances().equal(expected)


def test_transitions_are_probabilities():
    for slip in (0.0, 0.3):
        source, action, following, probability = FourRoomsLayout(7, slip=slip).transitions()
        layout = FourRoomsLayout(7, slip=slip)
        total = torch.zeros(49 * 4, dtype=torch.float64).index_add(
            0, source * 4 + action, probability
        )
        expected = torch.zeros(49, 4, dtype=torch.float64)
        expected[layout.free[layout.free != layout.goal]] = 1
        torch.testing.assert_close(total.reshape(49, 4), expected)
        assert not (source == layout.goal).any()
        assert not layout.walls.flatten()[following].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 3}, "size must be an odd integer of at least 5"),
        ({"size": 12}, "size must be an odd integer"),
        ({"size": 11.0}, "size must be an odd integer"),
        ({"size": 11, "goal": (5, 5)}, "the goal is (5, 5), which is a wall"),
        ({"size": 11, "goal": (11, 0)}, "outside the grid"),
        ({"size": 11, "goal": (-1, 3)}, "outside the grid"),
        ({"size": 11, "start": (0, 0)}, "the start is (0, 0), which is a wall"),
        ({"size": 11, "start": (9, 9)}, "the start is the goal"),
        ({"size": 11, "start": "far"}, "start must be 'opposite', 'uniform' or a cell"),
        ({"size": 11, "goal": (5, 2)}, "needs a goal inside a room"),
        ({"size": 11, "slip": 1.0}, "slip must be in [0, 1)"),
        ({"size": 11, "slip": -0.1}, "slip must be in [0, 1)"),
        ({"size": 11, "slip": float("nan")}, "slip must be in [0, 1)"),
        # Both doors of the goal's room closed.
        (
            {"size": 11, "blocked": [(5, 8), (8, 5)]},
            "the goal (9, 9) cannot be reached from 16 of the 16 start cells",
        ),
        # The starts' room is open, another one is cut off.
        (
            {"size": 11, "start": "uniform", "blocked": [(2, 5), (5, 8)]},
            "cannot be reached from 16 of the",
        ),
    ],
)
def test_impossible_tasks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FourRoomsLayout(**arguments)


def test_the_step_limit_grows_with_the_grid():
    assert step_limit(11) == step_limit(11, None) == 110
    assert step_limit(11, 7) == 7
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        step_limit(11, 0)


@pytest.mark.parametrize("goal", [(), 0, 5, [], (1, 2, 3), (1.5, 2)])
def test_a_goal_that_is_no_pair_is_refused(goal):
    with pytest.raises(ValueError, match="the goal must be a pair"):
        FourRoomsLayout(11, goal=goal)


def test_goals_of_numpy_are_taken():
    assert FourRoomsLayout(11, goal=np.array([1, 2])).goal == FourRoomsLayout(11, goal=(1, 2)).goal
