"""The reversed decision process."""

from __future__ import annotations

import itertools

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.envs import StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_recall import BacktrackingEnv, reverse_time

STATES = {"vector": Unbounded((3,)), "one_hot": OneHot(4), "categorical": Categorical(4)}
ACTIONS = {"vector": Bounded(-1, 1, (2,)), "one_hot": OneHot(3), "categorical": Categorical(3)}


def roll(env: BacktrackingEnv, end_states: TensorDict, steps: int = 6, policy="backward"):
    return env.rollout(
        steps,
        env.backward_policy if policy == "backward" else policy,
        tensordict=env.reset(end_states, set_state=True),
        auto_reset=False,
        break_when_any_done=False,
    )


@pytest.mark.parametrize(("state", "action"), itertools.product(STATES, ACTIONS))
def test_specs(state, action, make_model):
    check_env_specs(BacktrackingEnv(make_model(STATES[state], ACTIONS[action])))


def test_specs_of_bounded_observations(make_model):
    check_env_specs(BacktrackingEnv(make_model(Bounded(-1, 1, (3,)))))


def test_specs_of_float64(make_model):
    states = Unbounded((3,), dtype=torch.float64)
    check_env_specs(BacktrackingEnv(make_model(states)))


@pytest.mark.parametrize(
    ("observation_key", "action_key"),
    [("state", "act"), (("agent", "state"), ("agent", "action")), ("state", ("agent", "action"))],
)
def test_specs_of_renamed_and_nested_keys(observation_key, action_key, make_model):
    model = make_model(observation_key=observation_key, action_key=action_key)
    env = BacktrackingEnv(model)
    check_env_specs(env)
    end_states = TensorDict({}, batch_size=[5]).set(observation_key, torch.randn(5, 3))
    rollout = roll(env, end_states)
    assert rollout.shape == (5, 6)
    assert ("next", "agent", "action") not in rollout.keys(True)
    assert ("next", "act") not in rollout.keys(True)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_any_batch_shape(shape, make_model):
    end_states = TensorDict({"observation": torch.randn(*shape, 3)}, shape)
    rollout = roll(BacktrackingEnv(make_model()), end_states)
    assert rollout.shape == (*shape, 6)
    assert torch.equal(rollout["observation"][..., 0, :], end_states["observation"])


def test_steps_chain(make_model):
    rollout = roll(
        BacktrackingEnv(make_model()), TensorDict({"observation": torch.randn(5, 3)}, [5])
    )
    assert torch.equal(rollout["next", "observation"][:, :-1], rollout["observation"][:, 1:])
    assert not rollout["next", "reward"].any()
    assert not rollout["next", "done"].any()


def test_without_end_states_it_draws_one(make_model):
    env = BacktrackingEnv(make_model())
    first = env.reset()
    assert env.observation_spec["observation"].is_in(first["observation"])
    assert env.rollout(4).shape == (4,)


def test_terminal_end_states_are_not_replaced(make_model):
    env = BacktrackingEnv(make_model())
    end_states = TensorDict({"observation": torch.randn(5, 3)}, [5])
    for key in ("done", "terminated"):
        end_states[key] = torch.ones(5, 1, dtype=torch.bool)
    rollout = roll(env, end_states)
    assert torch.equal(rollout["observation"][:, 0], end_states["observation"])
    assert not rollout["done"].any()


def test_any_policy_may_act(make_model):
    env = BacktrackingEnv(make_model())

    def one(tensordict):
        return tensordict.set("action", torch.full((*tensordict.shape, 2), 0.25))

    rollout = roll(env, TensorDict({"observation": torch.randn(5, 3)}, [5]), policy=one)
    assert (rollout["action"] == 0.25).all()


def test_backward_policy_is_that_of_the_model(make_model):
    model = make_model()
    env = BacktrackingEnv(model)
    data = TensorDict({"observation": torch.randn(5, 3)}, [5])
    torch.manual_seed(3)
    action = env.backward_policy(data)["action"]
    torch.manual_seed(3)
    assert torch.equal(action, model.sample_action(data["observation"]))


