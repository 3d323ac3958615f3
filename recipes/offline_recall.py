"""IQL, CQL or TD3+BC on a data set, with recall traces that end in its states.

python recipes/offline_recall.py data_set=data/hopper env.name=Hopper-v5 host=iql seed=0
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import OfflineRecallConfig
    from torchrl_recall.trainers.tasks.data_set import OfflineParts


def build(config: OfflineRecallConfig, device: torch.device) -> OfflineParts:
    """Compose the recipe's parts."""
    from functools import partial

    from torchrl_recall import BacktrackingModel, StateValues
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_offline_recall import build_offline_recall
    from torchrl_recall.trainers.hosts.offline import CQL, IQL, TD3BC, OfflineHost
    from torchrl_recall.trainers.tasks.data_set import GradientSteps, OfflineParts, load_data_set
    from torchrl_recall.trainers.tasks.gym import make_env
    from torchrl_recall.trainers.tasks.mean_return import MeanReturn

    env = make_env(config.env.name, device, seed=config.seed, **config.env.making)
    data_set = load_data_set(config, env, device)
    host: OfflineHost  # TorchRL's losses
    if config.host == "td3bc":
        host = TD3BC(env, config, device, data_set[:]["observation"])
    else:
        host = IQL(env, config, device) if config.host == "iql" else CQL(env, config, device)
    critic = StateValues(host.loss_module, compile=bool(config.compile))
    specs = env.observation_spec_unbatched, env.action_spec_unbatched
    make_model = partial(BacktrackingModel.from_specs, *specs)  # Eq. 1
    recall = build_offline_recall(config, make_model, specs, critic, device)
    evaluation = MeanReturn(host.actor, config, device)
    return OfflineParts(
        config.env.name,
        env,
        GradientSteps(env, config),
        data_set,
        host,
        recall,
        evaluation=evaluation,
        audit=build_audit(config.recall.audit, recall, evaluation.env),
    )


def learn(
    parts: OfflineParts, data: TensorDictBase, config: OfflineRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Take one gradient step for each row of ``data``."""
    from torchrl_recall import join_rows
    from torchrl_recall.trainers.tasks.data_set import check_losses

    metrics = parts.recall.step(parts.replay_buffer)  # l.8-9 at first, then l.10-11
    check_losses(metrics, frames)
    keys, size = parts.host.loss_module.in_keys, config.replay_buffer.batch_size
    for _ in range(data.numel()):
        rows = parts.recall.transitions(config.num_transitions)
        real = parts.replay_buffer.sample(size if rows is None else size - len(rows))
        losses = parts.host.update(join_rows(real, rows, keys))
    check_losses(losses, frames)
    parts.recall.extend(data)
    return dict(losses.items()) | metrics


def train(config: OfflineRecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config, run.device))
        for data in run.frames_from(parts.collector):
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "offline")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="offline_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import OfflineRecallConfig

    return launch(train, cfg, OfflineRecallConfig)


if __name__ == "__main__":
    main()
