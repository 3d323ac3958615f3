"""Every claim of the paper has a verdict that the rows beside it bear out."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from claims import ClaimError, render  # noqa: E402
from effects import KINDS, Effect  # noqa: E402

from torchrl_recall.results.rows import write_rows  # noqa: E402

RESULTS = ROOT / "docs" / "results"


def test_the_page_is_up_to_date():
    assert (RESULTS / "claims.md").read_text() == render(RESULTS), "run python benchmarks/claims.py"


def test_all_figures_from_2_to_19_have_a_claim():
    claims = OmegaConf.load(RESULTS / "claims.yaml").claims
    told = {int(n) for claim in claims for n in re.findall(r"\d+", claim.figure)
            if claim.figure[0].isdigit()}  # fmt: skip
    assert told == set(range(2, 20))


def test_every_command_and_page_is_there():
    for claim in OmegaConf.load(RESULTS / "claims.yaml").claims:
        assert (RESULTS / claim.page).exists()
        if claim.command:
            python, script, *words = claim.command.split()
            assert python == "python"
            assert (ROOT / script).exists()
            assert all("=" in word for word in words)


@pytest.fixture
def results(tmp_path) -> Path:
    """Two seeds of two methods, by hand."""
    values = {"none": (1.0, 2.0), "backtracking": (2.0, 8.0)}
    needed: dict[str, tuple[int | None, int]] = {"none": (40, 60), "backtracking": (10, 60)}
    ends = {"none": 80, "backtracking": 60}
    write_rows(
        tmp_path / "rows.csv",
        [
            row for method in values for seed in (0, 1)
            for row in (
                ("6", "A", method, seed, 10, "eval_return", values[method][seed]),
                ("6", "A", method, seed, ends[method], "frames_to_target", needed[method][seed]),
            )
        ],
    )  # fmt: skip
    return tmp_path


def claim(results: Path, verdict: str, *kinds: str, method="backtracking", baseline="none") -> str:
    common = {
        "file": "rows.csv",
        "figure": "6",
        "tasks": ["A"],
        "says": "seen",
        "metric": "eval_return",
    }
    effects = [{"kind": k, "method": method, "baseline": baseline, **common} for k in kinds]
    told = {"figure": "6", "claim": "It helps.", "seen": "", "scale": "", "command": "", "page": ""}
    data = {
        "introduction": "I",
        "notes": "N",
        "claims": [told | {"verdict": verdict, "effects": effects}],
    }
    OmegaConf.save(OmegaConf.create(data), results / "claims.yaml")
    return render(results)


def test_numbers_by_hand(results):
    """Fewer: 40 / 10 and 60 / 60. Means: 2 / 1 and 8 / 2."""
    page = claim(results, "partly", "means", "fewer", "reached", "values", "scores")
    assert "| seen | 2.83 [2.00, 4.00] × the mean over training" in page
    assert "| seen | 2.00 [1.00, 4.00] × fewer" in page
    assert "| seen | 2 of 2 against 2 of 2" in page
    assert "| seen | 5.00 [2.00, 8.00] against 1.50 [1.00, 2.00], P(larger) 0.88" in page
    assert "IQM of scores +0.50" in page  # 1/7 and 1 against 0 and 1/7
    assert "| 2 | 80 |" in page
    assert "0 reproduced, 1 partly" in page


def test_a_seed_that_failed_counts_as_its_end(results):
    text = (
        (results / "rows.csv").read_text().replace("80,frames_to_target,60", "80,frames_to_target,")
    )
    (results / "rows.csv").write_text(text)
    page = claim(results, "partly", "fewer", "reached")
    assert "| seen | 2.31 [1.33, 4.00] × fewer" in page  # sqrt(4 * 80 / 60)
    assert "| seen | 2 of 2 against 1 of 2" in page


def test_a_pair_counts_up_to_the_smaller_limit(results):
    text = (results / "rows.csv").read_text()
    text = text.replace("60,frames_to_target,60", "30,frames_to_target,")
    (results / "rows.csv").write_text(text)
    page = claim(results, "partly", "fewer", "means", "reached")
    assert "| seen | 2.00 [1.00, 4.00] × fewer" in page  # 40 / 10, and 30 / 30


@pytest.mark.parametrize(
    ("verdict", "kinds", "methods"),
    [
        ("reproduced", ["fewer"], ("backtracking", "none")),  # touches one
        ("reproduced", ["means"], ("none", "backtracking")),
        ("reproduced", ["reached"], ("backtracking", "none")),  # a count has no interval
        ("partly", ["means"], ("none", "backtracking")),
        ("opposite", ["means"], ("backtracking", "none")),
        ("not run", ["means"], ("backtracking", "none")),
        ("not seen", ["means"], ("backtracking", "none")),
        ("partly", ["means"], ("backtracking", "none")),  # all of it
        ("not seen", [], ("backtracking", "none")),
    ],
)
def test_a_verdict_that_the_rows_contradict_is_refused(verdict, kinds, methods, results):
    with pytest.raises(ClaimError, match=f"{verdict}.* needs .*Change it in docs/results/claims"):
        claim(results, verdict, *kinds, method=methods[0], baseline=methods[1])


def test_verdicts_that_the_rows_bear_out(results):
    assert "**reproduced**" in claim(results, "reproduced", "means")
    swapped = {"method": "none", "baseline": "backtracking"}
    assert "**opposite**" in claim(results, "opposite", "means", **swapped)
    assert "**not run**" in claim(results, "not run")


def test_missing_rows_and_unknown_verdicts_are_named(results):
    with pytest.raises(ClaimError, match=r"rows.csv has no rows of paper in A of figure 6"):
        claim(results, "not seen", "means", method="paper")
    with pytest.raises(ClaimError, match="verdict 'maybe' is none of reproduced, partly"):
        claim(results, "maybe", "means")


def test_another_row_makes_the_page_stale(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    path = tmp_path / "results/figure_6.csv"
    path.write_text(path.read_text() + "6,Hopper-v5,none,9,10240,eval_return,1.0\r\n")
    assert render(path.parent) != (RESULTS / "claims.md").read_text()


def test_a_fall_is_measured_from_the_peak_of_the_mean():
    curves = {0: (0.5, 0.8, 0.7), 1: (0.1, 1.0, 0.4)}  # means 0.3, 0.9 and 0.55
    rows = [
        {"task": "A", "method": "exact", "metric": "return", "seed": str(seed),
         "frames": str(10 * (i + 1)), "value": str(value)}
        for seed, curve in curves.items() for i, value in enumerate(curve)
    ]  # fmt: skip
    found = KINDS["falls"](Effect("falls", "", "18", ["A"], "exact", "none", metric="return"), rows)
    assert found.text.startswith("0.900 after 20 steps, and 0.350 [0.100, 0.600] less")
    assert found.side == 1
    rising = [row for row in rows if row["frames"] != "30"]
    effect = Effect("falls", "", "18", ["A"], "exact", "none", metric="return")
    assert KINDS["falls"](effect, rising).side == 0
