"""The page of all results is what the rows and commands beside it say."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from table import render  # noqa: E402

from torchrl_recall.results.rows import write_rows  # noqa: E402

RESULTS = ROOT / "docs" / "results"


def test_the_page_is_up_to_date():
    page = (RESULTS / "table.md").read_text()
    assert page == render(RESULTS), "run python benchmarks/table.py"


def test_another_row_makes_it_stale(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    path = tmp_path / "docs/results/figure_7.csv"
    with path.open("a", newline="") as file:
        file.write("7,Hopper-v5,cloning,0,30000,eval_return,100.0\r\n")
    page = render(path.parent)
    assert "| 1 | 30,000 | 100 [100, 100] |  |  | `cloning` |" in page
    assert "| `cloning` |" not in (RESULTS / "table.md").read_text()


@pytest.fixture
def results(tmp_path) -> Path:
    folder = tmp_path / "docs/results"
    folder.mkdir(parents=True)
    write_rows(
        folder / "mine.csv",
        [
            ("6", "A", "none", 0, 10, "eval_return", 1.0),
            ("6", "A", "none", 0, 20, "eval_return", 5.0),
            ("6", "A", "none", 1, 10, "eval_return", 3.0),
            ("6", "A", "ppo:none+x=1", 0, 10, "eval_return", 7.0),
            ("13", "B", "none+host=hindsight_sac", 0, 90, "frames_to_target", 40),
            ("13", "B", "none+host=hindsight_sac", 1, 90, "frames_to_target", None),
            ("13", "B", "none+host=hindsight_sac", 2, 90, "frames_to_target", 60),
            ("13", "B", "none+host=hindsight_sac", 2, 90, "distinct_cells", 3),
        ],
    )
    (folder / "page.md").write_text(
        "```bash\npython benchmarks/figures/figure_6.py out=runs/figure_6 \\\n    seeds=2\n"
        "python benchmarks/figures/figure_6.py out=runs/tuning methods=[none]\n"
        "python benchmarks/figures/figure_6.py figure=other methods=[none]\n```\n"
    )
    return folder


def test_rows_by_hand(results):
    """Two seeds share 10 steps; of three to the target one is missing."""
    page = render(results)
    assert "| A | TRPO alone | 2 | 10 | 2.00 [1.00, 3.00] |  |  | `none` |" in page
    assert "| A | PPO alone, x 1 | 1 | 10 | 7.00 [7.00, 7.00] |  |  | `ppo:none+x=1` |" in page
    line = "| 3 | 90 |  | 2 of 3 | 60 [40, inf] | `none+host=hindsight_sac` |"
    assert f"| B | SAC with hindsight replay {line}" in page


def test_a_colon_of_a_setting_is_no_host(results):
    method = "forward_dyna+recall.reward=torchrl_recall.envs.sparse_tasks:goal_rule"
    write_rows(results / "c.csv", [("6", "C", method, 0, 10, "eval_return", 1.0)])
    page = render(results)
    assert "| C | TRPO with forward Dyna, told the goal | 1 |" in page
    assert f"| `{method}` |" in page


def test_rows_of_an_unknown_figure_are_refused_with_the_cure(results):
    write_rows(results / "b.csv", [("mystery", "A", "none", 0, 10, "eval_return", 1.0)])
    with pytest.raises(ValueError, match="show the command that made its rows"):
        render(results)


def test_a_figure_has_the_commands_that_made_it(results):
    page = render(results)
    assert "```bash\npython benchmarks/figures/figure_6.py out=runs/figure_6 seeds=2\n```" in page
    assert "tuning" not in page
    assert "it is one of `benchmarks/figures/figure_13.py`" in page
