"""``hook: recall`` in TorchRL's Hydra store; importing this module registers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

__all__ = ["RecallHookConfig"]


def _make_recall() -> dict[str, Any]:
    return {"_target_": "torchrl_recall.make_recall", "_partial_": True}


@dataclass
class RecallHookConfig:
    """Configuration of :class:`~torchrl_recall.RecallHook`.

    ``recall`` is a partial of a function of the trainer, :func:`~torchrl_recall.make_recall` by
    default. Options of :class:`~torchrl_recall.Recall` stand beside its ``_target_``::

        import torchrl_recall.trainers.hook_config  # registers `hook: recall`

        defaults:
          - hook@recall: recall
        recall:
          recall: {interval: 1000, trace_length: 10}
        trainer:
          hooks: ["${recall}"]

    Attributes:
        recall: the partial.
        replay_buffer: buffer of all experience; that of the trainer by default.
        buffer_size: capacity of the hook's own buffer, in transitions.
    """

    recall: Any = field(default_factory=_make_recall)
    replay_buffer: Any = None
    buffer_size: int = 100_000
    _target_: str = "torchrl_recall.RecallHook"


ConfigStore.instance().store(group="hook", name="recall", node=RecallHookConfig)
