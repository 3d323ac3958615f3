"""Write ``docs/results/table.md``, with every task, method and host that has rows.

python benchmarks/table.py
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torchrl_recall.results.names import method_name, split_method
from torchrl_recall.results.rows import read_rows
from torchrl_recall.results.statistics import interval, quartiles
from torchrl_recall.trainers.runs.atomic import write_text

__all__ = ["render"]

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "figures"
RESULTS = ROOT / "docs" / "results"
COLUMNS = (
    "task", "method", "seeds", "steps", "last return [95 %]", "reached", "frames to target",
    "configuration",
)  # fmt: skip
RETURNS = ("eval_return", "return", "coverage", "final_success")
HOSTS = {"four_rooms": "a2c", "goal_runs": "goal_gan", "critic_runs": "sac"}  # of figures' runs
INTRODUCTION = """\
# All results

Every task and method that has rows in this folder; what they show is on the pages beside it. This
page is made by `python benchmarks/table.py`.

- **Configuration** is the method's word in `methods=` of the command above the table: a group of
  `recall` with overrides behind plus signs, after its host and a colon where that is not the
  figure's own.
- **Last return** is that of the last evaluation that all seeds have, or of each seed's own end
  where runs end at a target; steps are then those of the longest. Mean and bootstrap 95 % interval.
  In the four rooms a return is a share of the optimum, in goal tasks coverage or success.
- **Frames to the target** are medians with quartiles, infinite where seeds that did not get there
  decide them.
"""
Group = tuple[str, str, str]  # figure, task and method
Rows = dict[str, dict[int, dict[int, float | None]]]  # by metric, seed and frames


def main() -> None:
    """Write the page."""
    write_text(RESULTS / "table.md", render(RESULTS))
    print(RESULTS / "table.md")


def render(results: Path) -> str:
    """Return the page.

    Args:
        results: folder of rows, and of pages with the commands that made them.
    """
    pages = [*results.glob("*.md"), *results.parent.glob("performance.md")]
    written = commands(pages)
    lines = [INTRODUCTION]
    for path in sorted(results.glob("*.csv")):
        groups = read_groups(path)
        for figure in sorted({figure for figure, _, _ in groups}, key=_natural):
            of_figure = {key: rows for key, rows in groups.items() if key[0] == figure}
            lines += section(figure, path.name, of_figure, written)
    return "\n".join(lines) + "\n"


def read_groups(path: Path) -> dict[Group, Rows]:
    """Read returns and frames to targets, if the file has any."""
    groups: dict[Group, Rows] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in read_rows(path):
        if row.get("metric") in (*RETURNS, "frames_to_target"):
            value = float(row["value"]) if row["value"] else None  # a target that was not reached
            key = row["figure"], row["task"], row["method"]
            groups[key][row["metric"]][int(row["seed"])][int(row["frames"])] = value
    return groups


def section(
    figure: str, file: str, groups: Mapping[Group, Rows], written: Iterable[str]
) -> Iterator[str]:
    """Yield a figure's commands and its table."""
    methods = {method for _, _, method in groups}
    found = [command for command in written if _makes(command, figure, methods)]
    script = _script(found[0]) if found else f"figure_{figure.split('_')[0]}"
    yield f"## {'Figure ' if figure[0].isdigit() else ''}{figure.replace('_', ' ')}"
    yield f"\nRows: [{file}]({file}).\n"
    if found:
        yield "\n".join(["```bash", *found, "```\n"])
    else:
        yield f"No page shows the command; it is one of `benchmarks/figures/{script}.py`.\n"
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for (_, task, method), rows in groups.items():
        name = method_name(method, _host(script, method))
        cells = [task, name, *_numbers(rows), f"`{method}`"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _numbers(rows: Rows) -> list[str]:
    """Return cells of seeds, steps, last return, and of the target."""
    seeds = {seed for of_metric in rows.values() for seed in of_metric}
    steps = max(frames for of in rows.values() for each in of.values() for frames in each)
    last, reached, to_target = "", "", ""
    for metric in RETURNS:
        if metric in rows:
            curves = list(rows[metric].values())
            shared = set.intersection(*map(set, curves))
            ends = [max(shared or curve) for curve in curves]
            steps = max(ends)
            values = [curve[end] for curve, end in zip(curves, ends, strict=True)]
            last = str(interval([value for value in values if value is not None]))
    if "frames_to_target" in rows:
        known = [value for curve in rows["frames_to_target"].values() for value in curve.values()]
        low, median, high = quartiles(known)
        reached = f"{sum(value is not None for value in known)} of {len(known)}"
        to_target = f"{median:,.0f} [{low:,.0f}, {high:,.0f}]"
    return [str(len(seeds)), f"{steps:,}", last, reached, to_target]


def commands(pages: Iterable[Path]) -> list[str]:
    """Collect the commands of figures that pages show, each in one line."""
    found: dict[str, None] = {}
    for page in sorted(pages):
        if page.name not in ("table.md", "claims.md"):  # these two are made from the other pages
            text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
            found |= dict.fromkeys(re.findall(r"python benchmarks/figures/[^`\n]+", text))
    return list(found)


def _makes(command: str, figure: str, methods: set[str]) -> bool:
    """Return whether a command made a figure's rows: by its name, its folder or its methods."""
    script = _script(command)
    options = dict(word.split("=", 1) for word in command.split()[2:] if "=" in word)
    default = script.removeprefix("figure_")
    if "figure" in options:
        return options["figure"] == figure
    folder = Path(options.get("out", script)).name
    if not re.fullmatch(rf"{script}(_\w+)?", folder):
        return False
    named = folder.removeprefix("figure_")
    of_command = options.get("methods", "").strip("[]").split(",")
    of_folder = (named, f"{named}_tuning")
    return figure in of_folder or (default == figure and set(of_command) <= methods)


def _script(command: str) -> str:
    return Path(command.split()[1]).stem


def _host(script: str, method: str) -> str:
    """Return the host of a method, or that of the figure if the method names none."""
    host, _, settings = split_method(method)
    if host:
        return host
    if chosen := [word.removeprefix("host=") for word in settings if word.startswith("host=")]:
        return chosen[0]
    path = FIGURES / f"{script}.py"
    text = path.read_text() if path.exists() else ""
    if recipe := re.search(r'(?:experiment|collect)\(\s*"(\w+)"', text):
        return recipe[1]
    for room, host in HOSTS.items():
        if f"runs.{room} " in text:
            return host
    raise ValueError(
        f"{path} tells no host of {method}. Let a page in docs/results show the command that made "
        "its rows, or add the runs that it imports to HOSTS in benchmarks/table.py."
    )


def _natural(figure: str) -> tuple[int, str]:
    number = re.match(r"\d+", figure)
    return (int(number[0]) if number else 1_000, figure)


if __name__ == "__main__":
    main()
