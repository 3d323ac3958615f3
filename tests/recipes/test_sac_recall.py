import json
import math
import shlex
import sys

import matplotlib.image
import pytest
import torch
from omegaconf import OmegaConf
from recipe_fixtures import (
    RECALLS,
    SCRIPT,
    Faulty,
    command,
    compose_config,
    configure,
    load,
    metrics,
    process_state_kept,
    sha256,
    shell,
    summary,
    tiny,
    train,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.schema import ConfigError, SACRecallConfig, validate
from torchrl_recall.trainers.tasks.gym import DivergenceError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train(run, tiny("backtracking", seed=4, logger__backend="tensorboard")) == 0
    return run


@pytest.mark.parametrize("recall", RECALLS)
def test_every_variant_runs_end_to_end(recall, tmp_path):
    run = tmp_path / "run"
    assert train(run, tiny(recall)) == 0
    assert summary(run)["recall"] == recall
    assert summary(run)["frames"] == 160
    last = metrics(run)[-1]
    assert all(math.isfinite(float(value)) for value in last.values())
    imitates = recall not in ("none", "backtracking", "forward_dyna")
    assert ("recall/loss_imitation" in last) == imitates
    assert ("backtracking/loss_backward_policy" in last) == (recall in ("imitation", "paper"))
    trains = recall in ("backtracking", "imitation", "paper")
    assert ("backtracking/loss_state_predictor" in last) == trains
    assert ("reward_model/loss_reward" in last) == (recall in ("backtracking", "forward_dyna"))
    assert ("forward_model/loss_state_predictor" in last) == (recall == "forward_dyna")


def test_the_script_runs_in_a_real_shell_and_prints_a_table(tmp_path):
    words = tiny("backtracking", collector__total_frames=80, eval__interval=40)
    done = shell(command(*words, run_dir=tmp_path / "run"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"summary: {tmp_path / 'run' / 'summary.json'}" in done.stdout
    assert f"picture: {tmp_path / 'run' / 'curve.png'}" in done.stdout
    table = done.stdout.split("steps   seconds     return")[1].split("\n\n")[0].split()
    assert [int(table[0]), int(table[3])] == [40, 80]
    assert float(table[5]) == pytest.approx(summary(tmp_path / "run")["final_eval_return"], abs=0.01)  # noqa: E501  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "MUJOCO_LOG.TXT"}


def test_a_run_leaves_its_files(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "metrics.csv", "curve.png", "checkpoints", "summary.json"} <= names
    assert not [name for name in names if name.startswith(".partial")]


def test_columns_start_with_frames_seconds_and_return(finished):
    lines = (finished / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    assert columns[:3] == ["frames", "wall_seconds", "eval_return"]
    assert "loss_qvalue" in columns
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:]]
    assert [int(row["frames"]) for row in rows] == [80, 160]
    assert 0 < float(rows[0]["wall_seconds"]) < float(rows[1]["wall_seconds"])
    assert all(math.isfinite(float(row["eval_return"])) for row in rows)


def test_the_picture_is_one(finished):
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(finished / "curve.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.01


def test_the_summary_says_what_ran(finished):
    told = summary(finished)
    assert (told["env"], told["recall"], told["seed"]) == ("Hopper-v5", "backtracking", 4)
    assert told["frames"] == 160
    assert told["final_eval_return"] == float(metrics(finished)[-1]["eval_return"])
    assert 0 < told["steps_per_second"] < 100_000
    assert told["steps_per_second"] <= 160 / told["wall_seconds"] * 3
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"torchrl", "tensordict", "gymnasium", "mujoco", "python"} <= told["versions"].keys()
    assert len(told["weights_sha256"]) == 64
    int(told["weights_sha256"], 16)


def test_the_hash_is_that_of_the_weights_in_the_checkpoint(finished):
    from torchrl_recall.trainers.runs.process import weights_sha256

    frames, state = load(finished)
    assert frames == 160
    states = state["host"]["loss"], state["recall"]["model"]
    assert weights_sha256(*states) == sha256(finished)
    weight = next(v for v in states[0].values() if isinstance(v, torch.Tensor) and v.numel() > 1)
    bits = weight.view(-1)[:1].view(torch.int32)
    bits ^= 1  # the lowest bit of one weight
    assert weights_sha256(*states) != sha256(finished)


def test_the_saved_configuration_is_the_one_that_ran(finished):
    saved = validate(OmegaConf.load(finished / "config.yaml"), SACRecallConfig)
    words = tiny("backtracking", seed=4, logger__backend="tensorboard")
    assert saved == configure([*words, f"run_dir={finished}"])


def test_tensorboard_events_are_written(finished):
    accumulator = EventAccumulator(str(finished / "tensorboard"))
    accumulator.Reload()
    scalars = accumulator.Scalars("eval_return")
    assert [event.step for event in scalars] == [80, 160]
    expected = [float(row["eval_return"]) for row in metrics(finished)]
    assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)
    assert "backtracking/loss_state_predictor" in accumulator.Tags()["scalars"]


def test_no_logger_writes_no_events(tmp_path):
    train(tmp_path / "run", tiny("none", collector__total_frames=62))
    assert list(tmp_path.rglob("*tfevents*")) == []


def test_the_command_to_go_on_works(tmp_path, monkeypatch, capsys):
    run = tmp_path / "a run"
    words = tiny("none", collector__total_frames=70)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, f"run_dir={run}"])
    assert train(run, words) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "to go on: " in text]
    _, script, *arguments = shlex.split(line.removeprefix("to go on: "))
    assert script == str(SCRIPT)
    assert configure(arguments).run_dir == str(run)
    assert train(run, [word for word in arguments if not word.startswith("run_dir=")]) == 0
    assert summary(run)["frames"] == 140


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_threads_are_applied(tmp_path, threads):
    words = tiny("none", collector__total_frames=62, torch_threads=threads)
    with process_state_kept():
        torch.set_num_threads(3 - threads)
        assert sac_recall.train(configure([*words, f"run_dir={tmp_path / 'run'}"])).status == 0
        assert torch.get_num_threads() == threads


