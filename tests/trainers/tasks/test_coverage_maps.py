"""Pictures of coverage."""

from __future__ import annotations

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from torchrl_recall.trainers.tasks.coverage_maps import draw_map, draw_maps

GOALS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
SUCCESSES = [torch.tensor([i >= 1, i >= 2, i >= 3, False]) for i in range(8)]


def test_a_map_shows_which_goals_were_reached():
    axes = Figure().subplots()
    draw_map(axes, GOALS, 12_345, torch.tensor([True, False, False, True]))
    assert axes.get_title() == "12,345: 50%"
    (points,) = axes.collections
    assert points.get_offsets().tolist() == GOALS.tolist()
    assert points.get_array().tolist() == [1.0, 0.0, 0.0, 1.0]  # red, blue, blue, red
    colours = points.to_rgba(points.get_array())
    assert colours[0][0] > colours[0][2]
    assert colours[1][0] < colours[1][2]


@pytest.mark.parametrize("dim", [1, 3])
def test_goals_of_other_dimensions_are_shown_by_their_first_two(dim):
    axes = Figure().subplots()
    goals = torch.arange(4.0 * dim).reshape(4, dim)
    draw_map(axes, goals, 0, torch.zeros(4, dtype=torch.bool))
    (points,) = axes.collections
    assert points.get_offsets().tolist() == [[g[0], g[min(1, dim - 1)]] for g in goals.tolist()]


def test_six_maps_and_a_film_of_all(tmp_path):
    draw_maps(GOALS, range(8), SUCCESSES, tmp_path)
    height, width = matplotlib.image.imread(tmp_path / "coverage.png").shape[:2]
    assert width / height == pytest.approx(6 * 2.6 / 2.9, rel=0.01)
    with Image.open(tmp_path / "coverage.gif") as film:
        assert film.n_frames >= 4  # equal pictures in a row may be one
        film.seek(0)


def test_nothing_is_drawn_without_an_evaluation(tmp_path):
    draw_maps(GOALS, [], [], tmp_path)
    assert list(tmp_path.iterdir()) == []
