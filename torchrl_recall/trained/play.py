"""Play a trained policy: returns of whole episodes, and a video of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from torch import Tensor

from torchrl_recall.checks import at_least
from torchrl_recall.trained.load import TrainedRun, load_run
from torchrl_recall.trainers.runs.atomic import atomic_file, check_writable
from torchrl_recall.trainers.schema import ConfigError, GoalGANRecallConfig

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Video", "check_video", "play", "renderer"]


def play(
    run_dir: str | Path, *, episodes: int = 10, seed: int = 0, video: str | Path | None = None
) -> tuple[TrainedRun, Tensor]:
    """Evaluate the deterministic policy of a run, and film its episodes if asked.

    Args:
        run_dir: folder of the run.

    Keyword Args:
        episodes: number of episodes.
        seed: seed of the task at its first episode, and of goals if the task has goals.
        video: file for a video of all episodes, ``.mp4`` or ``.gif``; None makes no video.

    Returns:
        The run, and the undiscounted return of each episode, shape ``[episodes]``. In a task with
        goals the return is one if the goal was reached, and zero otherwise.

    Raises:
        ConfigError: the folder has no run, or no video can be made of this task or on this machine.
        CheckpointError: no checkpoint is intact.
        ValueError: a number is out of its range.
    """
    at_least(0, seed=seed)
    at_least(1, episodes=episodes)
    if video is not None:
        check_video(Path(video))
    run = load_run(run_dir, episodes=episodes)
    if isinstance(run.config, GoalGANRecallConfig):
        return run, _reach_goals(run, run.config, episodes, seed, video)
    evaluation: Any = run.parts.evaluation  # MeanReturn
    evaluation.seed = seed
    if video is None:
        return run, evaluation.evaluate()
    with atomic_file(Path(video)) as partial, Video(partial) as pictures:
        with renderer():
            evaluation.watch(pictures.watch)
        return run, evaluation.evaluate()


def _reach_goals(
    run: TrainedRun,
    config: GoalGANRecallConfig,
    episodes: int,
    seed: int,
    video: str | Path | None,
) -> Tensor:
    """Play one episode for each of some uniformly drawn goals."""
    from torchrl_recall.trainers.tasks.coverage import Coverage
    from torchrl_recall.trainers.tasks.goals import make_goal_env

    if video is not None:
        raise ConfigError(
            f"video={video}: tasks of goal_gan_recall.py are batches of states, which are not "
            "drawn. Leave video= out; the run's folder has maps of the goals that it reached."
        )
    env = make_goal_env(config, episodes)
    goals = env.sample_goals(episodes, generator=torch.Generator().manual_seed(seed))
    return Coverage(env, run.policy, goals, config).evaluate().double()


class Video:
    """Video file that is written picture by picture.

    Pillow writes a GIF. Other formats need imageio-ffmpeg.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._writer is not None:
            self._writer.close()

    def watch(self, task: gymnasium.Env) -> gymnasium.Env:
        """Wrap a task, so that each of its states becomes a picture of the video.

        Args:
            task: a task with ``render_mode="rgb_array"``.

        Returns:
            The wrapped task.
        """
        import imageio

        fps = task.metadata.get("render_fps", 30)
        gif = {"duration": 1000 / fps, "loop": 0}  # Pillow counts milliseconds
        options = gif if self.path.suffix == ".gif" else {"fps": fps}
        self._writer = imageio.get_writer(self.path, **options)
        return _Watched(task, self)

    def add(self, picture: np.ndarray) -> None:
        """Add a picture.

        Args:
            picture: an image, uint8, shape ``[height, width, 3]``.
        """
        self._writer.append_data(picture)


class _Watched(gymnasium.Wrapper):
    """Wrapper that adds a picture to a video after each reset and each step."""

    def __init__(self, task: gymnasium.Env, video: Video) -> None:
        super().__init__(task)
        self.video = video

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        found = self.env.reset(**kwargs)
        self._take()
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        found = self.env.step(action)
        self._take()
        return found

    def _take(self) -> None:
        with renderer():
            picture: Any = self.env.render()
        self.video.add(picture)


def check_video(path: Path) -> None:
    """Refuse a video that could not be written, before any work is done.

    Args:
        path: the video file.

    Raises:
        ConfigError: the format is unknown, the folder is none, or a library that writes it is
            missing.
    """
    from torchrl_recall.trainers.runs.log import installed

    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"video={path} must end in .mp4 or .gif.")
    check_writable("video", path)
    needed = ["imageio", "PIL" if path.suffix == ".gif" else "imageio_ffmpeg"]
    if missing := [name for name in needed if not installed(name)]:
        gif = f", or take video={path.with_suffix('.gif')}" if "PIL" not in missing else ""
        raise ConfigError(
            f"video={path} needs {', '.join(missing)}: pip install 'torchrl-recall[video]'{gif}."
        )


@contextmanager
def renderer() -> Iterator[None]:
    """Context in which MuJoCo's tasks draw without a screen, if the machine can.

    Yields:
        Nothing.

    Raises:
        ConfigError: the machine cannot draw the task; the message names the cure.
    """
    if not {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ) and os.name == "posix":
        os.environ["MUJOCO_GL"] = "egl" if os.uname().sysname == "Linux" else "cgl"
    try:
        yield
    except NotImplementedError as error:
        raise ConfigError(f"the task cannot be drawn: it has no render() ({error}).") from error
    except (ImportError, RuntimeError, AttributeError, gymnasium.error.Error) as error:
        chosen = os.environ.get("MUJOCO_GL")
        raise ConfigError(
            f"the task could not be drawn ({type(error).__name__}: {str(error)[:200]}) by "
            f"MUJOCO_GL={chosen}. On a machine without a screen set MUJOCO_GL=egl (Debian: apt "
            "install libegl1), or MUJOCO_GL=osmesa; for classic tasks pip install pygame."
        ) from error
