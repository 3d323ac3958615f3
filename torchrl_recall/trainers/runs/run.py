"""One run in its folder: resumption, checkpoints, log and summary."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from omegaconf import OmegaConf
from torch import Tensor, nn

from torchrl_recall.trainers.runs import checkpoints, process
from torchrl_recall.trainers.runs.log import RunLog
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.on_policy import OnPolicyRecallConfig
from torchrl_recall.trainers.schema.sac import SACRecallConfig

__all__ = ["Run", "settle_compilation"]

# What a resumed run may change: none of it decides a weight of the frames already taken. Annealing
# follows total_frames by default, so a prolonged run anneals anew over the longer span.
_MAY_CHANGE = (
    "resume", "run_dir", "collector.total_frames", "recall.anneal_frames", "eval", "checkpoint",
    "logger", "profile",
)  # fmt: skip


def settle_compilation(
    config: SACRecallConfig | OnPolicyRecallConfig | GoalGANRecallConfig,
    *,
    worth_frames: int = 10_000,
) -> None:
    """Decide ``compile=null``: as the run that is resumed was, else by the number of frames.

    A prolonged run must not change its kind of update, since the two differ by rounding.

    Args:
        config: changed in place.

    Keyword Args:
        worth_frames: frames that pay back the 20 to 60 s that compilation takes.
    """
    if config.compile is not None:
        return
    saved = Path(config.run_dir) / "config.yaml"
    if config.resume == "auto" and saved.exists():
        config.compile = OmegaConf.select(OmegaConf.load(saved), "compile")
    if config.compile is None:
        config.compile = config.collector.total_frames >= worth_frames


class Part(Protocol):
    """Something whose state a resumed run needs."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict, /) -> Any: ...


