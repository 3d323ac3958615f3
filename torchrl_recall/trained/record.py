"""Data sets recorded with a trained policy or random actions, or copied from a replay buffer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import ExplorationType

from torchrl_recall.trained.load import TrainedRun, load_run
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.checkpoints import CheckpointError, sync
from torchrl_recall.trainers.schema import ConfigError, GoalGANRecallConfig, OfflineRecallConfig
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.gym import check_finite
from torchrl_recall.trainers.tasks.step_collector import StepCollector

__all__ = ["ABOUT", "record_run", "write_data_set"]

ABOUT = "about.json"
_KEYS = ("observation", "action", ("next", "observation"), ("next", "reward"))
_FLAGS = (("next", "terminated"), ("next", "done"))
_PATIENCE = 50  # dropped episodes for each kept one, after which recording is given up


def record_run(
    run_dir: str | Path,
    out: str | Path,
    *,
    policy: Literal["trained", "random", "replay"] = "trained",
    frames: int | None = None,
    episodes: int | None = None,
    deterministic: bool = False,
    min_return: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a data set of a run.

    Args:
        run_dir: folder of the run.
        out: folder of the data set, which must not exist.

    Keyword Args:
        policy: source of the data. ``"trained"`` and ``"random"`` record whole episodes with the
            policy of the run or with random actions. ``"replay"`` copies the replay buffer of the
            newest checkpoint.
        frames: smallest number of frames; recording stops at the end of an episode.
        episodes: number of episodes, instead of ``frames``.
        deterministic: whether the policy takes its mean instead of sampling.
        min_return: smallest undiscounted return of a kept episode; None keeps all.
        seed: seed of the task and of all random numbers.

    Returns:
        The content of ``about.json`` in the folder.

    Raises:
        ConfigError: the folder exists, or the run has no such data.
        CheckpointError: no checkpoint is intact, or the disk is full.
    """
    if Path(out).exists():
        raise ConfigError(f"{out} exists. Remove it, or name another folder by out=.")
    if policy == "replay":
        if frames is not None or episodes is not None or min_return is not None:
            raise ConfigError(
                "policy=replay writes all of a run's experience; leave out frames=, episodes= and "
                "min_return=."
            )
    elif (frames is None) == (episodes is None):
        raise ConfigError("give either frames=10000 or episodes=5, the length of the data set.")
    if policy == "replay":
        _refuse_many(Path(run_dir))
    restore = ("host", "replay_buffer", "single") if policy == "replay" else ("host",)
    run = load_run(run_dir, restore=restore)
    if isinstance(run.config, GoalGANRecallConfig):
        raise ConfigError(
            f"{run_dir} is a run of goal_gan_recall.py, whose tasks have many goals; data sets are "
            "of one. Take a run of sac_recall.py, dqn_recall.py, trpo_recall.py or ppo_recall.py."
        )
    if policy == "replay":
        data = _experience(run)
    else:
        data = _episodes(run, policy, frames, episodes, deterministic, min_return, seed)
    about = {
        "task": run.parts.name,
        "policy": policy,
        "run": {"recall": run.config.recall.name, "seed": run.config.seed, "frames": run.frames},
        "seed": seed,
        **_returns(data, begins=policy != "replay" or not _is_overwritten(run)),
        "versions": process.versions(),
    }
    write_data_set(data, Path(out), about)
    return about