def test_a_random_model_keeps_its_first_weights_but_learns_statistics(tmp_path):
    words = tiny("random_model")
    train(tmp_path / "run", words)
    _, state = load(tmp_path / "run")
    torch.manual_seed(0)
    model = sac_recall.build(configure(words), torch.device("cpu")).recall.model
    weights = {name for name, _ in model.named_parameters()}
    differ = {
        name
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
        and not torch.equal(value, state["recall"]["model"][name])
    }
    assert weights
    assert differ
    assert not differ & weights


def test_imitation_changes_the_policy(tmp_path):
    train(tmp_path / "with", tiny("self_imitation"))
    train(tmp_path / "without", tiny("self_imitation", recall__num_updates=0))
    assert sha256(tmp_path / "with") != sha256(tmp_path / "without")
    assert "recall/loss_imitation" not in metrics(tmp_path / "without")[-1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["observation", "reward"])
def test_bad_numbers_stop_the_run_and_leave_it_resumable(tmp_path, monkeypatch, key, value):
    run = tmp_path / "run"
    words = tiny("backtracking", env__name="RecipeFaulty-v0")
    monkeypatch.setattr(Faulty, "fault", {"step": 100, key: value})
    with pytest.raises(FloatingPointError, match=rf"RecipeFaulty-v0 .*'{key}'.*step \d+") as error:
        train(run, words)
    frames, state = load(run)
    assert f"step {frames}." in str(error.value)
    # Resets take no frame, so the hundredth step is the hundredth frame.
    assert frames == 99
    assert finite(state["host"])
    monkeypatch.setattr(Faulty, "fault", {})
    with pytest.warns(UserWarning, match="a new one begins"):
        assert train(run, [*words, "resume=auto"]) == 0
    frames, state = load(run)
    assert frames == 160
    rows = state["replay_buffer"]["rows"]
    assert len(rows) == 160
    assert all(finite(rows[k]) for k in ("observation", "action", ("next", "observation")))
    assert finite(state["host"])
    assert finite(state["recall"]["model"])


@pytest.mark.parametrize("reset", [2, 4])  # the first belongs to the seeding
def test_a_reset_to_nan_stops_the_run(tmp_path, monkeypatch, reset):
    monkeypatch.setattr(Faulty, "fault", {"reset": reset})
    with pytest.raises(FloatingPointError, match=r"RecipeFaulty-v0 .*observation"):
        train(tmp_path / "run", tiny("none", env__name="RecipeFaulty-v0", eval__interval=1000))


def finite(node) -> bool:
    if isinstance(node, torch.Tensor):
        return bool(node.isfinite().all())
    if isinstance(node, dict):
        return all(map(finite, node.values()))
    if isinstance(node, list | tuple):
        return all(map(finite, node))
    return True


def test_bad_numbers_end_the_command_line_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Faulty, "fault", {"step": 20, "reward": math.nan})
    config = compose_config(tiny("none", env__name="RecipeFaulty-v0", run_dir=tmp_path / "run"))
    with process_state_kept(), pytest.raises(SystemExit) as exit:
        sac_recall.main.__wrapped__(config)
    assert exit.value.code.startswith("FloatingPointError: RecipeFaulty-v0")
    assert "\n" not in exit.value.code


def test_a_trajectory_longer_than_the_buffer_is_a_configuration_error(tmp_path):
    words = tiny(
        "backtracking", env__name="Pendulum-v1", backtracking__buffer_size=100,
        collector__total_frames=220, collector__init_random_frames=210,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"backtracking\.buffer_size=100"):
        train(tmp_path / "run", words)


def test_a_batch_of_several_frames_counts_them_all(tmp_path):
    words = tiny("backtracking", collector__frames_per_batch=8, recall__interval=16)
    assert train(tmp_path / "run", words) == 0
    assert summary(tmp_path / "run")["frames"] == 160
    _, state = load(tmp_path / "run")
    assert len(state["replay_buffer"]["rows"]) == state["recall"]["schedule"]["frames"] == 160


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match=r"run_dir"):
        train(tmp_path / "run", tiny("none"))


def test_summary_is_valid_json_for_other_readers(finished):
    text = (finished / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summary(finished)


def test_a_diverged_policy_stops_without_saving(tmp_path):
    with pytest.raises(DivergenceError, match=r"the policy chose NaN.*after step"):
        train(tmp_path / "run", tiny("none", optim__lr=1e30, checkpoint__interval=0))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("recall", ["none", "imitation", "backtracking"])
def test_a_profile_says_where_the_time_goes(recall, tmp_path, capsys):
    train(tmp_path / "run", tiny(recall, profile="true"))
    table = capsys.readouterr().out.split("part ")[1].splitlines()[1:]
    calls = {line.split("  ")[0]: int(line.split()[-4].replace(",", "")) for line in table[:-1]}
    assert calls["collect"] == calls["write"] == calls["rest"] == 160
    assert calls["update"] == calls["sample"] == 100
    assert calls.get("recall: traces") == (None if recall == "none" else 10)
    assert calls.get("recall: imitate") == (10 if recall == "imitation" else None)
    assert calls.get("recall: sample") == (100 if recall == "backtracking" else None)
    shares = [float(line.split()[-1].rstrip("%")) for line in table]
    assert sum(shares[:-1]) == pytest.approx(100, abs=1)
