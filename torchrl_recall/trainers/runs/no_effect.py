"""Settings of the command line that a run does not read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase

from torchrl_recall.trainers.runs import job
from torchrl_recall.trainers.runs.run import Config
from torchrl_recall.trainers.schema.parts import RecallConfig

__all__ = ["warn_of_no_effect"]

_HOSTS = ("sac", "crossq", "redq", "td3", "iql", "cql", "td3bc")  # with settings of their own
_STORE = ("num_trajectories", "buffer_size", "return_threshold")  # of backtracking, without a model
_ROUNDS = (
    "name", "method", "interval", "num_updates", "batch_size", "lr", "max_kl", "anneal_frames",
    "gate", "advantage_gate", "smoothing", "demonstrations",
)  # fmt: skip  # of recall, without traces


def warn_of_no_effect(config: Config) -> None:
    """Warn of settings of the command line that have no effect.

    Args:
        config: configuration of the run.
    """
    for word in job.overrides():
        key = word.lstrip("+").partition("=")[0]
        for pattern, but, why in _unread(config):
            if fnmatchcase(key, pattern) and key.partition(".")[2] not in but:
                warnings.warn(f"{key} has no effect with {why}.", stacklevel=3)
                break


def _unread(config: Config) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield patterns of keys that are not read, the names among them that are, and why."""
    host, recall = getattr(config, "host", None), config.recall
    for other in _HOSTS:
        if host is not None and other != host and hasattr(config, other):
            yield f"{other}.*", (), f"host={host}, whose own settings are {host}.*"
    if recall.method == "none":
        why = "recall=none, which has no model and no traces"
        yield "recall.*", ("name", "method"), why
        yield "backtracking.*", (), why
    if not isinstance(recall, RecallConfig):
        return
    if recall.method in ("self_imitation", "cloning"):
        why = f"recall={recall.name}, which imitates real trajectories without a model"
        yield "recall.*", _ROUNDS, why
        yield "backtracking.*", _STORE, why
    if recall.method == "recall" and not getattr(recall, "feeds_critic", True):
        why = "recall.use=policy, where no critic learns from traces; recall.use=both feeds both"
        yield "recall.reward", (), why
        yield "recall.num_transitions", (), why
    if recall.trace_length != "auto":
        why = f"recall.trace_length={recall.trace_length}; take auto, which measures lengths"
        yield "recall.max_landing_error", (), why