def write_data_set(data: TensorDictBase, folder: Path, about: dict[str, Any]) -> None:
    """Write transitions as a TensorDict on disk; the folder gets its name when it is complete.

    Args:
        data: transitions in order of time, shape ``[time]``.
        folder: folder to write, which must not exist.
        about: content of ``about.json``.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    temporary = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        data.cpu().memmap(temporary)
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        os.replace(temporary, folder)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} could not be written: {error}. Make room, or name another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_many(run_dir: Path) -> None:
    """Refuse a run whose replay buffer mixes the rows of several environments."""
    path = run_dir / "config.yaml"
    num = OmegaConf.select(OmegaConf.load(path), "collector.num_envs") if path.is_file() else None
    if num is not None and num > 1:
        raise ConfigError(
            f"the replay buffer of {run_dir} holds steps of {num} environments in turn, whose "
            "episodes policy=replay cannot tell apart. Take a run of collector.num_envs=1, or "
            "policy=trained."
        )


def _is_full(buffer: ReplayBuffer) -> bool:
    return len(buffer) == buffer.storage.max_size


def _is_overwritten(run: TrainedRun) -> bool:
    """Return whether the first rows of the replay buffer are gone; those of a data set are not."""
    is_offline = isinstance(run.config, OfflineRecallConfig)
    return not is_offline and run.frames > run.parts.experience.storage.max_size


def _experience(run: TrainedRun) -> TensorDictBase:
    """Return the rows of the replay buffer, oldest first."""
    buffer = run.parts.experience
    if not len(buffer):
        raise ConfigError(f"the replay buffer of {run.run_dir} is empty; let the run go on.")
    rows = buffer.storage[: len(buffer)]
    steps = rows.get("steps_to_next_obs", None)
    if steps is not None and (steps > 1).any():
        raise ConfigError(
            f"the replay buffer of {run.run_dir} holds transitions of several steps (n_step), and "
            "its run kept no others. Take a run with n_step=1, or of recall=backtracking."
        )
    if _is_full(buffer):
        rows = torch.roll(rows, -int(buffer.writer.state_dict()["_cursor"]), 0)
    return rows.select(*_KEYS, *_FLAGS, "is_init", strict=False).clone()


def _episodes(
    run: TrainedRun,
    policy: str,
    frames: int | None,
    episodes: int | None,
    deterministic: bool,
    min_return: float | None,
    seed: int,
) -> TensorDictBase:
    """Collect whole episodes."""
    env, kept, num_frames, dropped = run.parts.env, list[TensorDictBase](), 0, 0
    kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    act = make_policy(run.policy, kind, compile=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        env.set_seed(seed)
        collector = StepCollector(
            env,
            _random(env) if policy == "random" else _clipped(act, env),
            frames_per_batch=1,
            total_frames=0,
            init_random_frames=0,
        )
        while len(kept) < (episodes or 1) or (frames is not None and num_frames < frames):
            episode = _episode(collector, run)
            if min_return is not None and float(episode["next", "reward"].sum()) < min_return:
                dropped += 1
                if dropped > _PATIENCE * (len(kept) + 1):
                    raise ConfigError(
                        f"{dropped} episodes had a return below min_return={min_return}, and "
                        f"{len(kept)} had not. Lower it, or take a better run."
                    )
                continue
            kept.append(episode)
            num_frames += len(episode)
    return torch.cat(kept)  # type: ignore[return-value]


def _episode(collector: StepCollector, run: TrainedRun) -> TensorDict:
    """Record one episode; if it never ends, it is truncated after the last step."""
    steps, longest = list[TensorDict](), run.config.eval.max_steps  # type: ignore[union-attr]
    while not steps or not (steps[-1]["next", "done"].any() or len(steps) >= longest):
        steps.append(collector.collect())
        check_finite(steps[-1], env_name=run.parts.name, frames=len(steps))
    if not steps[-1]["next", "done"].any():
        collector.begin_episode()  # the next one would begin in the middle of this one
    episode = cast(TensorDict, torch.cat(steps))
    episode["next", "done"][-1] = True
    begins = torch.zeros(len(episode), 1, dtype=torch.bool)
    begins[0] = True
    return episode.set("is_init", begins)


def _random(env: Any) -> Callable[[Tensor], Tensor]:
    return lambda state: env.action_spec_unbatched.rand()


def _clipped(act: Callable[[Tensor], Tensor], env: Any) -> Callable[[Tensor], Tensor]:
    """Clip the actions of a Gaussian policy to the bounds of the task."""
    space = env.action_spec_unbatched.space
    if not hasattr(space, "low"):
        return act
    return lambda state: torch.clamp(act(state), space.low, space.high)


def _returns(data: TensorDictBase, *, begins: bool = True) -> dict[str, Any]:
    """Describe the whole episodes in transitions in order of time.

    Unless an episode ``begins`` the data, the rest of one that was overwritten does not count. An
    episode that a resumed run did not finish does not count either; ``is_init`` marks the next.
    """
    done, reward = (data["next", key].flatten() for key in ("done", "reward"))
    ends = done.nonzero().squeeze(-1) + 1
    starts = torch.cat([ends.new_zeros(min(1, len(ends))), ends[:-1]])
    if "is_init" in data.keys():  # noqa: SIM118
        resets = torch.cat([ends.new_full((1,), -1), data["is_init"].flatten().nonzero()[:, 0]])
        last = resets[torch.searchsorted(resets, ends) - 1]  # the last reset before each end
        whole = last >= starts
        starts, ends = last[whole], ends[whole]
    elif not begins:
        starts, ends = starts[1:], ends[1:]
    totals = [float(reward[a:b].sum()) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    mean = sum(totals) / len(totals) if totals else None
    return {"frames": len(data), "episodes": len(totals), "mean_return": mean}
