"""Each figure's command in small."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recipe_fixtures import one_thread

from torchrl_recall.results.rows import read_rows

FIGURES = Path(__file__).resolve().parents[2] / "benchmarks" / "figures"


def figure(name: str, out: Path, *words: str) -> subprocess.CompletedProcess:
    common = ["seeds=2", "first_seed=5", "frames=1024", f"out={out}", "sizes=[5]"]
    return subprocess.run(
        [sys.executable, str(FIGURES / f"{name}.py"), *common, *words],
        cwd=out.parent, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


SMALL = {
    "figure_2": ["start=uniform", "methods=[none,exact]"],
    "figure_3": ["start=uniform", "methods=[none,exact]"],
    "figure_4": ["start=opposite", "methods=[prioritized_replay,exact]"],
    "figure_14": ["start=uniform", "methods=[random_model,exact]"],
    "figure_17": ["start=uniform", "intervals=[2]"],
    "figure_18": ["start=uniform", "num_updates=[1]", "trace_lengths=[5]"],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("figure_2", "figure_17") else [pytest.mark.slow])
        for name in SMALL
    ],
)
def test_every_figure_is_made(name, tmp_path):
    out = tmp_path / "out"
    done = figure(name, out, *SMALL[name])
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "results.csv")
    assert {row["figure"] for row in rows} == {name.removeprefix("figure_")}
    assert {row["seed"] for row in rows} == {"5", "6"}
    methods = {row["method"] for row in rows}
    assert len(methods) == 2
    reached = [row for row in rows if row["metric"] == "frames_to_target"]
    assert len(reached) == 2 * len(methods)
    metrics = {"frames_to_target", "return"} | ({"distinct_cells"} if name == "figure_3" else set())
    assert {row["metric"] for row in rows} == metrics
    assert (out / "figure.png").stat().st_size > 10_000
    assert all(f"| {method} |" in done.stdout for method in methods)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("figure_6", ["none", "ppo:none"]),
        pytest.param("figure_8", ["backtracking+recall.trace_length=5"], marks=[pytest.mark.slow]),
        pytest.param("figure_16", ["forward_model"], marks=[pytest.mark.slow]),
    ],
)
def test_mujoco_figures_are_made(name, methods, tmp_path):
    tiny = "+collector.frames_per_batch=64+policy.num_cells=[8,8]+eval.num_episodes=1"
    sizes = {False: "+trpo.batch_size=32", True: "+ppo.batch_size=32"}
    methods = [method + tiny + sizes[method.startswith("ppo")] for method in methods]
    quoted = ",".join(f"'{method}'" for method in methods)
    done = subprocess.run(
        [
            sys.executable, str(FIGURES / f"{name}.py"), "tasks=[Hopper-v5]", "frames=128",
            "eval_interval=64", "seeds=1", f"methods=[{quoted}]", f"out={tmp_path / 'out'}",
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out" / "results.csv")
    assert [(row["method"], row["frames"]) for row in rows] == [
        (method, frames) for method in methods for frames in ("64", "128")
    ], done.stdout
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    assert all(f"| `{method}` |" in done.stdout for method in methods)


TINY_SAC = [
    "sac.num_cells=[8,8]", "collector.init_random_frames=40", "replay_buffer.batch_size=8",
    "recall.state_batch_size=8", "recall.num_high_value_states=2", "backtracking.num_updates=1",
    "eval.num_episodes=1",
]  # fmt: skip


def sac_figure(name: str, out: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FIGURES / f"{name}.py"), f"out={out}", "frames=150", "jobs=1"]
    return subprocess.run(
        [*command, "seeds=1", "eval_interval=75", *words],
        cwd=out.parent, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_untrained_models_length_is_chosen_on_seeds_that_are_not_shown(tmp_path):
    tiny, out = "+".join(TINY_SAC), tmp_path / "out"
    words = ["tasks=[Pendulum-v1]", f"methods=['none+{tiny}']", f"untrained='random_model+{tiny}'"]
    words += ["lengths=[1,2]", "tuning_seeds=1", "first_seed=7"]
    done = sac_figure("figure_15", out, *words)
    assert done.returncode == 0, done.stderr
    means = {}
    for row in read_rows(out / "tuning/results.csv"):
        assert row["seed"] == "100"
        means.setdefault(row["method"], []).append(float(row["value"]))
    best = max(means, key=lambda method: sum(means[method]))
    rows = read_rows(out / "results.csv")
    assert {(row["method"], row["seed"]) for row in rows} == {(f"none+{tiny}", "7"), (best, "7")}
    assert f"chosen on seeds [100]: {best[-1]} in Pendulum-v1" in (out / "table.md").read_text()
    assert sac_figure("figure_15", out, *words, "collect=true").stdout.endswith(done.stdout[-200:])


def test_seeds_that_choose_are_not_shown(tmp_path):
    done = sac_figure("figure_15", tmp_path / "out", "first_seed=101")
    assert done.returncode == 1
    assert "seeds [101] would choose and be shown; change first_tuning_seed" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_recall_updates_are_counted_per_five_of_sac(tmp_path):
    """Rounds are as long as the figure says, and its command runs."""
    spec = importlib.util.spec_from_file_location("figure_19", FIGURES / "figure_19.py")
    sys.path.insert(0, str(FIGURES))
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    sys.path.remove(str(FIGURES))
    method = f"imitation+{'+'.join(TINY_SAC)}+recall.num_updates=3"
    done = sac_figure("figure_19", tmp_path / "out", "tasks=[Pendulum-v1]", f"methods=['{method}']")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("*/config.yaml")
    recall = OmegaConf.load(path).recall
    assert (recall.interval, recall.num_updates) == (module.INTERVAL, 3)
    assert {row["method"] for row in read_rows(tmp_path / "out/results.csv")} == {method}


@pytest.mark.slow
def test_delayed_rewards_are_the_tasks_own_setting(tmp_path):
    tiny, out = "+".join(TINY_SAC), tmp_path / "out"
    task = "Pendulum-v1+env.delay=20"
    methods = [f"none+{tiny}", f"none+{tiny}+sac.n_step=3"]
    quoted = ",".join(f"'{method}'" for method in methods)
    done = sac_figure("delayed", out, f"tasks=['{task}']", f"methods=[{quoted}]")
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "results.csv")
    assert {(row["task"], row["method"]) for row in rows} == {(task, m) for m in methods}
    configs = [OmegaConf.load(path) for path in out.glob("*/config.yaml")]
    assert [config.env.delay for config in configs] == [20, 20]
    assert f"| `{methods[1]}` | 1 | 150 |" in done.stdout
    peer = sac_figure("delayed", out, f"tasks=['{task}']", "methods=[sb3]")
    assert "sb3 takes no overrides; leave those of tasks and overrides= out" in peer.stderr


@pytest.mark.slow
def test_divergence_is_watched_round_by_round(tmp_path):
    """Traces of an untrained model that nothing cuts leave the data, farther at every step."""
    settings = ["recall.max_deviation=null", "recall.interval=200", "recall.advantage_gate=false"]
    method = "+".join(["random_model", *settings])
    done = subprocess.run(
        [
            sys.executable, str(FIGURES / "divergence.py"), "tasks=[Pendulum-v1]", "seeds=1",
            f"methods=['{method}']", f"out={tmp_path / 'out'}", "frames=1210", "compile=false",
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out/results.csv")
    value = {row["metric"]: row["value"] for row in rows}
    assert float(value["loss_imitation"]) >= float(value["first loss_imitation"])
    assert float(value["state, 20 steps back"]) > float(value["state, 1 steps back"]) > 0
    assert value["diverged_at"] == ""
    assert (tmp_path / "out/figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_coverage_figures_are_made(tmp_path):
    tiny = "+goal_gan.num_new=4+goal_gan.num_old=2+env.max_steps=5+trpo.batch_size=30"
    methods = [f"{recall}{tiny}" for recall in ("none", "backtracking")]
    for name in ("figure_13", "figure_11", "figure_12"):
        done = subprocess.run(
            [
                sys.executable, str(FIGURES / f"{name}.py"), "tasks=[point_umaze]", "frames=270",
                "seeds=1", f"methods=[{','.join(methods)}]", f"out={tmp_path / 'out'}",
            ],
            cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = read_rows(tmp_path / "out" / "results.csv")
        assert {row["method"] for row in rows} == set(methods)
        assert {row["metric"] for row in rows} == {"frames_to_target", "coverage"}
        assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_replayed_traces_land_where_they_say(tmp_path):
    """A model of free space, well trained, is nearly right, and exact reverse dynamics are."""
    few = "+goal_gan.num_new=12+goal_gan.num_old=6+trpo.batch_size=100+backtracking.num_updates=400"
    done = subprocess.run(
        [
            sys.executable, str(FIGURES / "trace_quality.py"), "tasks=[point_free2]", "seeds=1",
            f"methods=[backtracking{few}]", "frames=27000", "lengths=[1,5,20]",
            f"out={tmp_path / 'out'}",
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out" / "trace_quality.csv")
    value = {row["metric"]: float(row["value"]) for row in rows}
    for k in (1, 5, 20):
        assert value[f"exact reverse dynamics: landing_error, {k} steps"] < 1e-5
        assert value[f"ExactDynamics: impossible, {k} steps"] == 0
    assert value["real trajectories: landing_error, 20 steps"] < 1e-5
    assert value["none: steps kept"] == value["none: num_traces, 20 steps"] == 1
    assert value["none: landing_error, 1 steps"] < 0.1
    assert value["none: landing_error, 20 steps"] < value["none: displacement, 20 steps"]
    assert (tmp_path / "out" / "trace_quality.png").stat().st_size > 10_000


@pytest.mark.slow
def test_traces_of_a_simulated_body_are_cut_by_every_filter(tmp_path):
    small = "+recall.agreement=0.95+trpo.num_epochs=1+eval.num_episodes=1"
    done = subprocess.run(
        [
            sys.executable, str(FIGURES / "trace_quality.py"), "tasks=[Hopper-v5]", "seeds=1",
            f"methods=[backtracking{small}]", "mujoco_frames=6144", "lengths=[1,5]",
            f"out={tmp_path / 'out'}",
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out" / "trace_quality.csv")
    value = {row["metric"]: float(row["value"]) for row in rows}
    kept = {name.partition(":")[0]: x for name, x in value.items() if name.endswith("kept")}
    filters = ["WithinSupport", "NearVisited", "LoopErasure", "Agreement", "ExactDynamics"]
    assert list(kept) == ["none", *filters, "real trajectories"]
    assert value["real trajectories: landing_error, 5 steps"] < 0.01
    assert kept["none"] == 1
    assert all(0 <= kept[name] <= 1 for name in filters)
    assert kept["ExactDynamics"] < 1
    assert {row["frames"] for row in rows} == {"6144"}


def test_a_figure_goes_on(tmp_path):
    """Finished runs stay, and what is missing is added."""
    out = tmp_path / "out"
    assert figure("figure_2", out, "start=uniform", "methods=[none]").returncode == 0
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    before = read_rows(out / "results.csv")
    assert figure("figure_2", out, *SMALL["figure_2"]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    after = read_rows(out / "results.csv")
    assert [row for row in after if row["method"] == "none"] == before
    assert {row["method"] for row in after} == {"none", "exact"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_every_launcher_gives_the_rows_of_the_thread_pool(launcher, tmp_path):
    if launcher == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    rows = {}
    for name in ("threads", launcher):
        done = figure("figure_2", tmp_path / name, *SMALL["figure_2"], f"launcher={name}", "jobs=2")
        assert done.returncode == 0, done.stderr
        rows[name] = (tmp_path / name / "results.csv").read_text()
    assert rows["threads"] == rows[launcher]


def test_an_unknown_launcher_is_named(tmp_path):
    done = figure("figure_2", tmp_path / "out", *SMALL["figure_2"], "launcher=slurm")
    assert done.returncode == 1
    assert "launcher=slurm is unknown; there are threads, joblib" in done.stderr


@pytest.mark.parametrize("word", ["sizs=[5]", "sizes=[4]", "methods=[exakt]"])
def test_a_mistake_is_named(word, tmp_path):
    done = figure("figure_2", tmp_path / "out", "start=uniform", "methods=[none]", word)
    assert done.returncode != 0
    assert word.split("=")[1].strip("[]") in done.stderr + done.stdout or "sizs" in done.stderr
    assert not (tmp_path / "out" / "results.csv").exists()


@pytest.mark.parametrize("runs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_critic_figure_is_made_and_goes_on(runs, tmp_path):
    small = "+compile=false+collector.total_frames=500+eval.num_episodes=5"
    methods = [f"none+sac.n_step=3{small}", f"backtracking{small}"]
    command = [
        sys.executable, str(FIGURES / "critic.py"), "tasks=[point_umaze]",
        f"methods=[{','.join(methods)}]", f"out={tmp_path / 'out'}", "jobs=1",
    ]  # fmt: skip
    for seeds in range(1, runs + 1):  # the second command has one seed of each left
        done = subprocess.run(
            [*command, f"seeds={seeds}"],
            cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = read_rows(tmp_path / "out" / "results.csv")
        metrics = ("frames_to_target", "wall_seconds", "final_success")
        assert [row["metric"] for row in rows] == 2 * seeds * list(metrics)
        assert {(row["method"], row["seed"]) for row in rows} == {
            (method, str(seed)) for method in methods for seed in range(seeds)
        }
        assert f"| point_umaze | {methods[1]} | " in done.stdout
        assert f" of {seeds} |" in done.stdout
    assert (tmp_path / "out" / "figure.png").exists()
    assert not list((tmp_path / "out").rglob("checkpoints"))


@pytest.mark.slow
def test_the_offline_figure_makes_its_data_and_goes_on(tmp_path):
    """Data are recorded once, and a host beside them is trained with and without traces."""
    command = [
        sys.executable, str(FIGURES / "offline.py"), "tasks=[random]", "frames=500", "jobs=1",
        "methods=[none,random_model]", "host=td3bc", "seeds=1", f"out={tmp_path / 'out'}",
        f"data={tmp_path / 'data'}",
    ]  # fmt: skip
    written = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        rows = read_rows(tmp_path / "out" / "results.csv")
        assert [(row["task"], row["method"], row["frames"], row["metric"]) for row in rows] == [
            ("random", method, "500", metric)
            for method in ("none", "random_model")
            for metric in ("final_return", "wall_seconds")
        ]
        agent = tmp_path / "data/point_free4/agents/expert/summary.json"
        written.append((rows, agent.stat().st_mtime_ns))
    assert written[0] == written[1]  # nothing was trained again
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_data_sets_of_four_kinds_come_from_two_agents(tmp_path):
    """The medium agent trains on to the expert; observations of several entries are joined."""
    task = "gymnasium_robotics:PointMaze_UMazeDense-v3"
    joined = "+env.observation_keys=[observation,desired_goal]"
    command = [
        sys.executable, str(FIGURES / "data_sets.py"), f"task={task}{joined}", "medium=1100",
        "expert=1300", "recorded=400", f"data={tmp_path}",
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    about = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/about.json")}
    assert {name: (data["policy"], data["run"]["frames"]) for name, data in about.items()} == {
        "random": ("random", 1_100),
        "medium": ("trained", 1_100),
        "medium_replay": ("replay", 1_100),
        "expert": ("trained", 1_300),
    }
    assert about["medium_replay"]["frames"] == 1_100
    assert about["medium"]["frames"] >= 400
    done = subprocess.run(
        [*command, "expert=1400"],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "'expert': 1300" in done.stderr
    assert "another folder by data=" in done.stderr
    done = subprocess.run(
        [*command[:2], "task=point_free4", "names=[medium]", f"data={tmp_path}"],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "point_free4 has no medium agent" in done.stderr


@pytest.mark.slow
def test_the_demonstrations_figure_records_what_it_gives(tmp_path):
    """Methods name the folders of their demonstrations, which the command records before."""
    out, small = tmp_path / "out", "compile=false+collector.total_frames=500+eval.num_episodes=5"
    methods = [
        f"none+sac.n_step=3+{small}",
        f"cloning+sac.n_step=3+{small}+recall.demonstrations={out}/data/5",
    ]
    done = subprocess.run(
        [
            sys.executable, str(FIGURES / "demonstrations.py"), f"methods=[{','.join(methods)}]",
            f"out={out}", "seeds=1", "jobs=1",
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["method"] for row in read_rows(out / "results.csv")} == set(methods)
    assert {path.name for path in (out / "data").iterdir()} == {"1", "5", "20"}


@pytest.mark.slow
def test_figures_take_the_runs_of_a_sweep(tmp_path):
    small = ["compile=false", "collector.init_random_frames=100", "sac.num_cells=[8,8]"]
    done = subprocess.run(
        [
            sys.executable, str(FIGURES.parents[1] / "recipes" / "sac_recall.py"), "-m",
            "env.name=Pendulum-v1", "recall=none", "seed=0,1", "collector.total_frames=300",
            "eval.interval=100", "logger.backend=none", *small,
        ],
        cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = [
        "tasks=[Pendulum-v1]", f"methods=['{'+'.join(['none', *small])}']", "frames=300",
        "eval_interval=100", "sweeps=[runs]", "out=figure",
    ]  # fmt: skip
    for seeds, folders in (("2", 0), ("3", 1)):  # the third seed is run
        done = subprocess.run(
            [sys.executable, str(FIGURES / "figure_7.py"), *words, f"seeds={seeds}"],
            cwd=tmp_path, env=one_thread(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = read_rows(tmp_path / "figure" / "results.csv")
        assert {row["seed"] for row in rows} == set("012"[: int(seeds)])
        assert len([path for path in (tmp_path / "figure").iterdir() if path.is_dir()]) == folders


def test_a_filter_that_empties_a_seed_is_weighted_by_what_it_leaves(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    from trace_quality import table

    quality = {
        ("A", "f", 0, "steps kept"): {0: 0.5, 1: 0.1},
        ("A", "f", 1, "num_traces"): {0: 0.9, 1: 0.1, 2: 0.0},
        ("A", "f", 1, "impossible"): {0: 0.0, 1: 0.5},
        ("A", "f", 1, "landing_error"): {0: 1.0, 1: 20.0},  # of 90 and of 5 traces
        ("A", "none", 0, "steps kept"): dict.fromkeys(range(3), 1.0),
        ("A", "none", 1, "num_traces"): dict.fromkeys(range(3), 1.0),
        ("A", "none", 1, "impossible"): dict.fromkeys(range(3), 0.0),
        ("A", "none", 1, "landing_error"): {0: 2.0, 1: 40.0, 2: 900.0},  # seed 2 is not compared
    }
    row = table(quality, [1], 100).splitlines()[-2]
    assert row.endswith("| 100 (2) | 0.05 | 2.00 | 4.00 | - |")
    assert table(quality, [1], 10).splitlines()[-2].endswith("| 10 (2) | - | - | - | - |")


def test_a_filter_is_drawn_beside_uncut_traces_of_the_same_seeds(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    from trace_quality import matched

    quality = {
        ("A", "none", 1, "num_traces"): {0: 1.0, 1: 1.0},
        ("A", "none", 1, "impossible"): {0: 0.0, 1: 0.0},
        ("A", "none", 1, "landing_error"): {0: 1.0, 1: 9.0},  # five on average
        ("A", "f", 1, "num_traces"): {0: 0.0, 1: 1.0},  # leaves the worse seed, and halves it
        ("A", "f", 1, "impossible"): {1: 0.0},
        ("A", "f", 1, "landing_error"): {1: 4.5},
    }
    assert matched(quality, "A", "f", 1, "landing_error", 100) == 2.5
    assert matched(quality, "A", "none", 1, "landing_error", 100) == 5


def test_a_length_that_diverged_is_not_chosen_and_ends_no_figure(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    from figure_15 import best_length

    curves = {("A", "one"): {0: ([10, 20], [1.0, 2.0])}, ("A", "two"): {0: ([10], [9.0])}}
    names = {"one": 1, "two": 2}
    assert best_length(curves, "A", names, {("A", "two")}) == 1
    with pytest.raises(SystemExit, match="missing or unfinished"):
        best_length(curves, "A", names, set())
    with pytest.raises(SystemExit, match="every length diverged"):
        best_length(curves, "A", names, {("A", "one"), ("A", "two")})


def test_a_colon_of_a_setting_names_no_recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    from runs.mujoco_runs import MUJOCO, words_of

    config = OmegaConf.create(MUJOCO)
    method = "forward_dyna+recall.reward=my.module:rule"
    recipe, words = words_of("sac", "Hopper-v5", method, 0, config)
    assert recipe == "sac"
    assert words[:3] == [
        "env.name=Hopper-v5",
        "recall=forward_dyna",
        "recall.reward=my.module:rule",
    ]
    recipe, words = words_of("sac", "Hopper-v5", "ppo:none+a=1", 0, config)
    assert (recipe, words[1:3]) == ("ppo", ["recall=none", "a=1"])
    assert words_of("trpo", "Hopper-v5", "sb3", 0, config) is None
