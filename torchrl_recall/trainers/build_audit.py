"""Audit of a run's traces by its simulator, for the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.offline import OfflineRecall
from torchrl_recall.recall import Recall
from torchrl_recall.traces.audit import TraceAuditor
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.runs.process import say
from torchrl_recall.trainers.schema.group import ConfigError

__all__ = ["build_audit"]


def build_audit(
    num_traces: int | Literal["auto"], recall: RecallLike, task: Any
) -> Callable[[], dict[str, float]] | None:
    """Build the audit of the newest traces, as they were before any filter.

    The audit draws no random number. Its traces are some of those that were generated for
    imitation or for a critic, evenly spaced over their end states. Weights are bitwise the same
    with and without it.

    Args:
        num_traces: the number of traces, ``recall.audit``. Zero turns the audit off. ``auto`` takes
            32 if the task can be put into a state, and zero otherwise.
        recall: recall, or a control without traces.
        task: see :func:`~torchrl_recall.envs.make_simulator`. The audit steps it.

    Returns:
        A function that returns the metrics of :class:`~torchrl_recall.TraceAuditor`. Distances are
        in standard deviations of the observation, if it is standardised. None without an audit.

    Raises:
        ConfigError: a number is given, but the task cannot be put into a state.
    """
    if not isinstance(recall, Recall | OfflineRecall) or num_traces == 0:
        return None
    observations = recall.model.observations
    scale = observations.scale if isinstance(observations, ContinuousCodec) else None
    try:
        auditor = TraceAuditor(task, scale=scale)
    except ValueError as error:
        if num_traces != "auto":
            raise ConfigError(f"recall.audit={num_traces}: {error} Or leave it auto.") from error
        say(f"traces are not audited: {error} recall.audit=0 leaves this line out.")
        return None
    if num_traces != "auto":
        recall.newest.num = num_traces

    def audit() -> dict[str, float]:
        return {} if recall.newest.rows is None else auditor.metrics(recall.newest.rows)

    return audit
