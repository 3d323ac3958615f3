"""Each figure's command in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("name", SMALL)
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
        ("figure_8", ["backtracking+recall.trace_length=5"]),
        ("figure_16", ["forward_model"]),
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
    assert all(f"| {method} |" in done.stdout for method in methods)


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
