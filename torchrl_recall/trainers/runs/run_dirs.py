"""Folders of runs, named by their settings: equal jobs share a folder, different jobs do not."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from torchrl_recall.trainers.runs import job
from torchrl_recall.trainers.runs.resumption import LEAVES_THE_SAME
from torchrl_recall.trainers.schema.group import ConfigError

__all__ = ["named", "names_a_folder", "parse", "run_dir_of", "settle", "unnamed_settings"]

# Keys that a resumed run may change, without those that make a different run from its start.
_UNNAMED = (*LEAVES_THE_SAME, "eval.interval", "eval.num_episodes", "eval.max_steps")
_MOST = 100  # largest number of characters of settings in a folder's name; a hash replaces the rest


def run_dir_of(cfg: DictConfig, run_dir: str) -> str:
    """Return the folder of Hydra's job.

    A ``run_dir`` of the command line is used unchanged. To that of the configuration, all other
    settings of the command line are added that can change the weights.

    Args:
        cfg: configuration that Hydra composed for the job.
        run_dir: its ``run_dir``, without interpolations.

    Examples:
        >>> from torchrl_recall.trainers.runs.run_dirs import run_dir_of
        >>> run_dir_of(OmegaConf.create({"run_dir": "runs/x"}), "runs/x")  # no job of Hydra's
        'runs/x'

    Raises:
        ConfigError: the folder is a number.
    """
    if not HydraConfig.initialized():
        return run_dir
    given = parse(job.words_of(HydraConfig.get().overrides.task))
    for override in given:
        if override.key_or_group == "run_dir":
            if isinstance(override.value(), int | float):
                raise ConfigError(
                    f"{override.input_line} is read as the number {override.value()}; add a "
                    f"letter, or quote it: \"run_dir='...'\"."
                )
            return run_dir
    already, choices = named(cfg), HydraConfig.get().runtime.choices
    settings: dict[str, Any] = {}
    for key in (override.key_or_group for override in given):
        if key in choices:  # a group, such as recall=none
            name = f"{key}.name"
            if name not in already or OmegaConf.select(cfg, name) != choices[key]:
                settings[key] = choices[key]
        elif key not in already and names_a_folder(key):
            settings[key] = _plain(OmegaConf.select(cfg, key))
    return run_dir + unnamed_settings(settings)


def names_a_folder(key: str) -> bool:
    """Return whether a setting is part of the folder's name."""
    return not key.startswith(_UNNAMED)


def unnamed_settings(settings: dict[str, Any]) -> str:
    """Format settings as the end of a folder's name, in the order of their keys.

    Args:
        settings: values by key.

    Returns:
        The text.

    Examples:
        >>> unnamed_settings({"sac.gamma": 0.98, "optim.lr": 1e-3, "sac.num_cells": [64, 64]})
        '_optim.lr-0.001_sac.gamma-0.98_sac.num_cells-64+64'
        >>> unnamed_settings({"env.entry_point": "a:b"})  # names may not have a colon
        '_env.entry_point-a-b_fa80635b'
        >>> unnamed_settings({})
        ''
    """
    if not settings:
        return ""
    text = "".join(f"_{key}-{_text(settings[key])}" for key in sorted(settings))
    if len(text) <= _MOST and all(map(_is_clear, settings.values())):
        return text
    safe = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{safe[:_MOST]}_{digest[:8]}"


def named(cfg: DictConfig) -> set[str]:
    """Return the keys in the ``run_dir`` of a configuration, as in ``runs/${env.name}_${seed}``."""
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    return set(re.findall(r"\$\{([\w.]+)\}", str(raw["run_dir"])))


def parse(words: list[str]) -> list[Override]:
    """Parse overrides of a command line."""
    return OverridesParser.create().parse_overrides(words)


def settle(config: Any) -> Path:
    """Return the folder of a recipe's configuration, without the colon of ``module:Task-v0``."""
    name = getattr(config.env, "name", "")
    return Path(config.run_dir.replace(name, name.replace(":", "_")) if name else config.run_dir)


def _plain(value: Any) -> Any:
    """Return the canonical form of a configuration value, however it was typed."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_clear(value: Any) -> bool:
    """Return whether a value can be part of a file's name without ambiguity."""
    if isinstance(value, list):
        return len(value) > 1 and all(map(_is_clear, value))
    if isinstance(value, str):
        return bool(re.fullmatch(r"(?!true$|false$|null$)[A-Za-z][\w.]*", value, re.ASCII))
    return value is None or isinstance(value, int | float)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
