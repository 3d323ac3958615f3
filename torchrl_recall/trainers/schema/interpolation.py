"""Resolution of Hydra's interpolations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

__all__ = ["drop_echoes", "resolve"]


def resolve(cfg: DictConfig | ListConfig) -> tuple[Any, dict[str, str], dict[str, str]]:
    """Replace interpolations by their values.

    Args:
        cfg: configuration that Hydra composed.

    Returns:
        Plain containers without keys whose value cannot be resolved, a sentence for each of these
        keys, and the text of every interpolation by its key.
    """
    faults: dict[str, str] = {}
    texts = dict(_interpolations(OmegaConf.to_container(cfg, resolve=False), ""))
    return _plain(cfg, "", faults), faults, texts


def drop_echoes(faults: dict[str, str], texts: dict[str, str]) -> list[str]:
    """Return the sentences without those about values that are interpolated from a faulty key.

    ``optim.lr=nan`` is one mistake, although ``recall.lr`` is ``${optim.lr}``.

    Args:
        faults: sentences by key.
        texts: interpolations by key.
    """
    own = [
        sentence
        for key, sentence in faults.items()
        if not any(_refers(texts.get(key, ""), other) for other in faults if other != key)
    ]
    return own or list(faults.values())  # if interpolations form a circle, keep all


def _plain(node: Any, key: str, faults: dict[str, str]) -> Any:
    if isinstance(node, ListConfig):
        values = (_value(node, index, key, faults) for index in range(len(node)))
        return [value[0] for value in values if value]
    if not isinstance(node, DictConfig):
        return node
    plain = {}
    for name in node:
        if value := _value(node, name, _join(key, name), faults):
            plain[str(name)] = value[0]
    return plain


def _value(node: Any, name: Any, key: str, faults: dict[str, str]) -> tuple[Any] | None:
    """Return the value in a tuple of one; add a fault and return None if there is no value."""
    try:
        return (_plain(node[name], key, faults),)
    except MissingMandatoryValue:
        faults[key] = f"configuration key {key!r}: a value is missing."
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        faults[key] = f"configuration key {key!r}: {reason}."
    except RecursionError:
        faults[key] = f"configuration key {key!r}: its interpolation leads back to itself."
    return None


def _interpolations(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _interpolations(value, _join(key, name))
    elif isinstance(node, str) and "${" in node:
        yield key, node


def _refers(text: str, key: str) -> bool:
    # A name that ends in a dot is completed by an inner interpolation: ${table_1.${env.name}}.
    names = re.findall(r"[\w.-]+", text)
    return any(
        f"{name}.".startswith(f"{key}.") or (name[-1] == "." and key.startswith(name))
        for name in names
    )


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
