"""The documentation site: ``make docs`` builds it, with warnings as errors."""

from __future__ import annotations

import os
import re
import sys
import warnings
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.deprecation import RemovedInSphinx10Warning

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
warnings.filterwarnings("ignore", category=RemovedInSphinx10Warning)  # of the extensions
warnings.filterwarnings("ignore", category=FutureWarning)  # of TorchRL, on the tutorials' pages
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tutorials run

project = "torchrl_recall"
author = copyright = "The torchrl_recall authors"
version = release = version_of("torchrl-recall")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_autodoc_typehints",
    "sphinx_gallery.gen_gallery",
    "recipe_configuration",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_ext", "_static", "drawings", "tutorials"]

# Pages stay readable on a plain repository viewer, so headings get the anchors that it gives them.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = False  # the pages of docs/api name each entry themselves
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
typehints_use_rtype = False
always_use_bars_union = True

# Names of other libraries are not looked up, so that a build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!torchrl_recall\b).*\..*"),
    ("py:.*", r".*\b_AcceptedKeys"),
    ("py:class", r".*\._\w+"),  # a private base
    ("py:class", r".*\.GymSimulator"),  # a base that is not part of the interface
    ("py:data", "Ellipsis"),
]

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "ignore_repr_types": r"matplotlib",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_signature": False,
}

html_theme = "furo"
html_title = "torchrl_recall"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _link_tutorials(source: list[str]) -> None:
    """Lead links to a tutorial's script, which a repository viewer shows, to its page."""
    pattern = r"\]\(((?:\.\./)*(?:docs/)?)tutorials/(\w+)\.py\)"
    source[0] = re.sub(pattern, r"](\1auto_tutorials/\2.rst)", source[0])


def setup(app: Sphinx) -> None:
    """Connect what the site changes."""
    app.connect("source-read", lambda app, page, source: _link_tutorials(source))
    app.connect("include-read", lambda app, path, page, source: _link_tutorials(source))
