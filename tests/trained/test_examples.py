"""Examples that need a run, which doctests skip, run here against one."""

from __future__ import annotations

import doctest
import shutil

import pytest

import torchrl_recall
from torchrl_recall.trained.export import export_run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["load_policy", "load_backtracking_model", "from_pretrained"])
def test_example(name, runs, tmp_path, monkeypatch):
    run_dir, _ = runs("hopper")
    shutil.copytree(run_dir, tmp_path / "runs" / "hopper")
    export_run(run_dir, tmp_path / "hopper")
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder().find(getattr(torchrl_recall, name), name)
    skipped = [example.options.pop(doctest.SKIP, None) for example in test.examples]
    assert any(skipped)
    failed, tried = doctest.DocTestRunner().run(test)
    assert (failed, tried) == (0, len(test.examples))
