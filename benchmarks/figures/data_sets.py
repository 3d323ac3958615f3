r"""Make data sets of a task by our own agents: random, medium, medium_replay and expert.

    python benchmarks/figures/data_sets.py task=Hopper-v5 medium=40000 expert=100000
    python benchmarks/figures/data_sets.py task=HalfCheetah-v5
    python benchmarks/figures/data_sets.py \
        task=gymnasium_robotics:PointMaze_UMazeDense-v3+env.observation_keys=[observation,desired_goal]

SAC is trained for ``medium`` and ``expert`` frames, without recall. Each data set is a folder that
``data_set=`` of ``recipes/offline_recall.py`` reads. Its ``about.json`` tells its mean return.
"""

from __future__ import annotations

import json

from runs.data_sets import DATA, make_data_sets
from runs.evidence import options

if __name__ == "__main__":
    config = options({**DATA, "names": ["random", "medium", "medium_replay", "expert"]})
    for folder in make_data_sets(config, config.names).values():
        about = json.loads((folder / "about.json").read_text())
        print(f"{folder}: {about}")
