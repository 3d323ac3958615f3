"""Recall traces of a trained run, to end states chosen as in the run."""

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

# Parts of a run that choose end states.
_NEEDED = ("host", "recall", "replay_buffer", "single", "curriculum")


def roll_out(
    run_dir: str | Path,
    *,
    num_states: int = 8,
    num_traces: int = 4,
    trace_length: int | None = None,
    seed: int = 0,
) -> tuple[TrainedRun, TensorDictBase]:
    """Generate recall traces with a run's model, to end states of its replay buffer.

    Args:
        run_dir: folder of the run.

    Keyword Args:
        num_states: number of end states, chosen by the run's source of high-value states.
        num_traces: number of traces to each end state.
        trace_length: steps of each trace; as in the run by default.
        seed: seed of torch's random numbers, whose state is restored afterwards.

    Returns:
        The run, and traces of shape ``[num_states * num_traces, trace_length]`` in forward time.

    Raises:
        ConfigError: the folder has no run, its model has not been trained yet, or no state is known
            to be good.
        CheckpointError: no checkpoint is intact.
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
    """Return the states of traces, including end states.

    Args:
        traces: traces of shape ``[num, trace_length]`` in forward time.

    Returns:
        States of shape ``[num, trace_length + 1, *state_shape]``, environment units.
    """
    last = traces["next", "observation"][:, -1:]
    return torch.cat([traces["observation"], last], 1)
