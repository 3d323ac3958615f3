"""Suggestions of known keys for an unknown key."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import get_origin

from pydantic import BaseModel

__all__ = ["closest"]

_LEAST_RATIO = 0.75  # smallest share of equal characters; "gama" and "gamma" have 0.89


def closest(key: str, schema: type[BaseModel], *, is_group: bool) -> list[str]:
    """Return the known keys that are most like an unknown one.

    Keys of the same group are tried first; for these, one equal word is enough. Several keys are
    returned only if they are equally close.

    Args:
        key: the unknown key, with dots.
        schema: class of the configuration, whose fields are the known keys.

    Keyword Args:
        is_group: whether the unknown key holds keys itself, so that only groups are suggested.

    Returns:
        The known keys; empty if none is close.
    """
    parent, _, name = key.rpartition(".")
    known = dict(_keys(schema))
    if parent and parent not in known:
        return []
    candidates = [other for other, group in known.items() if group is is_group]
    siblings = [other for other in candidates if other.rpartition(".")[0] == parent]
    return _best(name, siblings, by_word=True) or _best(name, candidates, by_word=False)


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every dotted key, and whether it is a group."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield prefix + name, True
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, get_origin(kind) is dict


def _best(name: str, keys: list[str], *, by_word: bool) -> list[str]:
    scores = {key: _likeness(name, key.rpartition(".")[2], by_word) for key in keys}
    most = max(scores.values(), default=0.0)
    return [key for key, score in scores.items() if score == most >= _LEAST_RATIO]


def _likeness(name: str, other: str, by_word: bool) -> float:
    """Return the share of characters that agree, with the whole or slightly less with a word."""
    whole = SequenceMatcher(None, name, other).ratio()
    words = [SequenceMatcher(None, name, word).ratio() for word in other.split("_")]
    return max(whole, 0.95 * max(words)) if by_word else whole
