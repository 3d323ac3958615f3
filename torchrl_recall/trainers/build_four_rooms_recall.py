"""Recall of many seeds in the four rooms, or the control that ``recall=`` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from torchrl_recall.controls import NoRecall, SelfImitation
from torchrl_recall.envs.four_rooms.exact_model import DisplacementPredictor
from torchrl_recall.envs.four_rooms.known_actions import KnownActions
from torchrl_recall.imitation_updates import AdamSteps, ImitationUpdates
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.recall import Recall
from torchrl_recall.schedule import Schedule
from torchrl_recall.seeds.draws import SeededDraws
from torchrl_recall.seeds.end_states import SuccessStates, VisitedStates
from torchrl_recall.seeds.recent_successes import RecentSuccesses
from torchrl_recall.seeds.stacked_networks import StackedMLP
from torchrl_recall.seeds.streams import SeedStreams
from torchrl_recall.traces.filters import ConfidentSteps, LoopErasure
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import HighValueStates
from torchrl_recall.trainers.hosts.a2c import A2C
from torchrl_recall.trainers.hosts.prioritized_replay import PrioritizedReplay
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.schema import A2CRecallConfig

__all__ = ["build_four_rooms_recall"]


def build_four_rooms_recall(
    config: A2CRecallConfig,
    make_model: Callable[..., BacktrackingModel],
    imitation_loss: ImitationLoss,
    a2c: A2C,
) -> RecallLike:
    """Build recall, or the control that ``config.recall.method`` names, for many seeds at once.

    Two parts differ from those of one run. Random batches are drawn separately for each seed, and
    the store keeps the recent successes of each seed.

    Adam uses ``foreach``. Its fused step rounds the last few entries of a tensor differently, so
    the weights of a seed would depend on the number of seeds.

    Args:
        config: configuration with ``recall``, ``backtracking``, ``prioritized_replay`` and
            ``seeds``.
        make_model: builds a model (Eq. 1) from the networks of its two factors, such as
            ``partial(four_rooms_model, layout)``.
        imitation_loss: Eq. 3, holding the host's policy, with ``reduction="none"``.
        a2c: the host.

    Returns:
        Recall or the control.
    """
    recall, backtracking = config.recall, config.backtracking
    if recall.method == "none":
        return NoRecall()
    if recall.method == "prioritized_replay":
        return PrioritizedReplay(a2c, config)
    streams = SeedStreams(config.seeds, stream="recall")
    successes = RecentSuccesses(
        len(config.seeds),
        config.collector.num_envs,
        backtracking.num_trajectories,
        backtracking.trajectory_length,
        num_states=a2c.num_cells,
        streams=streams,
        num_pairs=recall.num_traces,
    )
    draws = SeededDraws(streams, successes, gate=recall.gate)
    frames_per_batch = config.collector.num_envs * config.collector.frames_per_env
    schedule = Schedule(recall.interval * frames_per_batch, anneal_frames=recall.anneal_frames)
    optimizer = make_adam(imitation_loss, recall.lr, foreach=True)
    imitate = ImitationUpdates(
        imitation_loss,
        AdamSteps(imitation_loss, optimizer=optimizer, draws=draws),
        num_updates=recall.num_updates,
        batch_size=recall.batch_size,
        transforms=[LoopErasure()] if recall.loop_erasure else [],
        draws=draws,
    )
    if recall.method == "self_imitation":
        return SelfImitation.from_parts(
            schedule=schedule, trajectories=successes, imitate=imitate, draws=draws
        )

    # Networks of both factors, with separate random numbers; exact dynamics need only the first.
    num_seeds, cells, hidden = len(config.seeds), a2c.num_cells, backtracking.num_cells
    init = SeedStreams(config.seeds, stream="backtracking")
    backward_policy = StackedMLP(num_seeds, [cells], hidden, 4, rand=init.rand)
    groups = [{"params": list(backward_policy.parameters()), "lr": backtracking.lr}]
    predictor, smoothing = None, backtracking.smoothing
    if backtracking.dynamics == "learned":
        network = StackedMLP(num_seeds, [4, cells], hidden, cells, zero=True, rand=init.rand)
        predictor, smoothing = DisplacementPredictor(network, cells), 0.0
        groups.append({"params": list(predictor.parameters()), "lr": backtracking.state_lr})
    model = make_model(backward_policy, predictor, smoothing=smoothing, rand=streams.rand)
    train_model = ModelUpdates(
        BacktrackingLoss(model, reduction="none"),
        num_updates=backtracking.num_updates,
        batch_size=backtracking.batch_size,
        all_batch_size=backtracking.state_batch_size,
        optimizer=torch.optim.Adam(groups, backtracking.lr, foreach=True),
        draws=draws,
    )

    # Traces take only actions that a learned model is sure of, if that is asked for.
    make_generator = partial(
        RecallTraceGenerator, trace_length=recall.trace_length, num_traces=recall.num_traces
    )
    generate: Callable = make_generator(model)
    if recall.min_probability is not None and predictor is not None:
        known = KnownActions(predictor, successes, recall.min_probability)
        traced = make_model(
            backward_policy,
            predictor,
            possible=known.possible,
            smoothing=backtracking.smoothing,
            rand=streams.rand,
        )
        imitate.transforms.append(ConfidentSteps(traced, recall.min_probability))
        generate = known.before(make_generator(traced))

    states: HighValueStates = SuccessStates(successes)
    if recall.high_value_states == "value":
        states = VisitedStates(a2c.value_table, successes)
    return Recall.from_parts(
        model,
        schedule=schedule,
        trajectories=successes,
        train_model=train_model,
        high_value_states=states,
        generate=generate,
        imitate=imitate,
        draws=draws,
    )
