"""Data sets recorded with a trained policy or random actions, or copied from a replay buffer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import ExplorationType

from torchrl_recall.checks import at_least
from torchrl_recall.trained.load import TrainedRun, load_run
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.atomic import atomic_folder, check_writable
from torchrl_recall.trainers.schema import ConfigError, GoalGANRecallConfig, OfflineRecallConfig
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.gym import check_finite
from torchrl_recall.trainers.tasks.gym_task import longest_episode
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
        ConfigError: the folder exists, the run has no such data, or an option has no effect.
        ValueError: a number is out of its range, or there is no such policy.
        CheckpointError: no checkpoint is intact, or the disk is full.
    """
    at_least(0, seed=seed)
    at_least(
        1, frames=1 if frames is None else frames, episodes=1 if episodes is None else episodes
    )
    if policy not in ("trained", "random", "replay"):
        raise ValueError(f"policy must be 'trained', 'random' or 'replay', got {policy!r}.")
    if Path(out).exists():
        raise ConfigError(f"{out} exists. Remove it, or name another folder by out=.")
    check_writable("out", Path(out))
    if policy == "replay":
        if frames is not None or episodes is not None or min_return is not None or seed:
            raise ConfigError(
                "policy=replay writes all of a run's experience; leave out frames=, episodes=, "
                "min_return= and seed=."
            )
    elif (frames is None) == (episodes is None):
        raise ConfigError("give either frames=10000 or episodes=5, the length of the data set.")
    if policy != "trained" and deterministic:
        raise ConfigError(f"deterministic=true is of policy=trained; leave it out of {policy=}.")
    if policy == "replay":
        _refuse_many(Path(run_dir))
    restore = ("host", "replay_buffer", "single") if policy == "replay" else ("host",)
    run = load_run(run_dir, restore=restore)
    if isinstance(run.config, GoalGANRecallConfig):
        raise ConfigError(
            f"{run_dir} is a run of goal_gan_recall.py, whose tasks have many goals; data sets are "
            "of one. Take a run of sac_recall.py, dqn_recall.py, trpo_recall.py or ppo_recall.py."
        )
    num_cut = 0
    if policy == "replay":
        data = _experience(run)
    else:
        data, num_cut = _episodes(run, policy, frames, episodes, deterministic, min_return, seed)
    about = {
        "task": run.parts.name,
        "policy": policy,
        "run": {"recall": run.config.recall.name, "seed": run.config.seed, "frames": run.frames},
        "seed": seed,
        **_returns(data),
        "cut_episodes": num_cut,
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
    with atomic_folder(folder) as partial:
        data.cpu().memmap(partial)
        (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


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
    """Return the rows of the replay buffer, oldest first, with ``is_init``.

    An episode that a resumed run did not finish is followed by a state that is not its next.
    """
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
    rows = rows.select(*_KEYS, *_FLAGS, strict=False).clone()
    done, follows = rows["next", "done"].flatten(), rows["next", "observation"][:-1]
    breaks = (follows != rows["observation"][1:]).flatten(1).any(1)
    begins = torch.cat([torch.tensor([not _is_overwritten(run)]), (done[:-1] | breaks).cpu()])
    return rows.set("is_init", begins.to(done.device).unsqueeze(-1))


def _episodes(
    run: TrainedRun,
    policy: str,
    frames: int | None,
    episodes: int | None,
    deterministic: bool,
    min_return: float | None,
    seed: int,
) -> tuple[TensorDictBase, int]:
    """Collect whole episodes; return them with the number that never ended, and were cut."""
    env, kept, num_frames, dropped = run.parts.env, list[TensorDictBase](), 0, 0
    num_cut, limit = 0, longest_episode(env.base_env._env)
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
            episode, is_cut = _episode(collector, run, limit)
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
            num_cut += is_cut
    if num_cut:
        warnings.warn(
            f"{num_cut} of {len(kept)} episodes did not end within the run's eval.max_steps="
            f"{run.config.eval.max_steps} and were cut there.",  # type: ignore[union-attr]
            stacklevel=3,
        )
    return torch.cat(kept), num_cut  # type: ignore[return-value]


def _episode(
    collector: StepCollector, run: TrainedRun, limit: int | None
) -> tuple[TensorDict, bool]:
    """Record one episode; without a time limit of the task it may have to be cut."""
    longest = limit or run.config.eval.max_steps  # type: ignore[union-attr]
    steps = list[TensorDict]()
    while not steps or not (steps[-1]["next", "done"].any() or len(steps) >= longest):
        steps.append(collector.collect())
        check_finite(steps[-1], env_name=run.parts.name, frames=len(steps))
    is_cut = not steps[-1]["next", "done"].any()
    if is_cut:
        collector.begin_episode()  # the next one would begin in the middle of this one
    episode = cast(TensorDict, torch.cat(steps))
    episode["next", "done"][-1] = True
    begins = torch.zeros(len(episode), 1, dtype=torch.bool)
    begins[0] = True
    return episode.set("is_init", begins), is_cut


def _random(env: Any) -> Callable[[Tensor], Tensor]:
    return lambda state: env.action_spec_unbatched.rand()


def _clipped(act: Callable[[Tensor], Tensor], env: Any) -> Callable[[Tensor], Tensor]:
    """Clip the actions of a Gaussian policy to the bounds of the task."""
    space = env.action_spec_unbatched.space
    if not hasattr(space, "low"):
        return act
    return lambda state: torch.clamp(act(state), space.low, space.high)


def _returns(data: TensorDictBase) -> dict[str, Any]:
    """Describe the whole episodes in transitions in order of time.

    The rest of an episode whose first steps were overwritten does not count, and neither does one
    that a resumed run did not finish: each begins where ``is_init`` is set.
    """
    done, reward = (data["next", key].flatten() for key in ("done", "reward"))
    ends = done.nonzero().squeeze(-1) + 1
    starts = torch.cat([ends.new_zeros(min(1, len(ends))), ends[:-1]])
    resets = torch.cat([ends.new_full((1,), -1), data["is_init"].flatten().nonzero()[:, 0]])
    last = resets[torch.searchsorted(resets, ends) - 1]  # the last reset before each end
    whole = last >= starts
    starts, ends = last[whole], ends[whole]
    totals = [float(reward[a:b].sum()) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    mean = sum(totals) / len(totals) if totals else None
    return {"frames": len(data), "episodes": len(totals), "mean_return": mean}
