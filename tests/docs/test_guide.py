"""Each piece of code of the guide and of the page of hosts runs, given what a reader has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchrl.data
import torchrl.objectives
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, Actor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

import torchrl_recall
import torchrl_recall.envs

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    (page, number, code)
    for page in ("guide.md", "hosts.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    )
]


@pytest.fixture
def yours() -> dict:
    """Make what a reader has: a task, networks, a loss, a buffer and a collector."""
    env = GymEnv("Pendulum-v1", max_episode_steps=20)
    net = torch.nn.Sequential(
        MLP(in_features=3, out_features=2, num_cells=[8]), NormalParamExtractor()
    )
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )
    qvalue = ValueOperator(
        MLP(in_features=4, out_features=1, num_cells=[8]), ["observation", "action"]
    )
    critic = ValueOperator(MLP(in_features=3, out_features=1, num_cells=[8]), ["observation"])
    loss = SACLoss(actor, qvalue, action_spec=env.action_spec)
    loss.make_value_estimator(gamma=0.99)
    collector = Collector(
        env, actor, frames_per_batch=64, total_frames=128, auto_register_policy_transforms=False
    )
    data = env.rollout(64, actor, break_when_any_done=False).detach()
    data.set("advantage", torch.randn(64, 1)).set("value_target", torch.randn(64, 1))
    names: dict = {}
    for module in (torchrl.data, torchrl.objectives, torchrl_recall, torchrl_recall.envs):
        names |= {name: getattr(module, name) for name in dir(module) if name[0].isupper()}
    return names | {
        "torch": torch,
        "join_rows": torchrl_recall.join_rows,
        "env": env,
        "spec": env.action_spec,
        "actor": actor,
        "qvalue": qvalue,
        "critic": critic,
        "loss": loss,
        "collector": collector,
        "data": data,
        "model": torchrl_recall.BacktrackingModel.from_specs(env.observation_spec, env.action_spec),
        "replay_buffer": TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=16),
        "success_rates": torch.rand(300),
    }


def test_there_is_code_to_run():
    assert len(BLOCKS) >= 7


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("page", "number", "code"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS]
)
def test_it_runs(page, number, code, yours):
    if page == "hosts.md":
        yours["actor"] = Actor(
            MLP(in_features=3, out_features=1), ["observation"], spec=yours["spec"]
        )
    exec(compile(code, f"docs/{page}", "exec"), yours)
