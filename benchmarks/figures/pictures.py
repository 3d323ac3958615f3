"""Draw the pictures of ``docs/results`` again, from the rows beside them.

    python benchmarks/figures/pictures.py only=[figure_6,critic]

Without ``only`` all are drawn. Pictures that show more than the rows hold stay as their scripts
left them: the maps of figures 11 and 12, the visits of figure 3, films and traces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import figure_18
import numpy as np
import trace_quality
from matplotlib.figure import Figure

from runs import critic_runs, four_rooms, goal_runs, mujoco_runs
from runs.evidence import options, save
from torchrl_recall.results.picture import Curve, Times, draw_shares
from torchrl_recall.results.rows import read_rows
from torchrl_recall.results.statistics import paired_ratio

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
Row = Mapping[str, str]
Key = tuple[str, str]
# Methods of ``critic.csv`` that are drawn; the table has all.
CRITIC = [
    f"{recall}+sac.n_step=3{more}"
    for recall, more in {
        "none": "",
        "backtracking": "+recall.end_states=reward",
        "self_imitation": "",
        "imitation": "",
        "forward_dyna": "+recall.reward=torchrl_recall.envs.sparse_tasks:goal_rule",
    }.items()
]
SIZES = [f"{size}_{start}" for start in ("uniform", "opposite") for size in (11, 13, 15, 19)]


def rows_of(file: str, figure: str, tasks: Sequence[str], methods: Sequence[str]) -> list[Row]:
    """Read the rows of a figure, in the order of tasks where they are given."""
    rows = [row for row in read_rows(RESULTS / file) if row["figure"] == figure]
    kept = [
        row for row in rows
        if row["task"] in (tasks or [row["task"]]) and row["method"] in (methods or [row["method"]])
    ]  # fmt: skip
    return sorted(kept, key=lambda row: tasks.index(row["task"]) if tasks else 0)


def curves(rows: Sequence[Row], metric: str) -> dict[Key, dict[int, tuple[list[int], list[float]]]]:
    """Return frames and values of each seed, by task and method."""
    found: dict[Key, dict[int, tuple[list[int], list[float]]]] = defaultdict(dict)
    for row in rows:
        if row["metric"] == metric:
            of_method = found[row["task"], row["method"]]
            frames, values = of_method.setdefault(int(row["seed"]), ([], []))
            frames.append(int(row["frames"]))
            values.append(float(row["value"]))
    return found


def times(rows: Sequence[Row]) -> dict[Key, Times]:
    """Return frames to the target of each seed and at the end, by task and method."""
    found: dict[Key, tuple[list[float | None], int]] = {}
    for row in rows:
        if row["metric"] == "frames_to_target":
            key = row["task"], row["method"]
            reached, end = found.get(key, ([], 0))
            reached.append(float(row["value"]) if row["value"] else None)
            found[key] = reached, max(end, int(row["frames"]))
    return found  # type: ignore[return-value]


def returns(rows: Sequence[Row], recipe: str) -> Figure:
    """Draw returns of MuJoCo runs."""
    return mujoco_runs.draw(recipe, curves(rows, "eval_return"))  # type: ignore[arg-type]


def coverage(rows: Sequence[Row]) -> Figure:
    """Draw coverage of goals."""
    found: dict[Key, Curve] = {}
    for key, seeds in curves(rows, "coverage").items():
        frames = next(iter(seeds.values()))[0]
        found[key] = frames, np.array([values for _, values in seeds.values()])
    return goal_runs.draw(found, goal_runs.DEFAULTS["target"])  # type: ignore[arg-type]


def trace_lengths(rows: Sequence[Row]) -> Figure:
    """Draw the gain against trace lengths and imitation updates."""
    reached: dict[Key, dict[int, int | None]] = defaultdict(dict)
    for row in rows:
        if row["metric"] == "frames_to_target":
            number = int(row["value"]) if row["value"] else None
            reached[row["task"], row["method"]][int(row["seed"])] = number
    (task,) = {task for task, _ in reached}
    limit = max(int(row["frames"]) for row in rows)
    return figure_18.draw(
        {
            (task, updates): {
                length: paired_ratio(
                    reached[task, "none"],
                    reached[task, figure_18.name(updates, length)],
                    limit=limit,
                )
                for length in (5, 10, 20, 40, 80)
            }
            for updates in (1, 4, 16)
        }
    )


def audit_of(rows: Sequence[Row]) -> tuple[trace_quality.Quality, list[int]]:
    """Return what the simulator says of traces, and their lengths."""
    quality: trace_quality.Quality = defaultdict(dict)
    lengths = set()
    for row in rows:
        name, _, rest = row["metric"].partition(": ")
        metric, _, steps = rest.partition(", ")
        k = int(steps.removesuffix(" steps") or 0)
        lengths |= {k} - {0}
        quality[row["task"], name, k, metric][int(row["seed"])] = float(row["value"])
    return quality, sorted(lengths)


def audit(rows: Sequence[Row]) -> Figure:
    """Draw what the simulator says of traces."""
    return trace_quality.draw(*audit_of(rows), trace_quality.NUM_TRACES)


def shares(rows: Sequence[Row]) -> Figure:
    """Draw the share of seeds at the target in small sparse tasks."""
    return draw_shares(times(rows), host="sac")


def rooms(rows: Sequence[Row]) -> Figure:
    """Draw the share of seeds at the target in the four rooms."""
    return four_rooms.draw(times(rows))


Source = tuple[str, str, Sequence[str], Sequence[str]]  # file, figure, tasks and methods; all: []
ROOMS = "Steps until the discounted return is 0.9 of the optimum. 20 seeds."
RETURN = mujoco_runs.CAPTION
ONE = "recall.demonstrations=runs/demonstrations/data/1"
WITH_TRACES = "backtracking+sac.n_step=3+recall.end_states=reward"
ONE_DEMONSTRATION = [
    "none+sac.n_step=3", WITH_TRACES, f"cloning+sac.n_step=3+{ONE}",
    f"self_imitation+sac.n_step=3+{ONE}", f"{WITH_TRACES}+{ONE}",
]  # fmt: skip
PICTURES: dict[str, tuple[Source, Callable[[Sequence[Row]], Figure], str]] = {
    "four_rooms_2": (("four_rooms.csv", "2", SIZES, []), rooms, ROOMS),
    "four_rooms_4": (("four_rooms.csv", "4", SIZES, []), rooms, ROOMS),
    "four_rooms_14": (("four_rooms.csv", "14", SIZES, []), rooms, ROOMS),
    "four_rooms_17": (
        ("four_rooms.csv", "17", [], []), rooms,
        f"{ROOMS} The interval is that of actor-critic updates between rounds of recall.",
    ),
    "four_rooms_18": (
        ("four_rooms.csv", "18", [], []), trace_lengths,
        "20 seeds, bootstrap 95 % intervals of the paired geometric mean.",
    ),
    "critic": (
        ("critic.csv", "critic", ["point_free4", "point_free6", "point_umaze"], CRITIC), shares,
        f"{critic_runs.CAPTION} 20 seeds, 3-step returns in all methods.",
    ),
    "demonstrations": (
        ("demonstrations.csv", "demonstrations", [], ONE_DEMONSTRATION), shares,
        f"{critic_runs.CAPTION} 12 seeds.",
    ),
    "host_check": (("host_check.csv", "host_check", [], []), partial(returns, recipe="sac"),
                   RETURN.format(8)),
    "host_study": (("host_study.csv", "host_study", [], []), partial(returns, recipe="sac"),
                   RETURN.format(3)),
    "eager_and_compiled": (("eager_and_compiled.csv", "eager_and_compiled", [], []),
                           partial(returns, recipe="sac"), RETURN.format(3)),
    "trpo_check": (("trpo_check.csv", "trpo_check", [], []), partial(returns, recipe="trpo"),
                   RETURN.format(10)),
    "figure_6": (("figure_6.csv", "6", [], []), partial(returns, recipe="trpo"), RETURN.format(5)),
    "figure_6_long": (("figure_6_long.csv", "6_long", [], []), partial(returns, recipe="trpo"),
                      RETURN.format(3)),
    "figure_8": (("figure_8.csv", "8", [], []), partial(returns, recipe="trpo"), RETURN.format(5)),
    "delayed_ppo": (("delayed_ppo.csv", "delayed_ppo", [], []), partial(returns, recipe="ppo"),
                    RETURN.format(5)),
    "delayed_sac": (("delayed_sac.csv", "delayed_sac", [], []), partial(returns, recipe="sac"),
                    RETURN.format(3)),
    "cartpole_sparse": (("cartpole_sparse.csv", "cartpole_sparse", [], []),
                        partial(returns, recipe="sac"), RETURN.format(6)),
    "figure_16": (("figure_16.csv", "16", [], []), partial(returns, recipe="trpo"),
                  RETURN.format(2)),
    "figure_7": (("figure_7.csv", "7", [], []), partial(returns, recipe="sac"), RETURN.format(3)),
    "figure_15": (("figure_15.csv", "15", [], []), partial(returns, recipe="sac"),
                  RETURN.format(3)),
    "figure_19": (("figure_19.csv", "19", [], []), partial(returns, recipe="sac"),
                  RETURN.format(3)),
    "figure_13": (
        ("figure_13.csv", "13", ["point_free2", "point_free4", "point_free6", "point_umaze",
                                 "point_maze"], []), coverage,
        "Mean of 12 seeds and 95 % interval; 5 seeds in MuJoCo's point maze and of SAC with "
        "hindsight replay, which ends at the mark of 0.63.",
    ),
    "trace_audit": (("trace_audit.csv", "traces", [], []), audit, trace_quality.CAPTION),
}  # fmt: skip


def main() -> None:
    """Draw the pictures."""
    for name in options({"only": list(PICTURES)}).only:
        source, draw, caption = PICTURES[name]
        save(draw(rows_of(*source)), RESULTS / f"{name}.png", caption)
        print(RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
