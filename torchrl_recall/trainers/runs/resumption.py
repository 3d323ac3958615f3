"""Check what a resumed run may change, and name the command that resumes it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from torchrl_recall.trainers.schema import ConfigError

__all__ = ["MAY_CHANGE", "check_config", "command", "flat"]

# Keys that may differ when a run is resumed. None of them influenced the weights so far. Annealing
# follows total_frames by default, so a prolonged run anneals over the longer span.
MAY_CHANGE = (
    "resume",
    "run_dir",
    "compile_from_frames",
    "collector.total_frames",
    "recall.anneal_frames",
    "eval",
    "checkpoint",
    "logger",
    "profile",
)


def check_config(config: dict, saved: dict, run_dir: Path) -> None:
    """Refuse to go on with a run of another configuration.

    Args:
        config: what is asked for.
        saved: the configuration in the checkpoint.
        run_dir: the run's folder, for the error.

    Raises:
        ConfigError: naming the keys that differ.
    """
    ours, theirs = flat(config), flat(saved)
    differ = [
        f"{key}: {theirs.get(key)!r} was saved, {ours.get(key)!r} is asked for"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if differ:
        raise ConfigError(
            f"the run in {run_dir} has another configuration ({'; '.join(differ)}). "
            "Resume with the saved values, or choose another run_dir."
        )


def command(run_dir: Path, total_frames: int) -> str:
    """Return the command that goes on with a run, for a shell.

    Args:
        run_dir: the run's folder.
        total_frames: when it is to end.
    """
    given = ("resume=", "run_dir=", "collector.total_frames=")
    overrides = sys.argv[1:]
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        overrides = list(HydraConfig.get().overrides.task)  # the job's own, not the sweep's
    kept = (word for word in overrides if not word.lstrip("+").startswith(given))
    words = [_python(), sys.argv[0], *kept]
    words += [f"collector.total_frames={total_frames}", f"run_dir={_quoted(str(run_dir))}"]
    return shlex.join([*words, "resume=auto"])


def _quoted(text: str) -> str:
    """Quote a value where Hydra would read more into it than its characters."""
    if "/" in text and re.fullmatch(r"[\w/.:+%@?|-]+", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"


def _python() -> str:
    """Return the interpreter that runs now, as a short path if it lies below the current folder."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def flat(node: dict, prefix: str = "") -> dict:
    """Return a nested configuration with dotted keys."""
    out: dict = {}
    for key, value in node.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
