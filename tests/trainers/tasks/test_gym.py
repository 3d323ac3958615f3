import math
import random
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from recipe_fixtures import REFUSED, configure, short, tiny
from tensordict import TensorDict
from torchrl.envs import ExplorationType
from torchrl.envs.utils import exploration_type

from torchrl_recall.trainers.hosts.sac import make_sac
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.tasks.collectors import make_policy
from torchrl_recall.trainers.tasks.gym import check_finite, evaluate, make_env
from torchrl_recall.trainers.tasks.mujoco_state import env_state_dict, load_env_state_dict

TASKS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def roll(env, actions) -> list[torch.Tensor]:
    """Everything that an environment returns, the observations after resets among it."""
    out = []
    for action in actions:
        step, after = env.step_and_maybe_reset(TensorDict({"action": action}, env.batch_size))
        after_step = step["next"]
        out += [after_step[key].clone() for key in ("observation", "reward", "done", "terminated")]
        out.append(after["observation"].clone())
    return out


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def saved_in_mid_run(name):
    """The state after thirty random steps, and sixty actions with what they lead to."""
    torch.manual_seed(0)
    env = make_env(short(name))
    env.set_seed(1)
    env.reset()
    roll(env, [env.action_spec.rand() for _ in range(30)])
    state = env_state_dict(env)
    actions = [env.action_spec.rand() for _ in range(60)]
    return state, actions, roll(env, actions)


def fresh_env(name):
    env = make_env(short(name))
    env.set_seed(999)
    env.reset()
    return env


@pytest.fixture(scope="module", params=TASKS)
def mid_run(request):
    return request.param, *saved_in_mid_run(request.param)


def test_restored_task_goes_on_bitwise(mid_run):
    name, state, actions, expected = mid_run
    env = fresh_env(name)
    assert load_env_state_dict(env, state) is True
    assert same(roll(env, actions), expected)
    assert any(bool(value) for value in expected[2::5]), "no reset was crossed"


def test_a_fresh_task_does_not_go_on_like_the_saved_one(mid_run):
    name, _, actions, expected = mid_run
    assert not same(roll(fresh_env(name), actions), expected)


def test_state_does_not_change_with_the_task_that_it_was_read_from(mid_run):
    name, state, _, _ = mid_run
    env = fresh_env(name)
    load_env_state_dict(env, state)
    before = env_state_dict(env)
    copied = np.concatenate([before["integration"], before["derived"]["xpos"].ravel()])
    roll(env, [env.action_spec.rand() for _ in range(5)])
    after = np.concatenate([before["integration"], before["derived"]["xpos"].ravel()])
    assert np.array_equal(copied, after)


@pytest.mark.parametrize("name", ["Ant-v5", "Humanoid-v5"])
def test_derived_arrays_are_needed(name):
    state, actions, expected = saved_in_mid_run(name)
    env = fresh_env(name)
    load_env_state_dict(env, state | {"derived": {}})
    assert not same(roll(env, actions), expected)


@pytest.mark.parametrize("name", TASKS)
def test_random_generator_is_needed(name):
    state, actions, expected = saved_in_mid_run(name)
    env = fresh_env(name)
    load_env_state_dict(env, state | {"np_random": env_state_dict(env)["np_random"]})
    assert not same(roll(env, actions), expected)


def test_elapsed_steps_are_needed():
    state, actions, expected = saved_in_mid_run("HalfCheetah-v5")
    env = fresh_env("HalfCheetah-v5")
    load_env_state_dict(env, state | {"elapsed_steps": 0})
    assert not same(roll(env, actions), expected)


def test_a_task_without_mujoco_cannot_be_saved_and_says_so():
    env = make_env("Pendulum-v1")
    env.reset()
    assert env_state_dict(env) is None
    with pytest.warns(UserWarning, match=r"Pendulum-v1 is not a MuJoCo task.*new episode"):
        assert load_env_state_dict(env, None) is False


def test_mujoco_tasks_restore_without_a_warning():
    env = fresh_env("Hopper-v5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_env_state_dict(env, env_state_dict(env)) is True


@pytest.mark.parametrize("name", TASKS)
def test_observations_and_rewards_are_float32(name):
    env = make_env(name)
    data = env.rollout(2)
    assert data["observation"].dtype == data["next", "observation"].dtype == torch.float32
    assert data["next", "reward"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("CartPole-v1", "discrete"),
        ("RecipeMultiDiscrete-v0", "discrete"),
        ("RecipeUnbounded-v0", "ClipAction or RescaleAction"),
        ("RecipeHalfBounded-v0", "ClipAction or RescaleAction"),
        ("RecipeZeroWidth-v0", "zero width"),
        ("RecipeDict-v0", "CatTensors"),
        ("RecipePixels-v0", "ToTensorImage"),
        ("RecipeFloatImage-v0", "FlattenObservation"),
        ("RecipeIntegers-v0", "floats"),
        ("RecipeMatrixAction-v0", "FlattenAction|vector"),
        ("RecipeDictAction-v0", "action"),
    ],
)
def test_spaces_that_do_not_fit_are_refused_by_name(name, cure):
    assert name in REFUSED or name == "CartPole-v1"
    with pytest.raises(ConfigError, match=rf"(?s){name}.*({cure})"):
        make_env(name)


