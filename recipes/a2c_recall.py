"""Actor-critic with recall traces in the four rooms (Goyal et al., ICLR 2019, Sec. 6.1 and 6.2).

python recipes/a2c_recall.py env.size=15 env.start=uniform recall=exact seeds=[0,1,2]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:  # heavy libraries are imported inside functions, so that --help is fast
    import torch
    from tensordict import TensorDictBase

    from torchrl_recall.trainers.hosts.a2c import A2C
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.schema import A2CRecallConfig


def build(config: A2CRecallConfig) -> Parts[A2C]:
    """Compose the recipe's parts, each of which handles all seeds."""
    from functools import partial

    from torchrl.data import LazyTensorStorage, ReplayBuffer

    from torchrl_recall import ImitationLoss
    from torchrl_recall.envs import Oracle, four_rooms_model
    from torchrl_recall.seeds import SeedStreams
    from torchrl_recall.trainers.build_audit import build_audit
    from torchrl_recall.trainers.build_four_rooms_recall import build_four_rooms_recall
    from torchrl_recall.trainers.demonstrations import demonstrate_four_rooms
    from torchrl_recall.trainers.hosts.a2c import A2C
    from torchrl_recall.trainers.runs.parts import Parts
    from torchrl_recall.trainers.tasks.four_rooms import (
        ExactReturns,
        RolloutCollector,
        make_four_rooms,
    )

    streams = SeedStreams(config.seeds, stream="env")
    env = make_four_rooms(config, streams)
    a2c = A2C(env, config)  # TorchRL's A2CLoss, GAE
    recall = build_four_rooms_recall(  # or the control that `recall=` names
        config,
        partial(four_rooms_model, env.layout),  # Eq. 1, with true or learned predecessors
        ImitationLoss(a2c.actor, reduction="none"),  # Eq. 3
        a2c,
    )
    demonstrate_four_rooms(recall, config, env.layout)
    replay_buffer = ReplayBuffer(storage=LazyTensorStorage(config.backtracking.buffer_size))
    collector = RolloutCollector(env, a2c, config, streams)
    oracle = Oracle(env.layout, max_steps=env.max_steps, gamma=config.a2c.gamma)
    evaluation = ExactReturns(a2c, oracle, config, recall)
    return Parts(
        f"four rooms, {env.layout.size}",
        env,
        collector,
        replay_buffer,
        a2c,
        recall,
        evaluation,
        weights=[a2c.loss_module],
        audit=build_audit(config.recall.audit, recall, env),
    )


def learn(
    parts: Parts[A2C], data: TensorDictBase, config: A2CRecallConfig, frames: int
) -> dict[str, torch.Tensor]:
    """Learn from a batch of frames of each seed (Alg. 1, lines 5 to 13)."""
    steps = data.select("observation", "action", ("next", "observation"))
    parts.replay_buffer.extend(steps.flatten(1).transpose(0, 1))  # l.5, [time, num_seeds]
    parts.recall.extend(data)  # l.5, recent successes
    metrics = parts.host.update(data)  # l.6-7
    return metrics | parts.recall.step(parts.replay_buffer)  # l.8-13


def train(config: A2CRecallConfig) -> Run:
    """Run the recipe; ``status`` of the run is 128 + n if signal n stopped it."""
    from torchrl_recall.trainers.runs.run import Run

    with Run(config) as run:
        parts = run.resume(build(config))
        for data in run.frames_from(parts.collector):  # l.4
            run.metrics |= learn(parts, data, config, run.frames)
    return run


CONFIG = str(Path(__file__).resolve().parent / "config" / "four_rooms")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="a2c_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import A2CRecallConfig

    return launch(train, cfg, A2CRecallConfig)


if __name__ == "__main__":
    main()