def test_one_step_is_one_sample_of_the_model(make_model):
    model = make_model()
    env = BacktrackingEnv(model)
    data = env.reset(TensorDict({"observation": torch.randn(5, 3)}, [5]), set_state=True)
    data["action"] = torch.rand(5, 2)
    torch.manual_seed(3)
    out = env.step(data)["next", "observation"]
    torch.manual_seed(3)
    assert torch.equal(out, model.sample_observation(data["action"], data["observation"]))


def test_follows_the_device(device, make_model):
    env = BacktrackingEnv(make_model().to(device))
    end_states = TensorDict({"observation": torch.randn(5, 3, device=device)}, [5])
    rollout = roll(env, end_states)
    assert rollout["next", "observation"].device.type == device.type
    assert rollout["next", "done"].device.type == device.type


# reverse_time


def test_reverse_time_by_hand():
    backwards = TensorDict(
        {
            "observation": torch.tensor([9, 8, 7]),
            "action": torch.tensor([1, 2, 3]),
            "next": {"observation": torch.tensor([8, 7, 6])},
        },
        [3],
    )
    forwards = reverse_time(backwards)
    assert forwards["observation"].tolist() == [6, 7, 8]
    assert forwards["action"].tolist() == [3, 2, 1]
    assert forwards["next", "observation"].tolist() == [7, 8, 9]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
@pytest.mark.parametrize("key", ["observation", ("agent", "state")])
def test_reverse_time_is_its_own_inverse(shape, key, transitions):
    data = transitions(*shape, observation_key=key).set("reward", torch.randn(shape))
    copy = data.clone()
    twice = reverse_time(reverse_time(data, observation_key=key), observation_key=key)
    assert (twice == data).all()
    assert (data == copy).all()  # the argument is left alone


def test_reverse_time_is_itself_an_exchange(transitions):
    data = transitions(4, 6)
    once = reverse_time(data)
    assert torch.equal(once["observation"], data["next", "observation"].flip(1))
    assert torch.equal(once["next", "observation"], data["observation"].flip(1))
    assert torch.equal(once["action"], data["action"].flip(1))


def test_reverse_time_needs_time():
    with pytest.raises(ValueError, match="time"):
        reverse_time(TensorDict({"observation": torch.zeros(3)}))


@pytest.mark.parametrize("key", ["observation", ("next", "observation")])
def test_reverse_time_names_what_is_missing(key, transitions):
    with pytest.raises(KeyError, match="reverse_time reads"):
        reverse_time(transitions(4).exclude(key))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_batch_size_and_expand_keep_torchrls_contract(shape, make_model):
    env = BacktrackingEnv(make_model(), batch_size=shape)
    for this, size in ((env, shape), (env.expand(5, *shape), (5, *shape))):
        check_env_specs(this)
        assert this.batch_size == size
        assert this.rollout(3, this.backward_policy).shape == (*size, 3)
        counted = TransformedEnv(this, StepCounter())
        assert counted.rollout(3)["step_count"].shape == (*size, 3, 1)
    if shape:
        with pytest.raises(RuntimeError, match="expand"):
            env.expand(7)


def test_expand_takes_a_size_as_specs_do(make_model):
    env = BacktrackingEnv(make_model(Unbounded((3,)), Bounded(-1, 1, (2,))))
    assert env.expand(torch.Size([4])).batch_size == env.expand(4).batch_size == (4,)
    with pytest.raises(RuntimeError, match="expand"):
        env.expand(4).expand(torch.Size([3]))


def test_a_drawn_state_lies_on_the_models_device(make_model):
    model = make_model(Unbounded((3,)), Bounded(-1, 1, (2,))).to("meta")
    assert BacktrackingEnv(model)._reset()["observation"].device.type == "meta"
