"""The folder of a run follows from its settings."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from recipe_fixtures import RECIPES, configure, tiny, train

from torchrl_recall.trainers.runs.resumption import finished
from torchrl_recall.trainers.runs.run_dirs import names_a_folder, run_dir_of, unnamed_settings
from torchrl_recall.trainers.schema import ConfigError

DEFAULTS = {
    "sac/sac_recall": "runs/Hopper-v5_backtracking_seed0",
    "dqn/dqn_recall": "runs/dqn_CartPole-v1_backtracking_seed0",
    "on_policy/trpo_recall": "runs/trpo_Hopper-v5_backtracking_seed0",
    "on_policy/ppo_recall": "runs/ppo_Hopper-v5_backtracking_seed0",
    "goal_gan/goal_gan_recall": "runs/goal_gan_point_free4_backtracking_seed0",
    "four_rooms/a2c_recall": "runs/four_rooms_15_exact",
}


@pytest.fixture
def run_dir():
    """Name the folder of a job as Hydra runs it, with a recipe's configuration and overrides."""
    before = HydraConfig.instance().cfg

    def get(*words: str, recipe: str = "sac/sac_recall") -> str:
        folder, name = recipe.split("/")
        with initialize_config_dir(str(RECIPES / "config" / folder), version_base="1.3"):
            cfg = compose(name, list(words), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        task = cfg.copy()
        with open_dict(task):
            del task["hydra"]
        return run_dir_of(task, str(OmegaConf.select(task, "run_dir")))

    yield get
    HydraConfig.instance().cfg = before


@pytest.mark.parametrize("recipe", DEFAULTS)
def test_the_plain_command_has_the_plain_name(recipe, run_dir):
    assert run_dir(recipe=recipe) == DEFAULTS[recipe]


@pytest.mark.parametrize("recipe", DEFAULTS)
def test_jobs_of_a_sweep_have_folders_of_their_own_and_the_same_again(recipe, run_dir):
    some = {"goal_gan/goal_gan_recall": "trpo.num_epochs", "four_rooms/a2c_recall": "a2c.gamma"}
    key = some.get(recipe, "recall.num_updates")
    names = [run_dir(f"optim.lr={lr}", f"{key}=1", recipe=recipe) for lr in ("1e-3", "3e-4")]
    for name, lr in zip(names, ("0.001", "0.0003"), strict=True):
        assert name == DEFAULTS[recipe] + "".join(sorted([f"_optim.lr-{lr}", f"_{key}-1"]))
    assert run_dir(f"{key}=1", "optim.lr=0.001", recipe=recipe) == names[0]


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["seed=3", "recall=none", "env.name=Ant-v5"], "runs/Ant-v5_none_seed3"),
        (["resume=auto", "logger.backend=none", "collector.total_frames=7"], ""),
        (["optim.lr=1"], "_optim.lr-1"),
        (["optim.lr=1.0"], "_optim.lr-1"),
        (["recall.end_states=uniform"], "_recall.end_states-uniform"),
        (["sac.num_cells=[64,32]"], "_sac.num_cells-64+32"),
        (["run_dir=mine", "optim.lr=1"], "mine"),
    ],
)  # fmt: skip
def test_names_of_settings(words, end, run_dir):
    expected = end if "/" in end or end == "mine" else DEFAULTS["sac/sac_recall"] + end
    assert run_dir(*words) == expected


def test_what_is_named_already_is_not_named_again(run_dir):
    name = run_dir("env=point_umaze", "seed=1", recipe="goal_gan/goal_gan_recall")
    assert name == "runs/goal_gan_point_umaze_backtracking_seed1"
    name = run_dir("env.start=opposite", "seeds=[0,1]", recipe="four_rooms/a2c_recall")
    assert name == "runs/four_rooms_15_exact_env.start-opposite_seeds-0+1"
    assert run_dir("recall.name=x") == "runs/Hopper-v5_x_seed0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": "a/b"}, {"x": "a b"}),
        ({"x": "1"}, {"x": 1}),
        ({"x": "true"}, {"x": True}),
        ({"x": ["a+b"]}, {"x": ["a", "b"]}),
        ({"x": [1]}, {"x": 1}),
        ({"a": "1_b-2"}, {"a": 1, "b": 2}),
        ({"x": list(range(60))}, {"x": list(range(61))}),
        ({"x": {"y": 1}}, {"x": {"y": 2}}),
    ],
)
def test_other_settings_never_read_the_same(one, other):
    names = {unnamed_settings(one), unnamed_settings(other)}
    assert len(names) == 2
    assert all(len(name) < 120 for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-+.") for name in names)


def test_another_annealing_is_another_run(tmp_path):
    """A finished run's result is not given for one that anneals otherwise."""
    words = tiny("imitation", collector__total_frames=120, checkpoint__keep=2)
    run = tmp_path / "run"
    assert train(run, [*words, "recall.anneal_frames=100"]) == 0
    config = configure([*words, "recall.anneal_frames=100"]).model_dump()
    saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    config["run_dir"], config["compile"] = saved["run_dir"], saved["compile"]
    assert finished(config, run)["frames"] == 120
    config["recall"]["anneal_frames"] = 200
    assert finished(config, run) is None
    config["collector"]["total_frames"] = config["recall"]["anneal_frames"] = 80  # it is past that
    assert finished(config, run)["frames"] == 120
    assert names_a_folder("recall.anneal_frames")
    assert names_a_folder("eval.target_return")
    assert not names_a_folder("eval.interval")


def test_a_folder_that_hydra_reads_as_a_number_is_refused(run_dir):
    with pytest.raises(ConfigError, match=r"run_dir=2025_08_01 is read as the number 20250801"):
        run_dir("run_dir=2025_08_01")
    assert run_dir("run_dir='2025_08_01'") == "2025_08_01"
