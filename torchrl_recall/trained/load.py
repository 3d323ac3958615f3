"""Loading of policies and models from run folders."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tensordict.nn import TensorDictModuleBase
from yaml import YAMLError

from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.offline import OfflineRecall
from torchrl_recall.recall import Recall

if TYPE_CHECKING:
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.runs.run import OneSeedConfig

__all__ = ["TrainedRun", "load_backtracking_model", "load_policy", "load_run"]

# For each recipe: a group of keys that tells it, its module, and its configuration. The Goal GAN
# comes first, because it also has the groups of its two hosts.
_RECIPES = {
    "goal_gan": ("goal_gan_recall", "GoalGANRecallConfig"),
    "iql": ("offline_recall", "OfflineRecallConfig"),
    "sac": ("sac_recall", "SACRecallConfig"),
    "dqn": ("dqn_recall", "DQNRecallConfig"),
    "trpo": ("trpo_recall", "TRPORecallConfig"),
    "ppo": ("trpo_recall", "PPORecallConfig"),
}


@dataclass(frozen=True)
class TrainedRun:
    """Parts of a run, restored from its newest intact checkpoint.

    Attributes:
        run_dir: folder of the run.
        config: configuration of the run.
        parts: parts that the recipe builds.
        frames: number of frames after which the checkpoint was written.
        state: content of the checkpoint.
    """

    run_dir: Path
    config: OneSeedConfig
    parts: Parts
    frames: int
    state: dict[str, Any]

    @property
    def policy(self) -> TensorDictModuleBase:
        """The actor."""
        return self.parts.host.actor.eval()

    @property
    def backtracking_model(self) -> BacktrackingModel | None:
        """The backtracking model of recall; None if the run was of a control."""
        if self.config.recall.method != "recall":
            return None
        assert isinstance(self.parts.recall, Recall | OfflineRecall)
        return self.parts.recall.model.eval()

    def needs_model(self) -> BacktrackingModel:
        """Return the backtracking model of recall.

        Returns:
            The model.

        Raises:
            ConfigError: the run has no backtracking model.
        """
        from torchrl_recall.trainers.schema import ConfigError

        if (model := self.backtracking_model) is None:
            raise ConfigError(
                f"the run in {self.run_dir} has no backtracking model: it ran "
                f"recall={self.config.recall.name}. Take a run of recall=backtracking, imitation "
                "or paper."
            )
        return model


def load_policy(run_dir: str | Path, *, device: str | torch.device = "cpu") -> TensorDictModuleBase:
    """Load the policy of a finished or stopped run, from its newest intact checkpoint.

    The policy is deterministic by default: a Gaussian policy returns its mean. It samples under
    TorchRL's ``set_exploration_type(ExplorationType.RANDOM)``. The policies of ``host=td3`` and of
    ``dqn_recall.py`` are always deterministic, because their noise belongs to training. Clip the
    actions of TRPO and PPO to the bounds of the action, as their recipes do.

    Args:
        run_dir: folder of the run.

    Keyword Args:
        device: device of the networks.

    Returns:
        A module that reads ``observation`` and writes ``action``. In a run of
        ``goal_gan_recall.py`` it also reads ``desired_goal``.

    Raises:
        ConfigError: the folder has no run, or the policy of its recipe does not act on single
            observations.
        CheckpointError: no checkpoint is intact.

    Examples:
        After ``python recipes/sac_recall.py env.name=Hopper-v5 run_dir=runs/hopper``:

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import load_policy
        >>> policy = load_policy("runs/hopper")  # doctest: +SKIP
        >>> states = TensorDict({"observation": torch.zeros(5, 11)}, [5])
        >>> policy(states)["action"].shape  # doctest: +SKIP
        torch.Size([5, 3])
    """
    return load_run(run_dir, device=device).policy


def load_backtracking_model(
    run_dir: str | Path, *, device: str | torch.device = "cpu"
) -> BacktrackingModel:
    """Load the backtracking model of a finished or stopped run, from its newest intact checkpoint.

    Args:
        run_dir: folder of the run.

    Keyword Args:
        device: device of the networks.

    Returns:
        The model.

    Raises:
        ConfigError: the folder has no run, or the run has no backtracking model.
        CheckpointError: no checkpoint is intact.

    Examples:
        Traces to states that are known to be good:

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import RecallTraceGenerator, load_backtracking_model
        >>> model = load_backtracking_model("runs/hopper")  # doctest: +SKIP
        >>> end_states = TensorDict({"observation": torch.zeros(5, 11)}, [5])
        >>> generate = RecallTraceGenerator(model, trace_length=20)  # doctest: +SKIP
        >>> generate(end_states)["action"].shape  # doctest: +SKIP
        torch.Size([5, 20, 3])
    """
    return load_run(run_dir, device=device, restore=("host", "recall")).needs_model()


def load_run(
    run_dir: str | Path,
    *,
    device: str | torch.device = "cpu",
    restore: Sequence[str] | None = ("host",),
    episodes: int | None = None,
) -> TrainedRun:
    """Build the parts of a run as its recipe does, and restore their state.

    The state of torch's random numbers does not change.

    Args:
        run_dir: folder of the run.

    Keyword Args:
        device: device of the networks.
        restore: names of the parts whose state is restored; None restores all of them.
        episodes: number of episodes of an evaluation; as in the run by default.

    Returns:
        The restored run.

    Raises:
        ConfigError: the folder has no run, the device does not exist, or the policy of its recipe
            does not act on single observations.
        CheckpointError: no checkpoint is intact.
    """
    from torchrl_recall.trainers.runs.process import quiet, resolve_device
    from torchrl_recall.trainers.runs.resumption import check_config
    from torchrl_recall.trainers.schema import ConfigError

    run_dir, device = Path(run_dir), resolve_device(device)
    config, build = _read_config(run_dir)
    frames, state = _read_checkpoint(run_dir)
    check_config(config.model_dump(), state["config"], run_dir)
    quiet()
    if getattr(config.recall, "audit", None) == "auto":
        config.recall.audit = 0  # nothing is logged
    config.compile = False  # weights stay the same, and compiling a few calls would be slower
    if hasattr(config.recall, "demonstrations"):
        config.recall.demonstrations = None  # the file may be gone; trained weights are restored
    if isinstance(state["recall"], dict):
        state["recall"].pop("demonstrations", None)
    if hasattr(config.collector, "num_envs"):
        config.collector.num_envs = 1  # nothing is collected
    if hasattr(config.collector, "backend"):
        config.collector.backend = None
    restores_data = restore is None or "replay_buffer" in restore
    if hasattr(config, "data_set") and not restores_data and not Path(config.data_set).exists():
        config.data_set = ""  # the folder may be gone; trained weights are restored
    if episodes is not None and hasattr(config.eval, "num_episodes"):
        config.eval.num_episodes = episodes
    with torch.random.fork_rng():
        parts = build(config, device)
    parts.collector.shutdown()
    try:
        for name, part in parts.stateful().items():
            if restore is None or name in restore:
                part.load_state_dict(state[name])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"the checkpoint in {run_dir} does not fit what its recipe builds ({reason}). Take the "
            f"versions that it was written with: {dict(state['versions'])}."
        ) from error
    return TrainedRun(run_dir, config, parts, frames, state)


def _read_config(run_dir: Path) -> tuple[OneSeedConfig, Any]:
    """Read the configuration of a run; return it with the function that builds its parts."""
    from torchrl_recall.trainers import schema

    path = run_dir / "config.yaml"
    if not path.is_file():
        raise schema.ConfigError(
            f"{run_dir} is no folder of a run: it has no config.yaml. Give the run_dir of a recipe."
        )
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise ValueError("it holds no keys")
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise schema.ConfigError(
            f"{path} cannot be read ({str(error).splitlines()[0]}). Resume the run with its "
            "overrides and resume=auto, which writes it again."
        ) from error
    if "a2c" in config:
        raise schema.ConfigError(
            f"{run_dir} is a run of a2c_recall.py, which trains tables of many seeds at once: it "
            "has no policy of single observations. Its exact returns are in returns.csv; "
            "dqn_recall.py env.name=torchrl_recall/FourRooms-v0 trains a policy of the same rooms."
        )
    key = next((key for key in _RECIPES if key in config), None)
    if key is None:
        raise schema.ConfigError(
            f"{path} is the configuration of no recipe: it has none of the groups "
            f"{', '.join(_RECIPES)}. Give the run_dir of a recipe."
        )
    module, name = _RECIPES[key]
    build = importlib.import_module(f"torchrl_recall.recipes.{module}").build
    return schema.validate(config, getattr(schema, name)), build


def _read_checkpoint(run_dir: Path) -> tuple[int, dict[str, Any]]:
    from torchrl_recall.trainers.runs import checkpoints
    from torchrl_recall.trainers.schema import ConfigError

    try:
        found = checkpoints.load_latest(run_dir / "checkpoints")
    except OSError as error:  # a run that continues has just deleted the file
        raise checkpoints.CheckpointError(
            f"a checkpoint in {run_dir} vanished while it was read ({error}). Try again."
        ) from error
    if found is None:
        raise ConfigError(
            f"the run in {run_dir} has no checkpoint yet. Let it reach checkpoint.interval, or "
            "stop it by Ctrl-C, which saves first."
        )
    return found
