"""Policy and model loaded from an exported folder, without pickle and without the task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl_recall.modules.backtracking_model import BacktrackingModel

__all__ = ["CONFIG", "FORMAT", "MODEL", "POLICY", "README", "Pretrained", "from_pretrained"]

FORMAT = "torchrl_recall pretrained 1"
CONFIG, README = "config.json", "README.md"
POLICY, MODEL = "policy.safetensors", "backtracking_model.safetensors"
_KEYS = {"format", "observation", "action", "policy", "backtracking_model", "sha256", "run"}
_CURE = "Export the run again: python -m torchrl_recall.export RUN FOLDER."


@dataclass(frozen=True)
class Pretrained:
    """Policy and model that a run has learned.

    Attributes:
        policy: module that reads observations and writes ``action``.
        backtracking_model: q(s_t, a_t | s_{t+1}); None if the run had no model.
        run: description of the run: task, recipe, seed, frames, returns and versions.

    Examples:
        >>> from tensordict.nn import TensorDictModule
        >>> from torch import nn
        >>> from torchrl_recall.trained.pretrained import Pretrained
        >>> policy = TensorDictModule(nn.Linear(11, 3), ["observation"], ["action"])
        >>> Pretrained(policy, None, {"task": "Hopper-v5"}).run["task"]
        'Hopper-v5'
    """

    policy: TensorDictModuleBase
    backtracking_model: BacktrackingModel | None
    run: dict[str, Any]


def from_pretrained(folder: str | Path, *, device: str | torch.device = "cpu") -> Pretrained:
    """Load policy and backtracking model from a folder that ``torchrl_recall.export`` wrote.

    The task need not be installed. Nothing is unpickled, and weights are checked by a SHA-256
    digest. The state of torch's random numbers does not change.

    Args:
        folder: the exported folder.

    Keyword Args:
        device: device of the networks.

    Returns:
        The policy, the model, and a description of the run.

    Raises:
        CheckpointError: the folder has unknown files, another format, or damaged weights.
        ConfigError: the device does not exist.

    Examples:
        After ``python -m torchrl_recall.export runs/hopper hopper``:

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import from_pretrained
        >>> trained = from_pretrained("hopper")  # doctest: +SKIP
        >>> trained.run["task"]  # doctest: +SKIP
        'Hopper-v5'
        >>> states = TensorDict({"observation": torch.zeros(5, 11)}, [5])
        >>> trained.policy(states)["action"].shape  # doctest: +SKIP
        torch.Size([5, 3])
    """
    from torchrl_recall.trained.networks import build_model, build_policy
    from torchrl_recall.trained.specs import from_json
    from torchrl_recall.trainers.runs.checkpoints import CheckpointError
    from torchrl_recall.trainers.runs.process import quiet, resolve_device

    folder, device = Path(folder), resolve_device(device)
    config = _read_config(folder)
    quiet()
    try:
        with torch.random.fork_rng():
            observations = {key: from_json(spec) for key, spec in config["observation"].items()}
            action = from_json(config["action"])
            policy = build_policy(_specs(observations, action), device, **config["policy"])
            model = None
            if (described := config["backtracking_model"]) is not None:
                state = from_json(described.pop("observation"))
                model = build_model(_specs({"observation": state}, action), **described).to(device)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} describes no policy and model of this version "
            f"({type(error).__name__}: {error}). {_CURE}"
        ) from error
    _load(policy, folder / POLICY, config["sha256"])
    if model is not None:
        _load(model, folder / MODEL, config["sha256"])
    return Pretrained(policy, model, config["run"])


def _read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``, and check that no file is missing or unknown."""
    from torchrl_recall.trainers.runs.checkpoints import CheckpointError, strange_files

    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} was not exported: it has no {CONFIG}. {_CURE}")
    try:
        config = json.loads(path.read_text())
        form = config["format"]
        known = form != FORMAT or (config.keys() == _KEYS and isinstance(config["sha256"], dict))
        files = {CONFIG, README, POLICY, *([MODEL] if config.get("backtracking_model") else [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {_CURE}") from error
    if form != FORMAT:
        raise CheckpointError(
            f"{path} has the format {form!r}, not {FORMAT!r}. Load it with the version of "
            f"torchrl_recall that wrote it. {_CURE}"
        )
    if not known:
        odd = ", ".join(sorted(map(str, config.keys() ^ _KEYS)))
        raise CheckpointError(f"{path}: {odd} is missing or not ours. {_CURE}")
    if odd_files := strange_files(folder, files):
        raise CheckpointError(
            f"{folder} is refused: {', '.join(odd_files)} is missing or not ours (pickles are "
            f"never read). {_CURE}"
        )
    return config


def _specs(observations: dict, action: Any) -> Any:
    from torchrl.data import Composite

    from torchrl_recall.trained.specs import Specs

    return Specs(Composite(observations), action)


def _load(module: nn.Module, path: Path, digests: Mapping[str, str]) -> None:
    """Load weights whose keys, shapes and types are exactly those of the module."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from torchrl_recall.trainers.runs.checkpoints import CheckpointError, file_sha256

    if file_sha256(path) != digests.get(path.name):
        raise CheckpointError(f"{path} does not match its checksum in {CONFIG}. {_CURE}")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). {_CURE}") from error
    expected = weights(module)
    if odd := sorted(found.keys() ^ expected.keys()):
        raise CheckpointError(f"{path}: {', '.join(odd)} is missing or not ours. {_CURE}")
    for key, tensor in found.items():
        ours = expected[key]
        if (tensor.shape, tensor.dtype) != (ours.shape, ours.dtype):
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(tensor.shape)} of {tensor.dtype}; expected "
                f"{tuple(ours.shape)} of {ours.dtype}. {_CURE}"
            )
    module.load_state_dict(found)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the tensors of a module's state, none of which share memory."""
    state = module.state_dict()
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
