"""Export of a run's policy and model to a folder that can be loaded anywhere."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from torchrl_recall.trained.load import TrainedRun, load_run
from torchrl_recall.trained.networks import describe_model, describe_policy
from torchrl_recall.trained.pretrained import CONFIG, FORMAT, MODEL, POLICY, README, weights
from torchrl_recall.trained.specs import to_json
from torchrl_recall.trainers.hosts.networks import policy_inputs
from torchrl_recall.trainers.runs.atomic import atomic_folder, check_writable
from torchrl_recall.trainers.runs.checkpoints import file_sha256
from torchrl_recall.trainers.schema import ConfigError

__all__ = ["export_run"]


def export_run(run_dir: str | Path, folder: str | Path | None = None) -> Path:
    """Export policy and backtracking model of a run to a folder.

    The folder holds safetensors files, ``config.json`` with specs and network sizes, and a model
    card. It gets its name when it is complete.

    Args:
        run_dir: folder of the run.
        folder: folder to write; ``pretrained`` in the folder of the run by default.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists, the run has no policy, or a spec is of an unknown kind.
        CheckpointError: no checkpoint of the run is intact, or the disk is full.
    """
    folder = Path(run_dir) / "pretrained" if folder is None else Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists. Remove it, or name another folder.")
    check_writable("folder", folder)
    run = load_run(run_dir, restore=("host", "recall", "evaluation"))
    described, about, card = _describe(run), _about(run), _card(run, folder.name)
    with atomic_folder(folder) as partial:
        save_file(weights(run.policy), partial / POLICY)
        if run.backtracking_model is not None:
            save_file(weights(run.backtracking_model), partial / MODEL)
        digests = {path.name: file_sha256(path) for path in partial.iterdir()}
        config = {"format": FORMAT, **described, "sha256": digests, "run": about}
        (partial / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
        (partial / README).write_text(card)
    return folder


def _describe(run: TrainedRun) -> dict[str, Any]:
    """Return the specs and sizes from which the networks can be built again."""
    env, model = run.parts.env, run.backtracking_model
    keys, _ = policy_inputs(env)
    described = None
    if model is not None:
        state = {"observation": to_json(model.observation_spec)}
        described = describe_model(run.config) | state
    return {
        "observation": {key: to_json(env.observation_spec_unbatched[key]) for key in keys},
        "action": to_json(env.action_spec_unbatched),
        "policy": describe_policy(run.config),
        "backtracking_model": described,
    }


def _about(run: TrainedRun) -> dict[str, Any]:
    """Describe the run and its result, from the checkpoint."""
    evaluation, config = run.parts.evaluation, run.config
    results = evaluation.results
    final = float(results[-1].double().mean()) if results else math.nan
    return {
        "task": run.parts.name,
        "host": getattr(config, "host", type(config).__name__.removesuffix("RecallConfig").lower()),
        "recall": config.recall.name,
        "seed": config.seed,
        "frames": run.frames,
        "evaluated_at": evaluation.frames[-1] if evaluation.frames else None,
        "final_return": final if math.isfinite(final) else None,
        "versions": dict(run.state["versions"]),
    }


def _card(run: TrainedRun, name: str) -> str:
    """Write the model card."""
    about = _about(run)
    versions = ", ".join(
        f"{package} {version}" for package, version in about.pop("versions").items()
    )
    found, frames = about.pop("final_return"), about.pop("evaluated_at")
    measure = "share of goals reached" if hasattr(run.config.eval, "num_goals") else "mean return"
    result = "not evaluated" if found is None else f"{found:.2f} after {frames:,} frames"
    about["frames"] = f"{run.frames:,}"
    rows = [*about.items(), (measure, result), ("versions", versions)]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    keys, _ = policy_inputs(run.parts.env)
    spec = run.parts.env.observation_spec_unbatched
    inputs = ", ".join(f'"{key}": torch.zeros(1, {spec[key].shape[-1]})' for key in keys)
    what = "A policy" if run.backtracking_model is None else "A policy and a backtracking model"
    head = textwrap.dedent(f"""\
        ---
        library_name: torchrl-recall
        tags: [reinforcement-learning, recall-traces]
        ---
        # {run.parts.name}, recall={about["recall"]}

        {what}, trained by [torchrl_recall](https://arxiv.org/abs/1804.00379).

        """)
    use = textwrap.dedent(f"""

        ```python
        import torch
        from tensordict import TensorDict
        from torchrl_recall import from_pretrained

        trained = from_pretrained("{name}")
        data = TensorDict({{{inputs}}}, [1])
        action = trained.policy(data)["action"]
        ```

        `trained.backtracking_model` rolls recall traces out, by `RecallTraceGenerator`; it is None
        where the run had no such model.
        """)
    return f"{head}| | |\n|---|---|\n{table}\n{use}"
