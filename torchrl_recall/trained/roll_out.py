"""Recall traces of a trained run, to the end states that its own source chooses."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_recall.offline import OfflineRecall
from torchrl_recall.recall import Recall
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.trained.load import TrainedRun, load_run
from torchrl_recall.trainers.schema import ConfigError

__all__ = ["path_of", "roll_out"]

# What end states are chosen by, and from.
_NEEDED = ("host", "recall", "replay_buffer", "single", "curriculum")


def roll_out(
    run_dir: str | Path,
    *,
    num_states: int = 8,
    num_traces: int = 4,
    trace_length: int | None = None,
    seed: int = 0,
) -> tuple[TrainedRun, TensorDictBase]:
    """Generate recall traces by a run's model, from end states of its replay buffer.

    Args:
        run_dir: the run's folder.

    Keyword Args:
        num_states: end states, which the run's own source chooses.
        num_traces: to each of them.
        trace_length: steps of each trace; the run's own by default.
        seed: of torch's random numbers, which go on afterwards as if nothing had been drawn.

    Returns:
        The run, and traces ``[num_states * num_traces, trace_length]`` in forward time.

    Raises:
        ConfigError: the folder is no run's, its model learned nothing yet, or no state is good.
        CheckpointError: no checkpoint can be trusted.
    """
    run = load_run(run_dir, restore=_NEEDED)
    model, recall = run.needs_model(), run.parts.recall
    assert isinstance(recall, Recall | OfflineRecall)
    recall.high_value_states.num_states = num_states
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model.check_statistics()
            candidates = recall.draws.candidates(run.parts.experience, recall.state_batch_size)
            end_states = recall.high_value_states(candidates)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"after {run.frames:,} frames the run in {run_dir} has nothing to begin traces "
                f"with ({error}) Go on with it by resume=auto and more collector.total_frames."
            ) from error
        if not len(end_states):
            raise ConfigError(
                f"after {run.frames:,} frames no state of the run in {run_dir} was rewarded, and "
                "traces end in such states. Go on with it by resume=auto and more "
                "collector.total_frames."
            )
        own = cast(RecallTraceGenerator, recall.generate).trace_length
        length = int(own) if trace_length is None else trace_length
        generate = RecallTraceGenerator(model, trace_length=length, num_traces=num_traces)
        return run, generate(end_states)


def path_of(traces: TensorDictBase) -> Tensor:
    """Return the states of traces, end states included, ``[num, trace_length + 1, *state]``."""
    last = traces["next", "observation"][:, -1:]
    return torch.cat([traces["observation"], last], 1)
