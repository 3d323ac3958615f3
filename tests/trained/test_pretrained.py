"""Export runs, load the folders elsewhere, and refuse all that was not exported."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torchrl.envs import ExplorationType, set_exploration_type
from trained_fixtures import KINDS, inputs

from torchrl_recall import RecallTraceGenerator, from_pretrained, load_policy
from torchrl_recall.trained.export import export_run
from torchrl_recall.trained.specs import from_json, to_json
from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """The exported folder of a run, made once."""
    folder = tmp_path_factory.mktemp("exported")
    return lambda kind: (
        folder / kind if (folder / kind).exists() else export_run(runs(kind)[0], folder / kind)
    )


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported("sac"), tmp_path / "copy")


def edit(folder, change) -> None:
    """Change the configuration of an exported folder."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def replace(folder, name: str, tensors: dict) -> None:
    """Put other weights in, with the right checksum."""
    save_file(tensors, folder / name)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder, lambda config: config["sha256"].update({name: digest}))


@pytest.mark.parametrize("kind", KINDS)
def test_policy_and_model_come_back_bit_for_bit(kind, runs, exported):
    run = runs(kind)[1]
    before = torch.get_rng_state()
    loaded = from_pretrained(exported(kind))
    assert torch.equal(torch.get_rng_state(), before)
    data = inputs(run)
    for exploration in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        actions = []
        for policy in (run.parts.host.actor, loaded.policy):
            torch.manual_seed(3)
            with set_exploration_type(exploration):
                actions.append(policy(data.clone())["action"])
        assert torch.equal(*actions)
    if (model := getattr(run.parts.recall, "model", None)) is None:
        assert loaded.backtracking_model is None
        return
    end_states = run.parts.experience[:3].select("observation")
    traces = []
    for one in (model, loaded.backtracking_model):
        torch.manual_seed(3)
        traces.append(RecallTraceGenerator(one, trace_length=4, num_traces=2)(end_states))
    assert (traces[0] == traces[1]).all()


def test_the_task_is_not_needed(exported, monkeypatch):
    monkeypatch.setattr("gymnasium.make", None)
    monkeypatch.setattr("pickle.load", None)
    assert from_pretrained(exported("hopper")).policy.in_keys == ["observation"]


def test_the_card_says_what_was_run(runs, exported):
    run = runs("sac")[1]
    about = from_pretrained(exported("sac")).run
    assert (about["task"], about["seed"], about["frames"]) == ("Pendulum-v1", 4, 160)
    assert about["final_return"] == run.final_return
    card = (exported("sac") / "README.md").read_text()
    assert f"| mean return | {run.final_return:.2f} after 160 frames |" in card
    assert 'from_pretrained("sac")' in card
    assert f"torch {torch.__version__.split('+')[0]}" in card
    code = card.split("```python\n")[1].split("```")[0].replace('"sac"', f"'{exported('sac')}'")
    names: dict = {}
    exec(code, names)
    assert names["action"].shape == (1, 1)
    assert "share of goals reached" in (exported("goal_gan") / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda c: c.update(format="torchrl_recall pretrained 0"),
            "has the format .* Load it with",
        ),
        (lambda c: c.update(more=1), "more is missing or not ours"),
        (lambda c: c.pop("sha256"), "sha256 is missing or not ours"),
        (lambda c: c["policy"].update(kind="pickled"), "describes no policy"),
        (lambda c: c["policy"].update(more=1), "describes no policy"),
        (lambda c: c["policy"].pop("num_cells"), "describes no policy"),
        (lambda c: c["policy"].update(num_cells=[8, 8]), r"has shape \(16,\) .*expected \(8,\) "),
        (lambda c: c["policy"].update(num_cells=[16]), "is missing or not ours"),
        (lambda c: c["action"].update(kind="other"), "describes no policy"),
        (lambda c: c["backtracking_model"].update(more=1), "describes no policy"),
        (
            lambda c: c.update(backtracking_model=None),
            "backtracking_model.safetensors is missing or",
        ),
        (lambda c: c["sha256"].clear(), "does not match its checksum"),
    ],
)
def test_another_configuration_is_refused(change, told, copy):
    edit(copy, change)
    with pytest.raises(CheckpointError, match=rf"(?s){told}.*torchrl_recall.export"):
        from_pretrained(copy)


@pytest.mark.parametrize("text", ["{cut", "[]", "null", '{"format": 1}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(text, copy):
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json (is damaged|has the format)"):
        from_pretrained(copy)


def test_other_files_are_refused(copy, tmp_path):
    (copy / "policy.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"policy.pkl is missing or not ours \(pickles are"):
        from_pretrained(copy)
    (copy / "policy.pkl").unlink()
    (copy / "README.md").unlink()
    os.symlink(tmp_path, copy / "README.md")
    with pytest.raises(CheckpointError, match=r"README.md is missing or not ours"):
        from_pretrained(copy)
    with pytest.raises(CheckpointError, match="was not exported"):
        from_pretrained(tmp_path / "nowhere")


def test_a_flipped_bit_is_seen(copy):
    data = bytearray((copy / "policy.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "policy.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        from_pretrained(copy)


def test_weights_of_another_type_or_none_are_refused(copy):
    name = "policy.safetensors"
    tensors = load_file(copy / name)
    replace(copy, name, {key: value.double() for key, value in tensors.items()})
    with pytest.raises(CheckpointError, match=r"of torch.float64; expected .* of torch.float32"):
        from_pretrained(copy)
    replace(copy, name, tensors | {"more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="more is missing or not ours"):
        from_pretrained(copy)
    (copy / name).write_bytes(pickle.dumps(tensors))
    digest = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    edit(copy, lambda config: config["sha256"].update({name: digest}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(copy)


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_folder_is_written_whole_or_not_at_all(error, runs, tmp_path, monkeypatch):
    run_dir = runs("sac")[0]

    def full(*args, **kwargs):
        raise error("No space left on device")

    monkeypatch.setattr("torchrl_recall.trained.export.save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*Make room"):
        export_run(run_dir, tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"exists. Remove it"):
        export_run(run_dir, tmp_path / "folder")


def test_it_is_the_same_policy_as_load_policy_gives(runs, exported):
    run_dir, run = runs("ppo")
    data = inputs(run)
    actions = [
        p(data.clone())["action"]
        for p in (load_policy(run_dir), from_pretrained(exported("ppo")).policy)
    ]
    assert torch.equal(*actions)


def test_bounds_without_an_end_come_back(runs):
    from torchrl.data import Bounded

    low = torch.tensor([-torch.inf, 0.1])
    spec = Bounded(low, torch.tensor([torch.inf, 0.3]), (2,))
    node = json.loads(json.dumps(to_json(spec), allow_nan=False))
    assert torch.equal(from_json(node).space.low, low)
    assert from_json(node) == spec


def test_the_code_of_the_guide_runs(runs, exported, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "after_training.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 2
    shutil.copytree(runs("hopper")[0], tmp_path / "runs" / "hopper")
    shutil.copytree(exported("hopper"), tmp_path / "hopper")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks[0] + blocks[1], names)
    assert names["action"].shape == (5, 3)
    assert names["traces"].shape == (40, 20)
    assert names["trained"].run["task"] == "Hopper-v5"
