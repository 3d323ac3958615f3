"""Public docstrings are complete and easy to read: arguments, results, errors, short sentences."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

API = Path(__file__).parents[2] / "docs" / "api"
_ENTRY = re.compile(r"^\.\. auto(?:class|function):: (\S+)\.(\w+)$", re.MULTILINE)
# A state is described by the method that returns it.
_RESTORES = ("load_state_dict", "set_extra_state")


def documented() -> Iterator[tuple[str, str, Callable]]:
    """Yield name, docstring and function of what the API reference shows."""
    pages = [page.read_text() for page in sorted(API.glob("*.rst"))]
    names = dict.fromkeys(entry for page in pages for entry in _ENTRY.findall(page))
    for home, name in names:
        entry = getattr(importlib.import_module(home), name)
        if not inspect.isclass(entry):
            yield name, inspect.getdoc(entry) or "", entry
            continue
        if "__init__" in vars(entry) and not getattr(entry, "_is_protocol", False):
            yield name, inspect.getdoc(entry) or "", entry.__init__
        for part, value in vars(entry).items():
            method = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
            if inspect.isfunction(method) and not part.startswith("_") and part not in _RESTORES:
                yield f"{name}.{part}", inspect.getdoc(method) or "", method


def section(doc: str, *titles: str) -> str:
    """Return the text of some sections of a docstring."""
    pattern = rf"^(?:{'|'.join(titles)}):\n((?:(?: +.*)?\n)+)"
    return "".join(re.findall(pattern, f"{doc}\n", re.MULTILINE))


def items(doc: str, *titles: str) -> set[str]:
    """Return the names that some sections of a docstring describe."""
    return set(re.findall(r"^ {4}(\w+): ", section(doc, *titles), re.MULTILINE))


def errors(function: Callable) -> set[str]:
    """Return the errors that a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # a dataclass's constructor has no source
        return set()
    raised = [n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is not None]
    called = [exc.func if isinstance(exc, ast.Call) else exc for exc in raised]
    return {exc.id for exc in called if isinstance(exc, ast.Name) and exc.id[0].isupper()}


def test_every_argument_is_described_and_no_other():
    wrong, count = {}, 0
    for name, doc, function in documented():
        parameters = inspect.signature(function).parameters.values()
        taken = {p.name for p in parameters if p.name not in ("self", "cls")}
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            taken -= {"args", "kwargs"}  # of the base's method, which describes them
        given = items(doc, "Args", "Keyword Args")
        missing = taken - given - items(doc, "Attributes")  # a dataclass has attributes
        if missing or given - taken:
            wrong[name] = missing | (given - taken)
        count += len(taken)
    assert not wrong
    assert count > 500


def test_every_result_is_described():
    wrong = [
        name
        for name, doc, function in documented()
        if inspect.signature(function).return_annotation not in (None, "None", inspect._empty)
        and not section(doc, "Returns", "Yields")
        and not doc.startswith(("Return ", "Name "))
    ]
    assert not wrong


def test_every_error_is_described():
    wrong = {}
    for name, doc, function in documented():
        described = section(doc, "Raises")
        if missing := {error for error in errors(function) if f"{error}: " not in described}:
            wrong[name] = missing
    assert not wrong


def test_no_sentence_is_over_thirty_words():
    long = {}
    for name, doc, _ in documented():
        text = re.split(r"^Examples?:$", doc, flags=re.MULTILINE)[0]
        text = re.sub(
            r"^\.\. math::.*?(?=^\S|\Z)|^=+ +=+\n.*?^=+ +=+$", "", text, flags=re.M | re.S
        )
        sentences = re.split(r"(?<=[.:?!])\s+|\n\n|\n- |::\n", text)
        if found := [s for s in sentences if len(s.split()) > 30]:
            long[name] = found
    assert not long
