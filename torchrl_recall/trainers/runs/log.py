"""Log of a run: metrics, a logger, a table and a picture."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from torchrl.record.loggers import get_logger
from tqdm import tqdm

from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.atomic import atomic_file, write_text
from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = ["RunLog", "choose_backend", "installed"]


class RunLog:
    """Metrics of one run: ``metrics.csv``, an optional TorchRL logger, and the terminal.

    Args:
        run_dir: folder of the run.
        total_frames: number of frames of the run, for the progress bar.

    Keyword Args:
        backend: a TorchRL logger, ``"auto"`` or ``"none"``.
        hparams: hyper-parameters for the logger, with dotted keys.
        frames: number of frames after which a resumed run continues. Later rows are dropped,
            because they will be written again.
        wall_seconds: seconds that the run had taken up to there.
    """

    def __init__(
        self,
        run_dir: Path,
        total_frames: int,
        *,
        backend: str = "auto",
        hparams: dict[str, Any] | None = None,
        frames: int = 0,
        wall_seconds: float = 0.0,
    ) -> None:
        self.run_dir = run_dir
        self.path = run_dir / "metrics.csv"
        self.rows = [row for row in self._read() if int(row["frames"]) <= frames]
        self.total_frames = total_frames
        self._start = time.perf_counter() - wall_seconds
        self._bar = tqdm(
            total=total_frames, initial=frames, unit="step", disable=not sys.stderr.isatty()
        )
        backend = choose_backend(backend)
        self._logger = (
            None
            if backend == "none"
            else get_logger(
                backend,
                logger_name=str(run_dir),
                experiment_name="tensorboard" if backend == "tensorboard" else run_dir.name,
            )
        )

        if self._logger is not None and hparams and not frames:
            self._logger.log_hparams({key: _plain(value) for key, value in hparams.items()})

        # Drop what comes after the checkpoint.
        written = list((run_dir / "tensorboard").glob("events*")) if run_dir.exists() else []
        if self._logger is not None and backend == "tensorboard" and (frames or len(written) > 1):
            from torch.utils.tensorboard import SummaryWriter

            folder = str(run_dir / "tensorboard")
            self._logger.experiment.close()
            self._logger.experiment = SummaryWriter(folder, purge_step=frames + 1)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run began, without pauses between a stop and a resumption."""
        return time.perf_counter() - self._start

    def steps_per_second(self, frames: int) -> float:
        """Return frames per second over the whole run, evaluations included."""
        return frames / max(1e-9, self.wall_seconds)

    def progress(self, num_frames: int) -> None:
        """Move the progress bar."""
        self._bar.update(num_frames)

    def write(self, frames: int, metrics: dict[str, float]) -> None:
        """Add a row and show it; an earlier row of as many frames is replaced.

        Args:
            frames: number of frames so far.
            metrics: values of the row by name.
        """
        row = {"frames": frames, "wall_seconds": round(self.wall_seconds, 2), **metrics}
        self.rows = [other for other in self.rows if int(other["frames"]) != frames]
        self.rows.append({key: str(value) for key, value in row.items()})
        if not self.run_dir.exists():
            warnings.warn(
                f"{self.run_dir} was deleted while the run was writing into it; metrics.csv is "
                "written again, earlier checkpoints are gone.",
                stacklevel=2,
            )
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(dict.fromkeys(key for r in self.rows for key in r)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, table.getvalue())
        if self._logger is not None:
            for key, value in metrics.items():
                self._logger.log_scalar(key, value, step=frames)
        speed = self.steps_per_second(frames)
        left = max(0, self.total_frames - frames) / max(1e-9, speed)
        self._bar.clear()
        process.say(
            f"{frames:>9,} / {self.total_frames:,} steps | return {metrics['eval_return']:9.2f} | "
            f"{speed:6.1f} steps/s | {left / 60:5.1f} min left"
        )
        self._bar.refresh()

    def close(self) -> None:
        """Close the progress bar and the logger."""
        self._bar.close()
        if self._logger is not None:
            self._logger.shutdown()
            self._logger = None

    def finish(self, summary: dict) -> None:
        """Write ``summary.json`` and ``curve.png``, and print the table."""
        self.close()
        document = json.dumps(_without_nan(summary), indent=2, allow_nan=False)
        write_text(self.run_dir / "summary.json", document + "\n")
        process.say(f"\n{'steps':>10} {'seconds':>9} {'return':>10}")
        for row in self.rows:
            process.say(
                f"{int(row['frames']):>10,} {float(row['wall_seconds']):>9.1f} "
                f"{float(row['eval_return']):>10.2f}"
            )
        process.say(f"\nsummary: {self.run_dir / 'summary.json'}")
        if installed("matplotlib"):
            process.say(f"picture: {_plot(self.rows, summary, self.run_dir / 'curve.png')}")
        else:
            process.say("no picture: matplotlib is missing, pip install 'torchrl-recall[plots]'")

    def _read(self) -> list[dict[str, str]]:
        """Return the rows of an earlier run; a damaged table is renamed."""
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                int(row["frames"]), float(row["wall_seconds"]), float(row["eval_return"])
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            aside = self.path.with_name("metrics.csv.damaged")
            self.path.replace(aside)
            warnings.warn(
                f"{self.path} is no table of metrics ({type(error).__name__}: {error}); it was "
                f"put aside as {aside.name}, and a new one begins.",
                stacklevel=2,
            )
            return []
        return rows


def choose_backend(name: str) -> str:
    """Return the logger to use; ``auto`` is TensorBoard if it is installed, and none otherwise.

    Args:
        name: ``logger.backend`` of the configuration.

    Returns:
        Name of the logger, or ``"none"``.

    Raises:
        ConfigError: the logger is not installed.
    """
    if name == "auto":
        return "tensorboard" if installed("tensorboard") else "none"
    if name != "none" and not installed(name):
        extra = "plots" if name == "tensorboard" else name
        raise ConfigError(
            f"logger.backend={name} is not installed; pip install 'torchrl-recall[{extra}]', or "
            "use logger.backend=none."
        )
    return name


def _plain(value: Any) -> bool | int | float | str:
    """Convert a value to a type that every logger accepts as a hyper-parameter."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _without_nan(node: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def installed(name: str) -> bool:
    """Return whether an optional library is installed."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # blocked on purpose
        return False


def _plot(rows: list[dict[str, str]], summary: dict, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [int(row["frames"]) for row in rows], [float(row["eval_return"]) for row in rows], "o-"
    )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of the deterministic policy")
    axes.set_title(f"{summary['env']}, recall={summary['recall']}, seed {summary['seed']}")
    axes.grid(alpha=0.3)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=120)
    return path
