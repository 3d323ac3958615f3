"""The site is built with warnings as errors, and its tables say what the recipes read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def configuration():
    """The module that makes the reference of the configuration."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import recipe_configuration

        yield recipe_configuration
    finally:
        sys.path.remove(str(ROOT / "docs" / "_ext"))


def test_no_warning_and_no_broken_link(tmp_path):
    """Build all pages; ``make docs`` runs the tutorials too."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("auto_*"))
    for page in ROOT.glob("*.md"):
        shutil.copy(page, tmp_path)
    words = ["-W", "--keep-going", "-q", "-D", "plot_gallery=0", "docs", "site"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    start = (tmp_path / "site" / "index.html").read_text()
    assert "auto_tutorials/1_recall_in_ten_minutes.html" in start
    configuration = (tmp_path / "site" / "configuration.html").read_text()
    assert configuration.count(">torch_threads<") == 7  # keys without a group have a table too
    assert "_downloads" not in start  # links of the README lead to pages of the site


def test_every_recipe_has_its_table(configuration):
    scripts = {path.stem for path in (ROOT / "recipes").glob("*_recall.py")}
    assert set(configuration.RECIPES) == scripts
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"```{{recipe-configuration}} {recipe}\n" in page for recipe in scripts)


@pytest.mark.parametrize("recipe", ["sac_recall", "goal_gan_recall"])
def test_rows_are_the_keys_that_are_read(configuration, recipe):
    rows = {key.name: key for key in configuration.keys(recipe)}
    from hydra import compose, initialize_config_dir

    folder = str(configuration.CONFIG / configuration.RECIPES[recipe][0])
    with initialize_config_dir(config_dir=folder, version_base="1.3"):
        composed = compose(recipe)
    for name, key in rows.items():
        node = OmegaConf.create(f"it: {key.default}") if key.default != "" else None
        raw = OmegaConf.to_container(composed, resolve=False)
        for part in name.split("."):
            raw = raw[part]
        assert node is not None
        assert OmegaConf.to_container(node, resolve=False)["it"] == raw, name


def test_a_row_says_type_range_and_source(configuration):
    rows = {key.name: key for key in configuration.keys("sac_recall")}
    lr = rows["backtracking.lr"]
    assert (lr.type, lr.range, lr.default) == ("float", "> 0", "0.001")
    assert lr.comment == "beta; not given in the paper"
    assert rows["crossq.adam_beta1"].range == "≥ 0, < 1"
    assert rows["recall.max_kl"].type == "float or null"
    assert "`crossq`" in rows["host"].range
    # A comment of the recipe's own group of recall wins over that of the file below it.
    assert rows["recall.interval"].comment == "frames between rounds"
