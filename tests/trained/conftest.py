"""Tiny runs for all tests of what comes after training."""

from __future__ import annotations

import pytest
from trained_fixtures import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("trained"))
