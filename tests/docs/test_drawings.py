"""Drawings are what their source draws, and name what exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from torchrl import collectors

import torchrl_recall
from torchrl_recall.imitation_updates import ImitationUpdates
from torchrl_recall.model_updates import ModelUpdates

FOLDER = Path(__file__).parents[2] / "docs" / "drawings"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["algorithm_1", "reversed_environment", "forward_time"])
def test_the_file_is_what_its_source_draws(name):
    assert (FOLDER / f"{name}.svg").read_text() == load("diagrams").DRAWINGS[name]().svg()


def test_names_of_algorithm_1_exist():
    words = re.findall(r">([^<>]+)</text>", (FOLDER / "algorithm_1.svg").read_text())
    names = {name for line in words for name in re.findall(r"\b[A-Z]\w*[a-z][A-Z]\w*", line)}
    assert len(names) > 10
    known = {ModelUpdates.__name__, ImitationUpdates.__name__, *collectors.__all__, "TorchRL"}
    assert names <= known | set(torchrl_recall.__all__)


def test_the_oracle_is_drawn_of_what_it_computes():
    figure = load("pictures").oracle()
    numbers = [float(text.get_text()) for text in figure.axes[0].texts]
    assert numbers[-1] == 0  # the goal, where an episode is over
    assert max(numbers) == numbers[-2] > 0.5  # beside it
