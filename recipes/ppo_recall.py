"""PPO with recall traces: the loop of ``trpo_recall.py`` with another host.

python recipes/ppo_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig


@hydra.main(
    version_base="1.3",
    config_path=str(Path(__file__).parent / "config" / "on_policy"),
    config_name="ppo_recall",
)
def main(cfg: DictConfig) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback."""
    from torchrl_recall.recipes.trpo_recall import train
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema.on_policy import PPORecallConfig

    sys.exit(launch(train, cfg, PPORecallConfig))


if __name__ == "__main__":
    main()