class Source(Protocol):
    """Where frames come from."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict | None, frames: int) -> bool: ...

    def shutdown(self) -> None: ...


class Run:
    """Context of a recipe's loop: holds the folder, resumes, saves, logs and sums up.

    Args:
        run_dir: the run's folder.
        config: the whole configuration.

    Keyword Args:
        collector: where frames come from.
        parts: what else is saved, by name; None where there is none. A part with
            ``drop_unfinished()`` is told when its episodes do not go on.
        modules: whose weights the summary's hash covers.
        about: what the summary says of the run.
    """

    def __init__(
        self,
        run_dir: Path,
        config: SACRecallConfig | OnPolicyRecallConfig | A2CRecallConfig | GoalGANRecallConfig,
        *,
        collector: Source,
        parts: Mapping[str, Part | None],
        modules: Sequence[nn.Module],
        about: Mapping[str, Any],
    ) -> None:
        self.run_dir = run_dir
        self.config = config
        self.collector = collector
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.modules = modules
        self.about = about
        self.frames = 0
        self._previous_frames = 0
        self.metrics: dict[str, float | Tensor] = {}  # the latest of each
        self._stack = ExitStack()
        self._episode_is_good = True

    def __enter__(self) -> Run:
        with ExitStack() as stack:  # undone if anything below fails, else kept until __exit__
            stack.callback(self.collector.shutdown)
            stack.enter_context(process.lock(self.run_dir))
            self._signal = process.StopSignal()
            stack.callback(self._signal.restore)
            wall_seconds = self._resume()
            OmegaConf.save(OmegaConf.structured(self.config), self.run_dir / "config.yaml")
            self.log_file = RunLog(
                self.run_dir,
                self.config.collector.total_frames,
                backend=self.config.logger.backend,
                frames=self.frames,
                wall_seconds=wall_seconds,
            )
            stack.callback(self.log_file.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with self._stack:
            if kind is FloatingPointError:  # bad data came after the state, which is still good
                self._episode_is_good = False
                self.save()

    @property
    def stopped(self) -> bool:
        """Whether SIGTERM or SIGINT came."""
        return self._signal.received is not None

    def advance(self, num_frames: int) -> None:
        """Count frames."""
        self._previous_frames = self.frames
        self.frames += num_frames
        self.log_file.progress(num_frames)

    def due(self, interval: int) -> bool:
        """Whether a multiple of the interval was just passed, or the run is at its end."""
        if self.frames >= self.config.collector.total_frames:
            return True
        return interval > 0 and self.frames // interval > self._previous_frames // interval

    def log(self, returns: list[float]) -> None:
        """Write a row: the mean return of an evaluation, then the latest metrics."""
        row = {"eval_return": float(np.mean(returns)), "eval_return_std": float(np.std(returns))}
        self.log_file.write(self.frames, row | {k: float(v) for k, v in self.metrics.items()})

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoints.save(
            self.run_dir / "checkpoints",
            self.frames,
            self._state_dict(),
            keep=self.config.checkpoint.keep,
        )

    def save_and_stop(self) -> int:
        """Save after a signal; returns the exit status."""
        self.save()
        received = self._signal.received
        assert received is not None
        print(f"\nstopped by {received.name} at {self.frames:,} steps; go on with:")
        print(self._command(self.config.collector.total_frames))
        return 128 + received

    def end(self) -> None:
        """Finish before the last frame: write a last checkpoint."""
        self.save()

    def finish(self, **more: Any) -> None:
        """Sum up, with more to say in the summary."""
        rows = self.log_file.rows
        summary = {
            **self.about,
            "recall": self.config.recall.name,
            "frames": self.frames,
            **more,
            "final_eval_return": float(rows[-1]["eval_return"]) if rows else None,
            "steps_per_second": round(self.log_file.steps_per_second(self.frames), 2),
            "wall_seconds": round(self.log_file.wall_seconds, 2),
            "versions": process.versions(),
            "weights_sha256": process.weights_sha256(*(m.state_dict() for m in self.modules)),
        }
        self.log_file.finish(summary)
        print(f"to go on: {self._command(2 * self.frames)}")

    def _state_dict(self) -> dict:
        return {
            "config": dataclasses.asdict(self.config),
            "versions": process.versions(),
            "frames": self.frames,
            "wall_seconds": self.log_file.wall_seconds,
            "metrics": {k: float(v) for k, v in self.metrics.items()},
            **{name: part.state_dict() for name, part in self.parts.items()},
            "collector": self.collector.state_dict() if self._episode_is_good else None,
            "rng": process.rng_state_dict(),
        }

    def _resume(self) -> float:
        """Load the newest good checkpoint if asked to; returns the seconds already spent."""
        directory = self.run_dir / "checkpoints"
        if self.config.resume == "never":
            if directory.exists() or (self.run_dir / "metrics.csv").exists():
                raise ConfigError(
                    f"run_dir={self.run_dir} already holds a run. Go on with it by resume=auto, "
                    "or choose another run_dir."
                )
            return 0.0
        found = checkpoints.load_latest(directory)
        if found is None:
            return 0.0
        self.frames, state = found
        self._previous_frames = self.frames
        self._check_config(state["config"])
        if state["versions"] != process.versions():
            warnings.warn(
                f"the checkpoint was written with {state['versions']}; with other versions the "
                "resumed run is not bitwise the uninterrupted one.",
                stacklevel=2,
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.metrics = dict(state["metrics"])
        if not self.collector.load_state_dict(state["collector"], self.frames):
            for part in self.parts.values():
                getattr(part, "drop_unfinished", lambda: None)()
        process.set_rng_state_dict(state["rng"])
        print(f"resumed at {self.frames:,} steps from {directory}")
        return state["wall_seconds"]

    def _check_config(self, saved: dict) -> None:
        ours, theirs = _flat(dataclasses.asdict(self.config)), _flat(saved)
        differ = [
            f"{key}: {theirs.get(key)!r} was saved, {ours.get(key)!r} is asked for"
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key) and not key.startswith(_MAY_CHANGE)
        ]
        if differ:
            raise ConfigError(
                f"the run in {self.run_dir} has another configuration ({'; '.join(differ)}). "
                "Resume with the saved values, or choose another run_dir."
            )

    def _command(self, total_frames: int) -> str:
        given = ("resume=", "run_dir=", "collector.total_frames=")
        words = [word for word in sys.argv if not word.startswith(given)]
        words += [f"collector.total_frames={total_frames}", f"run_dir={self.run_dir}"]
        return shlex.join(["python", *words, "resume=auto"])


def _flat(node: dict, prefix: str = "") -> dict:
    out: dict = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
