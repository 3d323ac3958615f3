"""Pictures say methods in words, in the colours of their table."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from torchrl_recall.results.names import looks
from torchrl_recall.results.picture import draw_curves, draw_shares, save_figure

CURVE = [10, 20], np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def legend(figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.axison]


def test_curves_have_one_legend_in_words():
    methods = ["none+sac.n_step=3", "backtracking+sac.n_step=3"]
    figure = draw_curves(
        {(task, m): CURVE for task in ("point_free4", "Ant-v5") for m in methods},
        ylabel="return", host="sac",
    )  # fmt: skip
    assert legend(figure) == ["SAC alone", "recall traces to the critic"]
    assert titles(figure) == ["point mass, 4 dimensions", "Ant-v5"]
    line = figure.axes[0].lines[0]
    assert line.get_ydata().tolist() == [3.0, 4.0]
    assert line.get_color() == looks(methods)[methods[0]].color


def test_hosts_have_panels_of_their_own():
    keys = [("Ant-v5", m) for m in ("none", "ppo:none", "ppo:paper")]
    figure = draw_curves(dict.fromkeys(keys, CURVE), ylabel="return", host="trpo")
    assert titles(figure) == ["TRPO, Ant-v5", "PPO, Ant-v5"]
    assert legend(figure) == ["host alone", "recall as published"]


def test_seeds_are_lines_only_where_they_are_few():
    many = CURVE[0], np.ones((13, 2))
    few, crowd = (draw_curves({("a", "none"): c}, ylabel="y").axes[0].lines for c in (CURVE, many))
    assert (len(few), len(crowd)) == (4, 1)


@pytest.mark.parametrize("log", [False, True])
def test_shares_of_seeds_by_hand(log):
    """Two of three are there after 20 and 40 steps; one ended at 100 without the target."""
    figure = draw_shares({("15_uniform", "none"): ([40.0, 20.0, None], 100)}, host="a2c", log=log)
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 20, 40, 100]
    assert line.get_ydata().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])


def test_all_that_are_there_stay_there():
    figure = draw_shares({("a", "none"): ([10.0], 10), ("a", "paper"): ([None], 90)})
    assert figure.axes[0].lines[0].get_xdata()[-1] == 90


def test_a_file_keeps_the_colours_and_tells_its_command(tmp_path):
    methods = ["none", "backtracking", "self_imitation", "paper", "prioritized_replay"]
    figure = draw_curves({("a", m): CURVE for m in methods}, ylabel="y")
    save_figure(figure, tmp_path / "a.png", "Said below.", command="python it.py")
    image = Image.open(tmp_path / "a.png")
    assert image.text["Description"] == "python it.py"
    colors = {color for _, color in image.convert("RGB").getcolors(10_000)}
    assert (255, 255, 255) in colors
    for look in looks(methods).values():
        rgb = tuple(int(look.color[i : i + 2], 16) for i in (1, 3, 5))
        assert rgb in colors
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_panel_in_which_no_seed_gets_there_is_drawn():
    figure = draw_shares({("15_uniform", "none"): ([None] * 3, 640)}, log=True)
    assert figure.axes[0].get_xlim()[1] == 640
