"""Code of pages runs, files that they name exist, and the first pages are easy to read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
# All pages but those of results.
PLAIN = sorted(p for folder in ("", "docs", "docs/pipelines") for p in (ROOT / folder).glob("*.md"))
PLAIN.remove(ROOT / "CHANGELOG.md")


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(tutorial, tmp_path):
    done = subprocess.run(
        [sys.executable, str(tutorial)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert not list(tmp_path.iterdir())  # what a tutorial writes is put into a folder of its own


def test_there_are_six_tutorials_in_order():
    assert [path.stem[:2] for path in TUTORIALS] == [f"{i}_" for i in range(1, 7)]


def test_files_that_contributing_names_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`([\w/.]+/[\w.]+\.(?:py|md|yaml|rst|yml))`", page))
    assert len(paths) > 15
    homes = (ROOT, ROOT / "torchrl_recall")
    assert not {path for path in paths if not any((home / path).exists() for home in homes)}


@pytest.mark.parametrize("page", PLAIN, ids=lambda path: path.stem)
def test_no_sentence_is_over_thirty_words(page):
    text = re.sub(r"```.*?```|<!--.*?-->|^\|.*?$|^#.*?$", "", page.read_text(), flags=re.S | re.M)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    sentences = re.split(r"(?<=[.:?!])\s+|\n\n|\n- |\n\d\. ", text)
    assert not [s for s in sentences if len(s.split()) > 30]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_links_and_pictures_of_a_repository_viewer_exist(page):
    """Sphinx checks the site's; a viewer follows the same links as they stand."""
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
