"""Conversion of pydantic's errors to one sentence for each key."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from torchrl_recall.trainers.schema.suggestions import closest

__all__ = ["faults_of"]

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
}
_LIMITS = {
    "greater_than": ("gt", {0: "positive"}, "above"),
    "greater_than_equal": ("ge", {0: "zero or more"}, "at least"),
    "less_than": ("lt", {}, "below"),
    "less_than_equal": ("le", {}, "at most"),
}


_EXPECTS = re.compile(r"(?P<key>\S+) must be (?P<expected>.*)(?P<got>[,;] got .*)")


def faults_of(error: ValidationError, values: Any, schema: type[BaseModel]) -> dict[str, str]:
    """Describe each fault by its key, the given value and the expected one.

    Args:
        error: error of ``schema`` for ``values``.
        values: the values, in plain containers.
        schema: class of the configuration, whose keys are suggested for unknown ones.

    Returns:
        A sentence for each key. For a condition between values, the key is the sentence itself.
    """
    faults: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "faults":
            faults |= {sentence: sentence for sentence in detail["ctx"]["sentences"]}
        else:
            key = _key(detail, values)
            sentence = _sentence(key, detail, schema)
            is_word = detail["type"] == "literal_error" and isinstance(detail["input"], str)
            if key not in faults:
                faults[key] = sentence
            elif is_word:  # a union, such as a number or auto
                faults[key] = _joined(faults[key], sentence)
    return faults


def _joined(earlier: str, later: str) -> str:
    """Join what two branches of a union expect, as in "must be an integer or one of auto"."""
    parts = [_EXPECTS.fullmatch(sentence) for sentence in (earlier, later)]
    if not (parts[0] and parts[1]) or parts[1]["expected"] in parts[0]["expected"].split(" or "):
        return earlier
    return (
        f"{parts[0]['key']} must be {parts[0]['expected']} or {parts[1]['expected']}"
        f"{parts[1]['got']}"
    )


def _key(detail: ErrorDetails, values: Any) -> str:
    """Return the dotted key, without pydantic's branches of unions and places in lists."""
    names, node = [], values
    for part in detail["loc"]:
        if isinstance(node, list) and isinstance(part, int):
            node = node[part]
        elif isinstance(node, dict) and (part in node or detail["type"] == "missing"):
            names.append(str(part))
            node = node.get(part)
    return ".".join(names)


def _sentence(key: str, detail: ErrorDetails, schema: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    subject = key or "the configuration"
    if kind == "missing":
        return f"configuration key {key!r}: a value is missing."
    if kind == "extra_forbidden":
        known = closest(key, schema, is_group=isinstance(value, dict))
        advice = f"; did you mean {' or '.join(known)}?" if known else "."
        return f"configuration key {key!r}: unknown{advice}"
    if kind == "blank":
        return f"{subject} is empty."
    if kind == "literal_error":
        choices = ", ".join(re.findall(r"'([^']*)'", context["expected"]))
        several = ", " in choices
        expected = f"one of {choices};" if several else f"{choices},"
        return f"{subject} must be {expected} got {_shown(value)}."
    if kind in _LIMITS:
        limit, words, else_words = _LIMITS[kind]
        bound = context[limit]
        expected = words.get(bound, f"{else_words} {bound:,.12g}")
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    else:
        return f"{subject}: {detail['msg']}, got {_shown(value)}."
    return f"{subject} must be {expected}, got {_shown(value)}."


def _shown(value: Any) -> str:
    """Return the value as YAML writes it, with quotes around text."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)
