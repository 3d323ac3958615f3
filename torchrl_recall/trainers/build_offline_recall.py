"""Recall from a data set, or the control that ``recall=`` names, from a configuration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.data import TensorSpec

from torchrl_recall.controls import NoRecall
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.offline import OfflineRecall
from torchrl_recall.traces.agreement import Agreement
from torchrl_recall.traces.filters import WithinSupport
from torchrl_recall.trainers.build_recall import build_end_states
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.schema import OfflineRecallConfig

__all__ = ["build_offline_recall"]

_WINDOW = 1_000  # number of held-out transitions that set the threshold of agreement


def build_offline_recall(
    config: OfflineRecallConfig,
    make_model: Callable[..., BacktrackingModel],
    specs: tuple[TensorSpec, TensorSpec],
    critic: TensorDictModuleBase,
    device: torch.device,
) -> RecallLike:
    """Build recall from a data set, or the host alone.

    Args:
        config: configuration with ``recall`` and ``backtracking``.
        make_model: function that builds the model (Eq. 1), and a forward model of the same size.
        specs: specs of observation and action.
        critic: module of the host's V(s).
        device: device of the models.

    Returns:
        Recall or the control.
    """
    recall, backtracking = config.recall, config.backtracking
    if recall.method == "none":
        return NoRecall()
    model = make_model(**backtracking.networks).to(device)
    filters: list[TensorDictModuleBase] = []
    if recall.max_deviation is not None and isinstance(model.observations, ContinuousCodec):
        filters.append(WithinSupport(model.observations.normalize, recall.max_deviation))
    if recall.agreement is not None:
        forward_model = make_model(**backtracking.networks | {"num_models": 1}).to(device)
        filters.append(Agreement(forward_model, quantile=recall.agreement, window=_WINDOW))
    return OfflineRecall(
        model,
        RewardModel(*specs, num_cells=backtracking.num_cells).to(device),
        build_end_states(recall, critic, gamma=config.of_host.gamma),
        interval=recall.interval,
        num_model_updates=backtracking.num_updates,
        num_reward_updates=recall.reward_updates,
        batch_size=backtracking.batch_size,
        lr=backtracking.lr,
        state_batch_size=recall.state_batch_size,
        trace_length=recall.trace_length,
        num_traces=recall.num_traces,
        filters=filters,
        buffer_size=recall.buffer_size,
        compile=bool(config.compile),
    )
