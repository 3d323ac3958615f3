"""Load policies and models of runs, and refuse folders that hold none."""

from __future__ import annotations

import shutil

import pytest
import torch
from four_rooms_fixtures import tiny as four_rooms
from omegaconf import OmegaConf
from recipe_fixtures import stopped_copy
from torchrl.envs import ExplorationType, set_exploration_type
from trained_fixtures import KINDS, inputs

from torchrl_recall import RecallTraceGenerator, load_backtracking_model, load_policy
from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
WITH_MODEL = [kind for kind in KINDS if kind not in ("none", "hindsight_sac")]


@pytest.fixture
def copy(runs, tmp_path):
    """A run's folder that may be damaged."""
    return lambda kind="sac": shutil.copytree(runs(kind)[0], tmp_path / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loaded_policy_acts_as_the_one_that_trained(kind, runs):
    run_dir, run = runs(kind)
    data = inputs(run)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = run.parts.host.actor(data.clone())["action"]
    before = torch.get_rng_state()
    policy = load_policy(run_dir)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn from the caller's numbers
    for _ in range(2):  # by default, and each time
        assert torch.equal(policy(data.clone())["action"], expected)


@pytest.mark.parametrize("kind", ["sac", "crossq", "trpo", "goal_gan"])
def test_exploration_is_as_torchrl_says(kind, runs):
    run_dir, run = runs(kind)
    policy, data = load_policy(run_dir), inputs(run)
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = [policy(data.clone())["action"] for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("kind", WITH_MODEL)
def test_the_loaded_model_draws_the_same_traces(kind, runs):
    run_dir, run = runs(kind)
    trained, loaded = run.parts.recall.model, load_backtracking_model(run_dir)
    end_states = run.parts.experience[:3].select("observation")
    traces = []
    for model in (trained, loaded):
        torch.manual_seed(1)
        traces.append(RecallTraceGenerator(model, trace_length=4, num_traces=2)(end_states))
    assert (traces[0] == traces[1]).all()


def test_a_stopped_run_is_loaded_from_where_it_stopped(runs, tmp_path):
    run_dir, run = runs("sac")
    stopped = stopped_copy(run_dir, tmp_path / "run", 120)
    shutil.copy(run_dir / "config.yaml", stopped)
    data = inputs(run)
    early, late = (load_policy(folder)(data.clone())["action"] for folder in (stopped, run_dir))
    assert not torch.equal(early, late)


def test_a_damaged_checkpoint_is_left_for_the_one_before(copy, runs):
    run_dir = copy()
    (run_dir / "checkpoints" / f"{160:012d}" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="Trying the one before"):
        policy = load_policy(run_dir)
    data = inputs(runs("sac")[1])
    assert not torch.equal(
        policy(data.clone())["action"], load_policy(runs("sac")[0])(data)["action"]
    )
    for folder in (run_dir / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of the checkpoints"):
        load_policy(run_dir)


def test_a_folder_that_is_no_runs_is_named(tmp_path, copy):
    with pytest.raises(ConfigError, match="no folder of a run"):
        load_policy(tmp_path / "nowhere")
    run_dir = copy()
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        load_policy(run_dir)
    (run_dir / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(run_dir)
    (run_dir / "config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="of no recipe"):
        load_policy(run_dir)


def test_a_configuration_that_was_edited_is_refused(copy):
    run_dir = copy()
    config = OmegaConf.load(run_dir / "config.yaml")
    config.sac.num_cells = [8, 8]
    OmegaConf.save(config, run_dir / "config.yaml")
    with pytest.raises(ConfigError, match=r"sac.num_cells: \[16, 16\] was saved"):
        load_policy(run_dir)


def test_a_control_has_no_model(runs):
    with pytest.raises(ConfigError, match="no backtracking model: it ran recall=none"):
        load_backtracking_model(runs("none")[0])


def test_tables_of_many_seeds_are_no_policy(tmp_path):
    from four_rooms_fixtures import configure

    config = configure(four_rooms("none"))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config.model_dump()))
    with pytest.raises(ConfigError, match=r"tables of many seeds.*returns.csv"):
        load_policy(tmp_path)
