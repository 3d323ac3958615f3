"""Settings of the command line that a run does not read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torchrl_recall.trainers.runs import job
from torchrl_recall.trainers.runs.run import Config
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig
from torchrl_recall.trainers.schema.parts import RecallConfig

__all__ = ["warn_of_no_effect"]

# Groups that only one host reads, where there are several.
_OF_HOST = {
    **{name: (name,) for name in ("sac", "crossq", "redq", "td3", "iql", "cql", "td3bc")},
    "hindsight_sac": ("sac", "hindsight"),
    "trpo": ("trpo", "policy", "gae"),
}
_STORE = ("num_trajectories", "buffer_size", "return_threshold")  # of backtracking, without a model
_IMITATION = ("num_updates", "batch_size", "lr", "max_kl", "anneal_frames")
_ROUNDS = ("name", "method", "interval", *_IMITATION, "advantage_gate", "demonstrations")
_SUCCESSES = (  # of recall in the four rooms, without a model
    "name", "method", "interval", "num_updates", "batch_size", "lr", "num_traces", "loop_erasure",
    "gate", "anneal_frames", "demonstrations",
)  # fmt: skip
_IMAGINED = (
    "name", "method", "interval", "trace_length", "actions", "reward", "num_transitions",
    "state_batch_size", "audit",
)  # fmt: skip
Unread = tuple[str, tuple[str, ...], str]  # pattern of keys, names among them that are read, reason


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


def _unread(config: Config) -> Iterator[Unread]:
    host, recall = getattr(config, "host", None), config.recall
    own = _OF_HOST.get(host or "", ())
    for group in dict.fromkeys(name for groups in _OF_HOST.values() for name in groups):
        if own and group not in own and hasattr(config, group):
            yield f"{group}.*", (), f"host={host}, whose own settings are {', '.join(own)}"
    if recall.method == "none":
        why = "recall=none, which has no model and no traces"
        yield "recall.*", ("name", "method"), why
        yield "backtracking.*", (), why
    ends = getattr(recall, "end_states", None)
    if ends in ("uniform", "reward"):
        yield "recall.temperature", (), f"recall.end_states={ends}"
    if not getattr(getattr(config, "replay_buffer", None), "prioritized", True):
        for name in ("alpha", "beta"):
            yield f"replay_buffer.{name}", (), "replay_buffer.prioritized=false"
    if isinstance(config, A2CRecallConfig):
        yield from _unread_of_four_rooms(config)
    if not isinstance(recall, RecallConfig):
        return
    if recall.max_kl is not None:
        yield "recall.lr", (), f"recall.max_kl={recall.max_kl}, which bounds steps without a rate"
    if recall.method in ("self_imitation", "cloning"):
        why = f"recall={recall.name}, which imitates real trajectories without a model"
        yield "recall.*", _ROUNDS, why
        yield "backtracking.*", _STORE, why
    if recall.method == "forward_dyna":
        why = f"recall={recall.name}, which imagines from visited states and imitates nothing"
        yield "recall.*", _IMAGINED, why
        for name in (*_STORE, "state_fraction", "state_predictor_data"):
            yield f"backtracking.{name}", (), why
    if recall.method == "recall" and getattr(recall, "use", "policy") == "critic":
        for name in _IMITATION:
            yield f"recall.{name}", (), "recall.use=critic, which imitates nothing"
    if recall.method == "recall" and not getattr(recall, "feeds_critic", True):
        why = "recall.use=policy, where no critic learns from traces; recall.use=both feeds both"
        yield "recall.reward", (), why
        yield "recall.num_transitions", (), why
    if recall.method == "recall":
        yield from _unread_of_model(recall, config.backtracking)
    if recall.trace_length != "auto":
        why = f"recall.trace_length={recall.trace_length}; take auto, which measures lengths"
        yield "recall.max_landing_error", (), why


def _unread_of_model(recall: RecallConfig, model: Any) -> Iterator[Unread]:
    learns_top = getattr(model, "state_predictor_data", "all") == "top" or recall.demonstrations
    if getattr(recall, "actions", None) == "uniform" and not learns_top:
        for name in ("num_trajectories", "buffer_size", "clamp_actions"):
            yield f"backtracking.{name}", (), "recall.actions=uniform, which learns no actions"
    if not model.num_updates:
        for name in ("lr", "batch_size"):
            yield f"backtracking.{name}", (), "backtracking.num_updates=0, which trains no model"


def _unread_of_four_rooms(config: A2CRecallConfig) -> Iterator[Unread]:
    recall, why = config.recall, f"recall={config.recall.name}"
    if recall.method != "prioritized_replay":
        yield "prioritized_replay.*", (), f"{why}, which replays nothing"
    else:
        why = f"{why}, which has no model and no traces"
        yield "recall.*", ("name", "method"), why
        yield "backtracking.*", (), why
    if recall.method == "self_imitation":
        why = f"{why}, which imitates real trajectories without a model"
        yield "recall.*", _SUCCESSES, why
        yield "backtracking.*", ("num_trajectories", "trajectory_length", "buffer_size"), why
    if recall.method == "recall" and config.backtracking.dynamics == "exact":
        for name in ("state_lr", "state_batch_size"):
            yield f"backtracking.{name}", (), "backtracking.dynamics=exact, which is not learned"
