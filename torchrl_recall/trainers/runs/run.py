"""A run in its folder: counts of frames, resumption, checkpoints, log and summary."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TypeVar

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tensordict import TensorDictBase
from torch import Tensor
from yaml import YAMLError

from torchrl_recall.trainers.runs import checkpoints, job, process
from torchrl_recall.trainers.runs.atomic import write_text
from torchrl_recall.trainers.runs.log import RunLog, choose_backend
from torchrl_recall.trainers.runs.parts import Parts
from torchrl_recall.trainers.runs.profile import Profile
from torchrl_recall.trainers.runs.resumption import check_config, command, flat
from torchrl_recall.trainers.runs.run_dirs import settle
from torchrl_recall.trainers.schema import (
    A2CRecallConfig,
    ConfigError,
    DQNRecallConfig,
    GoalGANRecallConfig,
    OfflineRecallConfig,
    OnPolicyRecallConfig,
    SACRecallConfig,
)
from torchrl_recall.trainers.tasks.gym import DivergenceError, check_finite

__all__ = ["Run"]

OneSeedConfig = (
    SACRecallConfig
    | DQNRecallConfig
    | OnPolicyRecallConfig
    | GoalGANRecallConfig
    | OfflineRecallConfig
)
Config = OneSeedConfig | A2CRecallConfig
PartsT = TypeVar("PartsT", bound=Parts)

_RATES = "optim.lr, recall.lr or backtracking.lr"  # usual causes of diverging weights


class Run:
    """Context of a recipe's loop.

    Use it as a recipe does::

        with Run(config) as run:
            parts = run.resume(build(config, run.device))
            for data in run.frames_from(parts.collector):
                run.metrics |= learn(parts, data, config, run.frames)
        return run

    Entering the context sets threads, seed and precision of the process. :meth:`resume` locks the
    folder and restores the parts. :meth:`frames_from` checks and counts frames. After each pass of
    the loop it evaluates, logs, saves and stops if needed. At the end it writes the summary.

    Args:
        config: configuration of the recipe. If ``compile`` is None, the run chooses its value.

    Attributes:
        device: device on which networks are built.
        frames: number of frames so far.
        metrics: latest values of all metrics, for the log.
        status: exit status: zero, or 128 + n if signal n stopped the run.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.run_dir = config, settle(config)
        config.run_dir = str(self.run_dir)
        self.num_seeds = len(config.seeds) if isinstance(config, A2CRecallConfig) else 1
        self.device = torch.device("cpu")
        self.frames = self._previous_frames = self.status = 0
        self.metrics: dict[str, float | Tensor] = {}
        self.profile: Profile | None = None
        self._stack = ExitStack()
        self._state_is_good = False  # whether the loop has finished the last batch
        self._episode_is_good, self._resumed = True, False
        self._total_frames = [config.collector.total_frames]  # of a prolonged run, all in turn

    def __enter__(self) -> Run:
        process.quiet()
        choose_backend(self.config.logger.backend)  # before anything is written
        torch.set_num_threads(self.config.torch_threads)
        if not isinstance(self.config, A2CRecallConfig):  # its seeds have their own generators
            self._decide_compile(self.config)
            self.device = process.resolve_device(self.config.device)
            torch.manual_seed(self.config.seed)
        if isinstance(self.config, SACRecallConfig):
            torch.set_float32_matmul_precision(self.config.matmul_precision)
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        with self._stack:
            if kind is process.StopNow:
                self._stop("before the first step; begin again with:")
                return True
            is_good = self._state_is_good and kind is not DivergenceError
            if kind is not None and is_good and issubclass(kind, Exception):
                self._episode_is_good = False  # the error came after the last good state
                self.save()
                process.say(f"\nsaved at {self.frames:,} steps; go on with:")
                process.say(command(self.run_dir, self.config.collector.total_frames))
        return False

    def resume(self, parts: PartsT) -> PartsT:
        """Lock the run's folder, and restore the parts from its newest intact checkpoint.

        Args:
            parts: newly built parts.

        Returns:
            The same parts.

        Raises:
            ConfigError: the folder is in use, holds another run or cannot be written.
        """
        self.parts = parts
        parts.evaluation.is_stopped = lambda: self.stopped
        config = self.config.model_dump()
        with ExitStack() as stack:  # undone if anything below fails, else kept until __exit__
            stack.callback(parts.collector.shutdown)
            stack.enter_context(process.lock(self.run_dir))
            self._signal = process.StopSignal(is_worker=not job.is_alone())
            stack.callback(self._signal.restore)
            wall_seconds = self._restore()
            try:
                (self.run_dir / "summary.json").unlink(missing_ok=True)  # of an earlier end
                write_text(self.run_dir / "config.yaml", OmegaConf.to_yaml(config))
                self.log_file = RunLog(
                    self.run_dir,
                    self.config.collector.total_frames,
                    backend=self.config.logger.backend,
                    hparams=flat(config),
                    frames=self.frames,
                    wall_seconds=wall_seconds,
                )
            except OSError as error:
                raise ConfigError(
                    f"run_dir={self.run_dir} cannot be written into: {error}. Make room, or "
                    "choose another run_dir."
                ) from error
            stack.callback(self.log_file.close)
            self._stack = stack.pop_all()
        # Models that learn from a data set before the first step take minutes.
        self._signal.at_once = isinstance(self.config, OfflineRecallConfig) and not self.frames
        if getattr(self.config, "profile", False):
            self.profile = Profile(self, parts)
        return parts

    def frames_from(self, collector: Iterable[TensorDictBase]) -> Iterator[TensorDictBase]:
        """Yield batches of frames (Alg. 1, line 4); evaluate, log and save after each.

        Args:
            collector: source of frames.

        Yields:
            Batches of frames.
        """
        if self._resumed:
            self._make_up_for_evaluation()
        batches = iter(collector)
        reached = self.parts.evaluation.reached_target  # in an earlier part of a resumed run
        while not reached and (data := self._next(batches)) is not None:
            check_finite(data, env_name=self.parts.name, frames=self.frames)
            self._state_is_good = False
            yield data
            self.advance(data.numel() // self.num_seeds)
            self._state_is_good = True
            if self._due(self.config.eval.interval):
                self._evaluate()
                if self.parts.evaluation.reached_target:
                    self.save()
                    break
            if self.stopped:
                return self._save_and_stop()
            if self._due(self.config.checkpoint.interval):
                self.save()
        if self.stopped:
            return self._save_and_stop()
        self._finish()

    def _make_up_for_evaluation(self) -> None:
        """Evaluate at once if a signal cut the last evaluation short, and save that."""
        evaluated = self.parts.evaluation.frames
        last = evaluated[-1] if evaluated else 0
        if last < self.frames:
            self._previous_frames, previous = last, self._previous_frames
            if self._due(self.config.eval.interval):
                self._evaluate()
                self.save()
            self._previous_frames = previous

    @property
    def stopped(self) -> bool:
        """Whether a signal asks the run to stop."""
        return self._signal.received is not None

    @property
    def signalled(self) -> int:
        """Return 128 + n if signal n came, also after the last batch; else zero."""
        return 128 + self._signal.received if self._signal.received else 0

    def _next(self, batches: Iterator[TensorDictBase]) -> TensorDictBase | None:
        """Collect the next batch; None at the end, or if a signal killed the collector."""
        self._state_is_good = True
        try:
            return next(batches, None)
        except Exception as error:
            if self.stopped:  # a scheduler signals the environments' processes too
                self._episode_is_good = False
                return None
            error.add_note(f"{self.parts.name} failed within the steps after step {self.frames:,}.")
            raise

    @property
    def final_return(self) -> float | None:
        """Return the mean return of the last evaluation."""
        results = self.parts.evaluation.results
        return float(results[-1].double().mean()) if results else None

    def advance(self, num_frames: int) -> None:
        """Count frames."""
        self._signal.at_once = False
        self._previous_frames = self.frames
        self.frames += num_frames
        self.log_file.progress(num_frames)
        if self.profile is not None:
            self.profile.end_pass(num_frames)

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "config": self.config.model_dump(),
            "versions": process.versions(),
            "frames": self.frames,
            "total_frames": self._total_frames,
            "wall_seconds": self.log_file.wall_seconds,
            "metrics": {k: float(v) for k, v in self.metrics.items()},
            **{name: part.state_dict() for name, part in self.parts.stateful().items()},
            "collector": self.parts.collector.state_dict() if self._episode_is_good else None,
            "rng": process.rng_state_dict(),
        }
        keep = self.config.checkpoint.keep
        checkpoints.save(self.run_dir / "checkpoints", self.frames, state, keep=keep)

    def _decide_compile(self, config: OneSeedConfig) -> None:
        """Choose the value of ``compile=null`` as before in a resumed run, else by its frames.

        A prolonged run must not change from eager to compiled, because the two round differently.
        """
        if config.compile is not None:
            return
        saved = self.run_dir / "config.yaml"
        if config.resume == "auto" and saved.exists():
            try:
                config.compile = OmegaConf.select(OmegaConf.load(saved), "compile")
            except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(
                    f"{saved} cannot be read ({reason}), so it is not known whether the run was "
                    "compiled. Say so with compile=true or compile=false."
                ) from error
        if config.compile is None:
            config.compile = config.collector.total_frames >= config.compile_from_frames

    def _due(self, interval: int) -> bool:
        """Return whether a multiple of the interval was just passed, or the run has ended."""
        if self.frames >= self.config.collector.total_frames:
            return True
        return interval > 0 and self.frames // interval > self._previous_frames // interval

    def _evaluate(self) -> None:
        """Evaluate, and write a row: mean return, spread, then the latest metrics."""
        try:
            returns = self.parts.evaluation(self.frames)
        except Exception as error:
            error.add_note(f"{self.parts.name} failed in the evaluation after step {self.frames:,}")
            raise
        if self.stopped and not len(returns):  # the evaluation was cut short
            return
        if not returns.isfinite().all():
            self._state_is_good = False
            raise DivergenceError(
                f"the evaluation after {self.frames:,} steps returned {returns.tolist()}: weights "
                f"or rewards are no longer numbers. Lower {_RATES}, or mend the task's rewards."
            )
        if self._due(self.config.log_interval) or self.parts.evaluation.reached_target:
            self.metrics |= self.parts.evaluation.metrics()
            if self.parts.audit is not None:
                self.metrics |= self.parts.audit()
            array = returns.double().numpy()
            statistics = {"eval_return": np.mean(array), "eval_return_std": np.std(array)}
            row = {**statistics, **self.metrics}
            self.log_file.write(self.frames, {k: float(v) for k, v in row.items()})

    def _save_and_stop(self) -> None:
        self.save()
        self._stop(f"at {self.frames:,} steps; go on with:")

    def _stop(self, where: str) -> None:
        received = self._signal.received
        assert received is not None
        process.say(f"\nstopped by {received.name} {where}")
        process.say(command(self.run_dir, self.config.collector.total_frames))
        self.status = 128 + received

    def _finish(self) -> None:
        """Write the summary and the picture, and print the table."""
        more = self.parts.evaluation.finish(self.run_dir)
        config = self.config
        summary = {
            "env": self.parts.name,
            "seed": config.seeds if isinstance(config, A2CRecallConfig) else config.seed,
            "recall": config.recall.name,
            "frames": self.frames,
            "total_frames": self._total_frames,
            **more,
            "final_eval_return": self.final_return,
            "steps_per_second": round(self.log_file.steps_per_second(self.frames), 2),
            "wall_seconds": round(self.log_file.wall_seconds, 2),
            "versions": process.versions(),
            "weights_sha256": process.weights_sha256(*(m.state_dict() for m in self.parts.weights)),
        }
        self.log_file.finish(summary)
        ended = self.parts.evaluation.reached_target
        going_on = command(self.run_dir, 2 * self.frames, without_target=ended)
        process.say(f"to go on: {going_on}")
        if self.profile is not None:
            process.say(f"\n{self.profile.table()}")

    def _restore(self) -> float:
        """Load the newest good checkpoint if asked to; return the seconds already spent."""
        directory = self.run_dir / "checkpoints"
        checkpoints.clean(directory)
        if self.config.resume == "never":
            if directory.exists() or (self.run_dir / "metrics.csv").exists():
                raise ConfigError(
                    f"run_dir={self.run_dir} already holds a run. Go on with it by resume=auto, "
                    "or choose another run_dir."
                )
            return 0.0
        found = checkpoints.load_latest(directory)
        if found is None:
            if (self.run_dir / "summary.json").exists():
                raise ConfigError(
                    f"the run in {self.run_dir} has ended, and its checkpoints are gone, so it "
                    "cannot go on. Choose another run_dir."
                )
            return 0.0
        self.frames, state = found
        self._previous_frames = self.frames
        check_config(self.config.model_dump(), state["config"], self.run_dir)
        if state["versions"] != process.versions():
            warnings.warn(
                f"the checkpoint was written with {state['versions']}; with other versions the "
                "resumed run is not bitwise the uninterrupted one.",
                stacklevel=2,
            )
        for name, part in self.parts.stateful().items():
            part.load_state_dict(state[name])
        self.metrics = dict(state["metrics"])
        before = state.get("total_frames", [state["config"]["collector"]["total_frames"]])
        changed = before[-1] != self._total_frames[0]
        self._total_frames = [*before, *self._total_frames] if changed else list(before)
        if not self.parts.collector.load_state_dict(state["collector"], self.frames):
            self.parts.drop_unfinished()
        process.set_rng_state_dict(state["rng"])
        self._resumed = True
        process.say(f"resumed at {self.frames:,} steps from {directory}")
        return state["wall_seconds"]
