"""One update of our TRPO is one of sb3-contrib's, on the same experience from the same weights."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES
from sb3_contrib import TRPO as PeerTRPO
from stable_baselines3.common.logger import Logger
from tensordict import TensorDict
from torch import nn

from torchrl_recall.trainers.hosts.on_policy import TRPO
from torchrl_recall.trainers.schema.on_policy import TRPORecallConfig
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.gym import make_env

MAX_KL, DAMPING, NUM_STEPS = 0.03, 0.3, 2_048


@pytest.fixture(scope="module")
def peer():
    """sb3-contrib's agent after a rollout of Hopper, before it learns from it."""
    env = gymnasium.make("Hopper-v5")
    action_dim = env.action_space.shape[0]
    agent = PeerTRPO(
        "MlpPolicy", env, n_steps=NUM_STEPS, batch_size=NUM_STEPS, n_critic_updates=1, seed=0,
        learning_rate=1e-3, cg_max_steps=15, device="cpu", target_kl=MAX_KL / action_dim,
        cg_damping=DAMPING / action_dim, gae_lambda=0.95,
        policy_kwargs={"net_arch": [64, 64], "activation_fn": nn.Tanh},
    )  # fmt: skip
    _, callback = agent._setup_learn(NUM_STEPS)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, NUM_STEPS)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def ours(peer) -> tuple[TRPO, TensorDict]:
    """Our host with the peer's weights, and the peer's experience."""
    with initialize_config_dir(
        config_dir=str(RECIPES / "config" / "on_policy"), version_base="1.3"
    ):
        words = [f"trpo.max_kl={MAX_KL}", f"trpo.damping={DAMPING}", "trpo.num_epochs=1"]
        words += [f"trpo.batch_size={NUM_STEPS}", "compile=false", "recall=none"]
        config = validate(compose("trpo_recall", words), TRPORecallConfig)
    host = TRPO(make_env("Hopper-v5", clip_actions=True), config, torch.device("cpu"))
    with torch.no_grad():
        for mine, theirs in zip(weights(host), weights(peer), strict=True):
            mine.copy_(theirs)
    buffer = peer.rollout_buffer
    observation = torch.from_numpy(buffer.observations[:, 0]).float()
    last = torch.from_numpy(peer._last_obs[0]).float()
    starts = np.append(buffer.episode_starts[1:, 0], peer._last_episode_starts[0])
    done = torch.from_numpy(starts).bool().unsqueeze(-1)
    data = {
        "observation": observation,
        "action": torch.from_numpy(buffer.actions[:, 0]).float(),
        "next": {
            "observation": torch.cat([observation[1:], last.unsqueeze(0)]),
            "reward": torch.from_numpy(buffer.rewards).float(),
            "done": done,
            "terminated": done,  # no episode of a new policy lasts until the time limit
        },
    }
    return host, TensorDict(data, [NUM_STEPS])


def weights(agent) -> list[torch.Tensor]:
    """Policy, its standard deviation, critic."""
    if isinstance(agent, TRPO):
        networks, scale = (agent.actor, agent.critic), "state_independent_scale"
    else:
        policy = agent.policy
        actor = nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)
        critic = nn.Sequential(policy.mlp_extractor.value_net, policy.value_net)
        networks, scale = (actor, critic), "log_std"
    linear = [m for net in networks for m in net.modules() if isinstance(m, nn.Linear)]
    owner = agent.actor if isinstance(agent, TRPO) else agent.policy
    scales = [p for name, p in owner.named_parameters() if name.endswith(scale)]
    return [p for layer in linear for p in (layer.weight, layer.bias)] + scales


def test_advantages_and_one_update_are_the_same(peer):
    host, data = ours(peer)
    assert data["next", "done"].sum() > 20
    advantages = host.with_advantages(data)
    buffer = peer.rollout_buffer
    for key, theirs in (("advantage", buffer.advantages), ("value_target", buffer.returns)):
        torch.testing.assert_close(advantages[key], torch.from_numpy(theirs), atol=1e-3, rtol=1e-3)
    before = [w.detach().clone() for w in weights(host)]
    told = host.update(data)
    peer.train()
    assert told["trpo/accepted"]
    for start, mine, theirs in zip(before, weights(host), weights(peer), strict=True):
        moved, theirs_moved = mine - start, theirs - start
        assert moved.norm() > 0
        assert (moved - theirs_moved).norm() < 0.02 * moved.norm()  # they solve in single precision
