"""The API reference has every public name, and each entry has an example."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import torchrl_recall
import torchrl_recall.envs
import torchrl_recall.seeds

API = Path(__file__).parents[2] / "docs" / "api"
_ENTRY = re.compile(r"^\.\. auto(?:class|function):: (\S+)\.(\w+)$", re.MULTILINE)


def entries(*pages: str) -> list[tuple[str, str]]:
    """Return module and name of each entry of some pages."""
    return [entry for page in pages for entry in _ENTRY.findall((API / page).read_text())]


PAGES = sorted(path.name for path in API.glob("*.rst"))


@pytest.mark.parametrize(
    "module", [torchrl_recall, torchrl_recall.envs, torchrl_recall.seeds], ids=lambda m: m.__name__
)
def test_every_public_name_has_one_entry(module: ModuleType):
    documented = sorted(name for home, name in entries(*PAGES) if home == module.__name__)
    assert documented == sorted(module.__all__)


def test_every_page_is_in_the_table_of_contents():
    listed = (API / "index.md").read_text()
    for page in PAGES:
        assert f"\n{Path(page).stem}\n" in listed


# Protocols and bases are shown by the classes that have them.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "contracts.rst"])
def test_every_entry_has_an_example(page):
    found = entries(page)
    assert found
    without = []
    for home, name in found:
        doc = inspect.getdoc(getattr(importlib.import_module(home), name)) or ""
        if not re.search(r"^Examples?:\n(?:.*\n)*? +>>> ", doc, re.MULTILINE):
            without.append(name)
    assert not without