def test_a_task_of_that_kind_passes():
    env = make_env("Pendulum-v1")
    assert env.rollout(3)["observation"].shape == (3, 3)


@pytest.mark.parametrize(
    "name", ["NoSuchTask-v1", "Hopper-v99", "Hoper-v5", "not a name", "no_module_here:Hopper-v5"]
)
def test_unknown_task_is_named_with_a_cure(name):
    with pytest.raises(ConfigError, match=r"env\.name=.*pprint_registry") as error:
        make_env(name)
    assert name in str(error.value)


def test_a_task_whose_library_is_missing_is_a_configuration_error():
    def entry_point(**kwargs):
        raise gymnasium.error.DependencyNotInstalled("pip install a-physics-engine")

    gymnasium.register("RecipeMissingLibrary-v0", entry_point)
    try:
        with pytest.raises(ConfigError, match=r"RecipeMissingLibrary-v0.*a-physics-engine"):
            make_env("RecipeMissingLibrary-v0")
    finally:
        del gymnasium.registry["RecipeMissingLibrary-v0"]


def transition(observation=0.0, reward=0.0, start=0.0):
    return TensorDict(
        {
            "observation": torch.full((2, 3), start),
            "next": {
                "observation": torch.full((2, 3), observation),
                "reward": torch.full((2, 1), reward),
            },
        },
        [2],
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["observation", "reward"])
def test_bad_numbers_are_named(key, value):
    with pytest.raises(FloatingPointError, match=rf"Some-v0 .*'{key}'.* 17\b"):
        check_finite(transition(**{key: value}), env_name="Some-v0", frames=17)


def test_a_reset_to_nan_is_seen():
    with pytest.raises(FloatingPointError, match=r"Some-v0 .*observation"):
        check_finite(transition(start=float("nan")), env_name="Some-v0", frames=17)


def test_good_numbers_pass():
    assert check_finite(transition(), env_name="Some-v0", frames=17) is None


def small_policy(env):
    torch.manual_seed(0)
    actor = make_sac(env, configure(tiny()), torch.device("cpu")).actor
    return make_policy(actor, ExplorationType.DETERMINISTIC, compile=False), actor


def test_evaluation_is_repeatable():
    env = make_env("Hopper-v5")
    policy, _ = small_policy(env)
    first = evaluate(env, policy, num_episodes=3, seed=5)
    torch.rand(7)
    assert evaluate(env, policy, num_episodes=3, seed=5) == first
    assert evaluate(make_env("Hopper-v5"), policy, num_episodes=3, seed=5) == first
    assert evaluate(env, policy, num_episodes=3, seed=6) != first
    assert len(set(first)) == 3  # three episodes, not one three times


def test_evaluation_touches_no_random_state_outside():
    env, outside = make_env("Hopper-v5"), make_env("Hopper-v5")
    outside.set_seed(3)
    outside.reset()
    policy, _ = small_policy(env)

    def random_states():
        return (
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),  # noqa: NPY002
            random.getstate(),
            env_state_dict(outside)["np_random"],
        )

    before = random_states()
    evaluate(env, policy, num_episodes=2, seed=5)
    assert random_states() == before
    assert exploration_type() is not ExplorationType.DETERMINISTIC


def test_evaluation_sums_the_undiscounted_rewards_of_the_mean_policy():
    env = make_env("Hopper-v5")
    policy, actor = small_policy(env)
    (got,) = evaluate(env, policy, num_episodes=1, seed=5)
    plain = gymnasium.make("Hopper-v5")
    observation, _ = plain.reset(seed=5)
    total, done = 0.0, False
    while not done:
        data = TensorDict({"observation": torch.as_tensor(observation, dtype=torch.float32)})
        observation, reward, terminated, truncated, _ = plain.step(
            actor(data)["loc"].tanh().detach().numpy()
        )
        total += reward
        done = terminated or truncated
    assert got == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([1.0, 2.0], True),
        ([3e38, 3e38], True),  # their sum is not
        ([1.0, math.nan], False),
        ([1.0, math.inf], False),
        ([-math.inf, math.inf], False),
    ],
)
def test_what_is_finite(values, finite):
    data = TensorDict(
        {
            "observation": torch.tensor([values]),
            "action": torch.zeros(1, 1),
            "next": {"observation": torch.zeros(1, 2), "reward": torch.zeros(1, 1)},
        },
        [1],
    )
    if finite:
        check_finite(data, env_name="Task", frames=0)
    else:
        with pytest.raises(
            FloatingPointError, match="Task returned NaN or infinity in observation"
        ):
            check_finite(data, env_name="Task", frames=0)
