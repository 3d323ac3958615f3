import math
import runpy
import sys
import time

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from recipe_fixtures import (
    RECALLS,
    SCRIPT,
    command,
    compose_config,
    process_state_kept,
    shell,
)
from tensordict import TensorDict

from torchrl_recall import NoRecall
from torchrl_recall.trainers.runs.run import Run
from torchrl_recall.trainers.schema import ConfigError, SACRecallConfig, validate

# What a user gets wrong, and the words that the answer must hold.
REFUSED = [
    ("+sac.gama=0.9", r"sac\.gama"),
    ("+recall.trace_lenght=5", r"recall\.trace_lenght"),
    ("+colector.total_frames=5", r"colector"),
    ("sac.gamma=abc", r"sac\.gamma.*abc"),
    ("sac.gamma=null", r"sac\.gamma"),
    ("sac.gamma=1.5", r"sac\.gamma must be at most 1"),
    ("sac.num_cells=256", r"sac\.num_cells"),
    ("sac.num_cells=[a,b]", r"sac\.num_cells"),
    ("sac.num_cells=[16,0]", r"sac\.num_cells must be positive"),
    ("backtracking.num_cells=[16,-1]", r"backtracking\.num_cells must be positive"),
    ("compile=perhaps", r"compile.*perhaps"),
    ("recall.trace_length=1000000000", r"recall\.trace_length must be at most 10,000"),
    ("torch_threads=100000", r"torch_threads must be at most 1,024"),
    ("seed=4294967296", r"seed must be below 4,294,967,296"),
    ("collector.total_frames=0.5", r"collector\.total_frames.*0\.5"),
    ("collector.total_frames=many", r"collector\.total_frames.*many"),
    ("collector.total_frames=0", r"collector\.total_frames must be positive"),
    ("collector.frames_per_batch=0", r"collector\.frames_per_batch must be positive"),
    ("collector.init_random_frames=-1", r"collector\.init_random_frames must be zero or more"),
    ("collector.init_random_frames=1000000", r"init_random_frames.*collector\.total_frames"),
    ("optim.lr=nan", r"optim\.lr must be a finite number"),
    ("optim.lr=inf", r"optim\.lr must be a finite number"),
    ("optim.lr=-0.001", r"optim\.lr must be positive"),
    ("optim.lr=0", r"optim\.lr must be positive"),
    ("recall.lr=-1", r"recall\.lr must be positive"),
    ("backtracking.lr=nan", r"backtracking\.lr must be a finite number"),
    ("recall.trace_length=0", r"recall\.trace_length must be positive"),
    ("env.trace_length=0", r"trace_length must be positive"),
    ("recall.num_traces=0", r"recall\.num_traces must be positive"),
    ("recall.interval=0", r"recall\.interval must be positive"),
    ("recall.loop_erasure=-1", r"recall\.loop_erasure must be zero or more"),
    ("recall.temperature=0", r"recall\.temperature must be positive"),
    ("recall.max_deviation=nan", r"recall\.max_deviation must be a finite number"),
    ("recall.anneal_frames=0", r"recall\.anneal_frames must be positive"),
    ("recall.method=recal", r"recall\.method must be one of recall, none, self_imitation.*recal"),
    ("recall.name=''", r"recall\.name is empty"),
    ("backtracking.state_fraction=0", r"backtracking\.state_fraction must be positive"),
    ("backtracking.state_fraction=2", r"backtracking\.state_fraction must be at most 1"),
    ("backtracking.action_scale=big", r"backtracking\.action_scale must be one of unit, learned"),
    ("backtracking.state_predictor_data=some", r"state_predictor_data must be one of all, top"),
    ("backtracking.return_threshold=nan", r"return_threshold must be a finite number"),
    ("replay_buffer.size=100", r"replay_buffer\.size=100.*replay_buffer\.batch_size=256"),
    ("replay_buffer.size=0", r"replay_buffer\.size must be positive"),
    ("replay_buffer.batch_size=2000000", r"replay_buffer\.size.*replay_buffer\.batch_size=2000000"),
    ("recall.batch_size=2000000", r"replay_buffer\.size.*recall\.batch_size=2000000"),
    ("eval.interval=0", r"eval\.interval must be positive"),
    ("eval.num_episodes=0", r"eval\.num_episodes must be positive"),
    ("checkpoint.keep=0", r"checkpoint\.keep must be positive"),
    ("checkpoint.interval=-5", r"checkpoint\.interval must be zero or more"),
    ("recall.audit=foo", r"recall\.audit must be an integer or auto, got .foo."),
    ("env.delay=foo", r"env\.delay must be an integer or end, got 'foo'"),
    ("device=tpu", r"device must be one of auto, cpu, cuda; got 'tpu'"),
    ("matmul_precision=low", r"matmul_precision must be one of highest, high, medium"),
    ("resume=always", r"resume must be one of never, auto"),
    ("logger.backend=paper", r"logger\.backend must be one of .*tensorboard"),
    ("torch_threads=0", r"torch_threads must be positive"),
    ("seed=-1", r"seed must be zero or more"),
    ("seed=one", r"seed.*one"),
    ("env.name=''", r"env\.name is empty"),
    ("env.name='  '", r"env\.name is empty"),
    ("run_dir=''", r"run_dir is empty"),
]
SHORT = ["collector.total_frames=2", "collector.init_random_frames=1", "compile=false"]
REFUSED_BY_HYDRA = [
    ("sac.gama=0.9", "gama"),
    ("recal.method=none", "recal"),
    ("recall.trace_lenght=5", "trace_lenght"),
    ("recall=none_such", "none_such"),
    ("recal=none", "recal"),
    ("recall=base", "recall/base"),  # a shared file is no choice
]


