"""Resumption: settings that may change, whether a run has ended, and the command to resume it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from torchrl_recall.trainers.runs import job
from torchrl_recall.trainers.schema import ConfigError

__all__ = [
    "LEAVES_THE_SAME", "MAY_CHANGE", "check_config", "command", "finished", "flat", "may_change",
]  # fmt: skip

# Keys that may differ when a run is resumed. Annealing, and DQN's exploration, follow total_frames
# by default, so a prolonged run anneals over the longer span. None of the others influenced the
# weights so far.
MAY_CHANGE = (
    "resume",
    "run_dir",
    "compile_from_frames",
    "collector.total_frames",
    "recall.anneal_frames",
    "recall.audit",
    "eval",
    "checkpoint",
    "logger",
    "profile",
)


# Those of them that do not make another run from its start.
LEAVES_THE_SAME = tuple(key for key in MAY_CHANGE if key not in ("recall.anneal_frames", "eval"))
# Those of them whose change continues a run that has ended.
_ENDS_OTHERWISE = ("recall.anneal_frames", "eval.target_return", "eval.target", "eval.patience")
_FIXED = ("eval.num_goals",)  # evaluations before and after would be of other goals


def check_config(config: dict, saved: dict, run_dir: Path) -> None:
    """Refuse to resume a run of another configuration.

    Args:
        config: the new configuration.
        saved: the configuration in the checkpoint.
        run_dir: folder of the run, for the error.

    Raises:
        ConfigError: the configurations differ; the message names the keys.
    """
    ours, theirs = flat(config), flat(saved)
    differ = [
        f"{key}: {theirs.get(key)!r} was saved, {ours.get(key)!r} is asked for"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key) and not may_change(key)
    ]
    if differ:
        raise ConfigError(
            f"the run in {run_dir} has another configuration ({'; '.join(differ)}). "
            "Resume with the saved values, or choose another run_dir."
        )


def may_change(key: str) -> bool:
    """Return whether a key may differ when a run is resumed."""
    return key.startswith(MAY_CHANGE) and key not in _FIXED


def finished(config: dict, run_dir: Path) -> dict[str, Any] | None:
    """Return the summary of a finished run, without building its parts.

    Args:
        config: the new configuration.
        run_dir: folder of the run.

    Returns:
        The summary; None if the run is not finished, or its folder is damaged.

    Raises:
        ConfigError: the folder holds a finished run of another configuration.
    """
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        saved = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
        at_target = ended_at_target(summary, config)
        if summary["frames"] < config["collector"]["total_frames"] and not at_target:
            return None
    except (OSError, ValueError, KeyError, TypeError, OmegaConfBaseException, YAMLError):
        return None
    asked = OmegaConf.to_container(OmegaConf.create(config))
    assert isinstance(asked, dict)
    assert isinstance(saved, dict)
    is_past = summary["frames"] > config["collector"]["total_frames"]
    # A run that is past its end has no frame left whose imitation could be annealed otherwise.
    keys = [key for key in _ENDS_OTHERWISE if not is_past or key != "recall.anneal_frames"]
    if any(flat(asked).get(key) != flat(saved).get(key) for key in keys):
        return None
    if asked.get("compile", False) is None:  # the resumed run keeps its earlier value
        asked["compile"] = saved.get("compile")
    check_config(asked, saved, run_dir)
    return summary


def ended_at_target(summary: dict, config: dict) -> bool:
    """Return whether all seeds of a run reached a target that ends the run.

    Args:
        summary: summary of the run.
        config: the new configuration.
    """
    reached = summary.get("frames_to_target")
    each = reached if isinstance(reached, list) else [reached]
    return bool(config.get("eval", {}).get("stop_at_target", True) and each and all(each))


def command(run_dir: Path, total_frames: int, *, without_target: bool = False) -> str:
    """Return the shell command that resumes a run.

    Args:
        run_dir: folder of the run.
        total_frames: number of frames at which the run ends.

    Keyword Args:
        without_target: whether the run goes on past the target that ended it.
    """
    given = ["resume=", "run_dir=", "collector.total_frames="]
    given += ["eval.target_return=", "eval.stop_at_target="] if without_target else []
    kept = (word for word in job.overrides() if not word.lstrip("+").startswith(tuple(given)))
    words = [_python(), sys.argv[0], *kept]
    words += [f"collector.total_frames={total_frames}", f"run_dir={_quoted(str(run_dir))}"]
    return shlex.join([*words, "resume=auto"])


def _quoted(text: str) -> str:
    """Quote a value if Hydra would interpret its characters."""
    if "/" in text and re.fullmatch(r"[\w/.:+%@?|-]+", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"


def _python() -> str:
    """Return the current interpreter, as a relative path if it is below the current folder."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def flat(node: dict, prefix: str = "") -> dict:
    """Return a nested configuration with dotted keys.

    Args:
        node: the configuration.
        prefix: prefix of all keys.
    """
    out: dict = {}
    for key, value in node.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
