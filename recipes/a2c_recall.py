"""Actor-critic with recall traces in the four rooms (Goyal et al., ICLR 2019, Sec. 6.1 and 6.2).

python recipes/a2c_recall.py env.size=15 env.start=uniform recall=exact seeds=[0,1,2]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:
    from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig


def train(config: A2CRecallConfig) -> int:
    """Run the recipe; see ``config/a2c_recall.yaml``.

    Returns:
        The exit status: zero when finished, 128 + n when stopped by signal n.
    """
    # Imported here, so that --help answers at once.
    import torch

    from torchrl_recall.envs import Oracle
    from torchrl_recall.seeds import SeedStreams
    from torchrl_recall.trainers.beside import make_beside
    from torchrl_recall.trainers.hosts.a2c import A2C
    from torchrl_recall.trainers.runs import process
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.tasks.four_rooms import (
        Evaluation,
        RolloutCollector,
        make_four_rooms,
    )

    process.quiet()
    torch.set_num_threads(config.torch_threads)
    streams = SeedStreams(config.seeds, stream="env")
    env = make_four_rooms(config, streams)
    a2c = A2C(env, config)
    beside = make_beside(a2c, env, config)
    oracle = Oracle(env.layout, max_steps=env.max_steps, gamma=config.a2c.gamma)
    evaluation = Evaluation(a2c, oracle, config)
    collector = RolloutCollector(env, a2c, config, streams)
    run = Run(
        Path(config.run_dir),
        config,
        collector=collector,
        parts={"a2c": a2c, "beside": beside, "evaluation": evaluation},
        modules=[a2c.loss_module],
        about={"env": f"four rooms, {env.layout.size}", "seed": config.seeds},
    )
    with run:
        for data in collector:  # Alg. 1, l.4
            if beside is not None:
                beside.extend(data)  # l.5
            a2c.update(data)  # l.6-7
            run.advance(collector.frames_of(data))
            if beside is not None:
                beside.step(run.frames)  # l.8-13
            if run.due(config.eval.interval):
                returns = evaluation(run.frames)
            if run.due(config.logger.interval):
                if beside is not None:
                    run.metrics.update(beside.metrics(oracle))
                run.log(returns.tolist())
            if config.eval.stop_at_target and evaluation.all_there:
                run.end()
                break
            if run.stopped:
                return run.save_and_stop()
            if run.due(config.checkpoint.interval):
                run.save()
        evaluation.write(run.run_dir / "returns.csv")
        run.finish(frames_to_target=evaluation.frames_to_target())
    return 0


@hydra.main(
    version_base="1.3",
    config_path=str(Path(__file__).parent / "config" / "four_rooms"),
    config_name="a2c_recall",
)
def main(cfg: DictConfig) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback."""
    from torchrl_recall.trainers.runs.launch import launch
    from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig

    sys.exit(launch(train, cfg, A2CRecallConfig))


if __name__ == "__main__":
    main()
