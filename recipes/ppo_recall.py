"""PPO with recall traces, by ``build``, ``learn`` and ``train`` of ``trpo_recall.py``.

python recipes/ppo_recall.py env.name=Hopper-v5 recall=backtracking seed=0
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

CONFIG = str(Path(__file__).resolve().parent / "config" / "on_policy")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="ppo_recall")
def main(cfg: DictConfig) -> float | None:
    """Check the configuration and train; return the final return to sweepers."""
    from torchrl_recall.recipes.trpo_recall import train
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema import PPORecallConfig

    return launch(train, cfg, PPORecallConfig)


if __name__ == "__main__":
    main()
