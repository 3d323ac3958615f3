"""Film strips of recall traces, drawn by MuJoCo's simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDictBase

from torchrl_recall.envs import MuJoCoSimulator
from torchrl_recall.trained.draw import check_drawing, save_figure
from torchrl_recall.trained.load import TrainedRun
from torchrl_recall.trained.play import renderer
from torchrl_recall.trained.roll_out import path_of
from torchrl_recall.trainers.schema import ConfigError

__all__ = ["draw_film", "film_strip"]


def film_strip(simulator: MuJoCoSimulator, paths: torch.Tensor, num: int) -> np.ndarray:
    """Draw evenly spaced states of paths, from the first to the last.

    Args:
        simulator: simulator of the task.
        paths: states of shape ``[num_paths, num_states, state_dim]``, environment units.
        num: number of pictures of each path, at most ``num_states``.

    Returns:
        Pictures of shape ``[num_paths, num, height, width, 3]``.
    """
    rows = []
    for path in paths.double().cpu().numpy():
        strip = []
        for step in _steps(len(path), num):
            simulator.put(path[step])
            strip.append(simulator.draw())
        rows.append(strip)
    return np.array(rows)


def draw_film(
    run: TrainedRun,
    traces: TensorDictBase,
    path: Path,
    *,
    num_traces: int,
    num_rows: int = 3,
    num_pictures: int = 8,
) -> str:
    """Draw the first trace to each of some end states as a row of pictures.

    Args:
        run: a run of the task.
        traces: traces of shape ``[num_states * num_traces, trace_length]``. Traces to the same end
            state are adjacent.
        path: file of the picture.

    Keyword Args:
        num_traces: number of traces to each end state.
        num_rows: largest number of end states.
        num_pictures: largest number of pictures of each trace.

    Returns:
        A sentence that describes the pictures.

    Raises:
        ConfigError: the task is not a MuJoCo task, or this machine cannot draw it.
    """
    check_drawing("film", path)
    from matplotlib.figure import Figure

    from torchrl_recall.trainers.tasks.gym import make_env

    making = getattr(run.config.env, "making", None)
    if making is None:
        raise ConfigError(f"film= draws tasks of Gymnasium, not {run.parts.name}. Leave it out.")
    paths = path_of(traces)[::num_traces][:num_rows]
    num = min(num_pictures, paths.shape[1])
    with renderer():
        env = make_env(run.config.env.name, render_mode="rgb_array", **making)
        try:
            simulator = MuJoCoSimulator(env.base_env._env)
        except ValueError as error:
            raise ConfigError(
                f"film= draws tasks of MuJoCo, and {run.parts.name} is none. Leave film= out."
            ) from error
        strip = film_strip(simulator, paths, num)
        env.close()
    figure = Figure(figsize=(1.3 * num, 1.45 * len(strip) + 0.2), layout="constrained")
    panels = figure.subplots(len(strip), num, squeeze=False)
    last = paths.shape[1] - 1
    for column, step in enumerate(_steps(paths.shape[1], num)):
        steps = "end state" if step == last else f"step {step - last}"
        panels[0, column].set_title(steps, fontsize=7)
        for row, pictures in enumerate(strip):
            panels[row, column].imshow(pictures[column])
            panels[row, column].axis("off")
    save_figure(figure, path)
    told = f"{len(strip)} traces, {num} pictures each"
    if simulator.skipped:
        told += f"; the first {simulator.skipped} of qpos is not observed, so it is drawn as 0"
    return told


def _steps(length: int, num: int) -> Sequence[int]:
    return np.linspace(0, length - 1, num).round().astype(int).tolist()