def run_main(monkeypatch, tmp_path, *overrides):
    """The script with these arguments, in this process; returns what it exits with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *overrides])
    with process_state_kept(), pytest.raises(SystemExit) as exit:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit.value.code


def configure(overrides):
    return validate(compose_config(overrides), SACRecallConfig)


def test_there_are_configurations():
    assert "backtracking" in RECALLS


def test_defaults_compose_without_any_override():
    assert configure([]).recall.name == "backtracking"


@pytest.mark.parametrize(("override", "words"), REFUSED)
def test_a_mistake_is_named(override, words):
    with pytest.raises(ConfigError, match=words) as error:
        configure([override])
    assert "\n" not in str(error.value)


def test_all_mistakes_are_named_at_once():
    mistakes = [
        "collector.total_frames=-5", "recall.method=x", "optim.lr=nan", "+recall.lengthy=3",
        "env.name=???", "checkpoint.keep='${nope}'", "backtracking.num_cells=[16,0,a]",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as error:
        configure(mistakes)
    first, *lines = str(error.value).splitlines()
    assert first == "7 faults in the configuration:"
    assert sorted(lines) == [
        "  backtracking.num_cells must be positive, got 0.",
        "  collector.total_frames must be positive, got -5.",
        "  configuration key 'checkpoint.keep': Interpolation key 'nope' not found.",
        "  configuration key 'env.name': a value is missing.",
        "  configuration key 'recall.lengthy': unknown; did you mean recall.trace_length?",
        "  optim.lr must be a finite number, got nan.",
        "  recall.method must be one of recall, none, self_imitation, cloning, forward_dyna; "
        "got 'x'.",
    ]


def test_all_contradictions_between_values_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        configure(["collector.init_random_frames=2000000", "collector.num_envs=3"])
    assert str(error.value) == (
        "2 faults in the configuration:\n"
        "  collector.frames_per_batch=1 frames cannot be shared by collector.num_envs=3 "
        "environments; make it a multiple.\n"
        "  collector.init_random_frames=2000000 leaves nothing to learn from within "
        "collector.total_frames=1000000."
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+sac.gama=0.9", "configuration key 'sac.gama': unknown; did you mean sac.gamma?"),
        ("+colector.num_envs=5", "configuration key 'colector': unknown; did you mean collector?"),
        ("+sac.xyz=5", "configuration key 'sac.xyz': unknown."),
        ("~sac.gamma", "configuration key 'sac.gamma': a value is missing."),
        ("env=5", "env must be a group of keys, got 5."),
        ("sac.num_cells=256", "sac.num_cells must be a list, got 256."),
        ("sac.num_cells=[a,b]", "sac.num_cells must be an integer, got 'a'."),
        ("sac.gamma=null", "sac.gamma must be a number, got null."),
        ("seed=true", "seed must be an integer, got true."),
        ("profile=perhaps", "profile must be true or false, got 'perhaps'."),
        ("run_dir=[1]", "run_dir must be text, got [1]."),
    ],
)
def test_a_sentence_says_what_came_and_what_was_expected(override, sentence):
    with pytest.raises(ConfigError) as error:
        configure([override])
    assert str(error.value) == sentence


def test_a_list_is_no_configuration():
    with pytest.raises(ConfigError, match=r"the configuration must be a group of keys, got \[1\]"):
        validate(OmegaConf.create([1]), SACRecallConfig)


def test_values_of_other_types_that_mean_the_same_are_accepted():
    config = configure(
        ["recall=imitation", "collector.total_frames=1e4", "run_dir=2024", "optim.lr=1"]
    )
    assert (config.collector.total_frames, config.run_dir, config.optim.lr) == (10_000, "2024", 1.0)
    assert config.recall.anneal_frames == 10_000
    assert isinstance(config.collector.total_frames, int)


def test_the_module_finds_shared_files_from_another_folder(tmp_path):
    words = [sys.executable, "-m", "torchrl_recall.recipes.sac_recall", "--cfg", "job"]
    done = shell(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert OmegaConf.create(done.stdout) == compose_config([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("override", "words"), REFUSED)
def test_a_mistake_ends_the_command_line_in_one_line(override, words, monkeypatch, tmp_path):
    # Short, should the mistake go unnoticed.
    short = [word for word in SHORT if word.split("=")[0] != override.split("=")[0]]
    code = run_main(monkeypatch, tmp_path, *short, override)
    assert isinstance(code, str)  # printed to stderr; the status is one
    assert code.startswith("ConfigError: ")
    assert "\n" not in code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("override", "word"), REFUSED_BY_HYDRA)
def test_hydra_refuses_unknown_names(override, word):
    with pytest.raises(HydraException, match=word):
        compose_config([override])


@pytest.mark.parametrize(("override", "word"), [REFUSED_BY_HYDRA[0], REFUSED_BY_HYDRA[3]])
def test_hydra_refuses_unknown_names_on_the_command_line(override, word, tmp_path):
    done = shell(command(override), tmp_path)
    assert done.returncode != 0
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_group_lists_those_there_are():
    with pytest.raises(HydraException) as error:
        compose_config(["recall=none_such"])
    assert all(recall in str(error.value) for recall in RECALLS)


def test_a_mistake_in_a_real_shell_is_one_line(tmp_path):
    done = shell(command("optim.lr=nan"), tmp_path)
    assert done.returncode == 1
    assert done.stderr == "ConfigError: optim.lr must be a finite number, got nan.\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["NoSuchTask-v1", "CartPole-v1", "Hopper-v99"])
def test_a_task_that_does_not_fit_ends_in_one_line(name, monkeypatch, tmp_path):
    code = run_main(monkeypatch, tmp_path, *SHORT, f"env.name={name}")
    assert code.startswith("ConfigError: ")
    assert name in code
    assert "\n" not in code
    assert list(tmp_path.iterdir()) == []


def test_a_missing_device_ends_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code = run_main(monkeypatch, tmp_path, *SHORT, "device=cuda")
    assert code.startswith("ConfigError: device=cuda")
    assert "device=cpu" in code


@pytest.mark.parametrize("backend", ["wandb", "mlflow", "trackio"])
def test_a_logger_that_is_not_installed_ends_in_one_line(backend, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, backend, None)  # an import of it fails from now on
    code = run_main(monkeypatch, tmp_path, *SHORT, f"logger.backend={backend}")
    assert isinstance(code, str)
    assert code.startswith("ConfigError: logger.backend")
    assert f"pip install 'torchrl-recall[{backend}]'" in code


def test_the_imported_entry_point_finds_its_configuration(monkeypatch, tmp_path):
    from torchrl_recall.recipes.sac_recall import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sac-recall", "optim.lr=nan"])
    with process_state_kept(), pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == "ConfigError: optim.lr must be a finite number, got nan."


def test_help_answers_within_two_seconds(tmp_path):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = shell(command("--help"), tmp_path)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        for key in (
            "total_frames",
            "trace_length",
            "recall: ",
            "backtracking, cloning, forward_dyna, imitation, none, paper",
        ):
            assert key in done.stdout
    assert min(seconds) < 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("HalfCheetah-v5", 20), ("Walker2d-v5", 20), ("Hopper-v5", 20), ("Ant-v5", 50),
        ("Humanoid-v5", 50), ("Pendulum-v1", 20),
    ],
)  # fmt: skip
def test_trace_lengths_follow_table_2(name, length):
    words = ["recall=imitation", f"env.name={name}"]
    config = configure(words)
    assert config.recall.trace_length == config.env.trace_length == length
    assert configure([*words, "recall.trace_length=7"]).recall.trace_length == 7


def test_a_name_with_a_namespace_composes():
    assert configure(["env.name=Some/Task-v0"]).env.trace_length == 20


def test_annealing_ends_with_the_run():
    assert (
        configure(["recall=imitation", "collector.total_frames=12345"]).recall.anneal_frames
        == 12345
    )


def test_imitation_learns_at_the_rate_of_the_host():
    assert configure(["optim.lr=0.5"]).recall.lr == 0.5


def test_paper_has_the_published_schedule():
    config = configure(["recall=paper"])
    per_five = 5 / config.recall.interval
    assert config.sac.num_updates == 1  # a frame is a training step
    assert config.backtracking.num_updates * per_five == pytest.approx(100)  # App. C
    assert config.recall.num_updates * per_five == pytest.approx(10)  # Fig. 19
    assert config.recall.state_batch_size == 20_000  # E.2
    assert config.backtracking.action_scale == "unit"  # App. C
    assert config.backtracking.state_predictor_data == "top"  # Alg. 1, l.8
    assert config.backtracking.num_cells == [128, 128]  # App. C
    assert not config.recall.advantage_gate
    assert config.recall.temperature is None  # Alg. 2: the best states
    nothing = (config.recall.max_deviation, config.recall.loop_erasure, config.recall.anneal_frames)
    assert nothing == (None, None, None)


def built(recall):
    from torchrl_recall.recipes.sac_recall import build

    return build(configure([f"recall={recall}", "compile=false"]), torch.device("cpu")).recall


def test_paper_builds_unit_variance_and_no_filter():
    paper, ours = built("paper"), built("imitation")
    assert list(paper.imitate.transforms) == []
    assert [type(f).__name__ for f in ours.imitate.transforms] == [
        "WithinSupport", "LoopErasure", "AdvantageGate",
    ]  # fmt: skip
    data = TensorDict({"next": {"observation": torch.randn(64, 11)}}, [64])
    scales = []
    for recall in (paper, ours):
        recall.model.update_statistics(
            TensorDict(
                {
                    "observation": torch.randn(64, 11),
                    "action": torch.rand(64, 3) - 0.5,
                    "next": {"observation": torch.randn(64, 11)},
                },
                [64],
            )
        )
        distribution = recall.model.backward_policy.get_dist(data.clone())
        scales.append(distribution.base_dist.scale if hasattr(distribution, "base_dist")
                      else distribution.scale)  # fmt: skip
    assert torch.equal(scales[0], torch.ones_like(scales[0]))
    assert not torch.equal(scales[1], torch.ones_like(scales[1]))


def test_none_builds_nothing():
    assert isinstance(built("none"), NoRecall)


def test_random_model_is_never_trained():
    recall = built("random_model")
    assert recall.train_model.num_updates == 0
    (group,) = recall.imitate.steps.optimizer.param_groups
    assert math.isclose(group["lr"], 3e-4)


def test_self_imitation_has_no_model():
    assert not hasattr(built("self_imitation"), "model")


def compiles_in_a_run(config):
    with process_state_kept(), Run(config):
        return config.compile


@pytest.mark.parametrize(
    ("frames", "given", "compiles"),
    [(9_999, "null", False), (10_000, "null", True), (5_000, "true", True), (50_000, "false", False)],  # noqa: E501
)  # fmt: skip
def test_short_runs_stay_eager(frames, given, compiles, tmp_path):
    words = [f"collector.total_frames={frames}", f"compile={given}", f"run_dir={tmp_path}"]
    assert compiles_in_a_run(configure(words)) is compiles


@pytest.mark.parametrize(("first", "then"), [(9_000, 20_000), (20_000, 9_000)])
def test_a_prolonged_run_keeps_its_kind_of_update(first, then, tmp_path):
    config = configure([f"collector.total_frames={first}", f"run_dir={tmp_path}"])
    assert compiles_in_a_run(config) is (first > 10_000)
    OmegaConf.save(config.model_dump(), tmp_path / "config.yaml")
    words = [f"collector.total_frames={then}", f"run_dir={tmp_path}", "resume=auto"]
    assert compiles_in_a_run(configure(words)) is config.compile
