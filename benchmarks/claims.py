"""Write ``docs/results/claims.md``, with each claim of the paper, our result and the verdict.

    python benchmarks/claims.py

Claims and verdicts are in ``docs/results/claims.yaml``. All numbers are computed from the files of
rows in that folder. A verdict that the numbers contradict is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from effects import KINDS, Effect, Number
from omegaconf import OmegaConf

from torchrl_recall.results.rows import read_rows
from torchrl_recall.trainers.runs.atomic import write_text

__all__ = ["ClaimError", "render"]

RESULTS = Path(__file__).parents[1] / "docs" / "results"
VERDICTS = ("reproduced", "partly", "not seen", "opposite", "not run")


class ClaimError(ValueError):
    """Error of a claim that rows do not support; the message names it."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, what was seen here, and the verdict.

    Attributes:
        figure: where the paper makes it.
        claim: what it says.
        seen: here.
        verdict: one of :data:`VERDICTS`.
        scale: of the runs here, against the paper's.
        command: that made the rows.
        page: that tells more.
        effects: what the verdict rests on.
    """

    figure: str
    claim: str
    seen: str
    verdict: str
    scale: str
    command: str
    page: str
    effects: list[Effect] = field(default_factory=list)


def main() -> None:
    """Write the page."""
    write_text(RESULTS / "claims.md", render(RESULTS))
    print(RESULTS / "claims.md")


def render(results: Path) -> str:
    """Return the page.

    Args:
        results: folder of rows, of ``claims.yaml`` and of pages.

    Raises:
        ClaimError: rows are missing, or contradict a verdict.
    """
    data: Any = OmegaConf.to_container(OmegaConf.load(results / "claims.yaml"))
    claims = [
        Claim(**each | {"effects": [Effect(**effect) for effect in each.get("effects", [])]})
        for each in data["claims"]
    ]
    groups: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.figure, claim.command, claim.page), []).append(claim)
    run = [group for group in groups.values() if any(claim.effects for claim in group)]
    lines = [data["introduction"], *_count(claims), "", *_overview(claims), "", data["notes"]]
    lines += ["## Numbers and commands", ""]
    for group in run:
        lines += _section(group, results)
    if left := [claim for claim in claims if not claim.effects]:
        lines += ["## Commands of what was not run", ""]
    for claim in left:
        _check(claim, [])
        command = f"`{claim.command}`" if claim.command else "there is no command."
        lines.append(f"- {_title(claim)}, [{_name(claim.page)}]({claim.page}): {command}")
    return "\n".join(lines) + "\n"


def _count(claims: list[Claim]) -> Iterator[str]:
    counts = {verdict: sum(c.verdict == verdict for c in claims) for verdict in VERDICTS}
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    yield f"{len(claims)} claims: {told}."


def _overview(claims: list[Claim]) -> Iterator[str]:
    yield _line("figure", "the paper says", "verdict", "seen here")
    yield "|---|---|---|---|"
    for claim in claims:
        yield _line(claim.figure, claim.claim, f"**{claim.verdict}**", claim.seen)


def _section(group: list[Claim], results: Path) -> Iterator[str]:
    """Yield scale, command and numbers of claims that one command decides."""
    first = group[0]
    yield f"### {_title(first)}\n"
    scales = "; ".join(dict.fromkeys(claim.scale for claim in group))
    page = f"[{_name(first.page)}]({first.page})"
    yield f"{page}. Against the paper's scale: {' '.join(scales.split())}.\n"
    yield f"```bash\n{first.command}\n```\n"
    yield _line("what", "effect [95 %]", "seeds", "steps")
    yield "|---|---|---|---|"
    for claim in group:
        if len(group) > 1:
            yield _line(f"*{claim.claim}* **{claim.verdict}**", "", "", "")
        numbers = [(effect, _number(effect, claim, results)) for effect in claim.effects]
        _check(claim, [number for effect, number in numbers if effect.decides])
        for effect, number in numbers:
            yield _line(
                effect.says + " (control)" * (not effect.decides),
                number.text,
                *_size(effect, results),
            )
    yield ""


def _title(claim: Claim) -> str:
    is_figure = claim.figure[0].isdigit()
    return f"Figure{'s' * (',' in claim.figure)} {claim.figure}" if is_figure else claim.figure


def _name(page: str) -> str:
    return Path(page).stem.replace("_", " ")


def _line(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def _check(claim: Claim, numbers: list[Number]) -> None:
    """Refuse a verdict that the deciding intervals contradict."""
    sides = [number.side for number in numbers]
    known = [number.side for number in numbers if number.found is not None]
    for_it = bool(known) and max(known) > 0
    is_whole = for_it and min(sides) > 0
    rules: dict[str, tuple[bool, str]] = {
        "reproduced": (bool(known) and min(known) > 0, "every interval on the claim's side"),
        "partly": (
            (for_it and not is_whole) or (not known and bool(sides)),
            "some but not all on the claim's side, or counts alone",
        ),
        "not seen": (bool(sides) and not for_it, "an effect, and no interval on the claim's side"),
        "opposite": (
            bool(known) and min(known) < 0 and not for_it,
            "an interval on the other side, and none on the claim's",
        ),
        "not run": (not sides, "no effect, since none was run"),
    }
    if claim.verdict not in rules:
        raise ClaimError(f"verdict {claim.verdict!r} is none of {', '.join(VERDICTS)}.")
    holds, wanted = rules[claim.verdict]
    if not holds:
        raise ClaimError(
            f"figure {claim.figure}, {claim.claim!r}: {claim.verdict!r} needs {wanted}, but there "
            f"are {[number.text for number in numbers]}. Change it in docs/results/claims.yaml."
        )


@cache
def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path)


def _of_figure(effect: Effect, results: Path) -> list[dict[str, str]]:
    rows = _rows(results / effect.file)
    wanted = (effect.method, effect.baseline)
    return [
        row for row in rows
        if row["figure"] == effect.figure and row["task"] in effect.tasks
        and row["method"] in wanted
    ]  # fmt: skip


def _size(effect: Effect, results: Path) -> tuple[str, str]:
    """Return how many seeds of each were run, and for how long at most."""
    rows = _of_figure(effect, results)
    seeds: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        seeds.setdefault((row["task"], row["method"]), set()).add(row["seed"])
    numbers = sorted({len(each) for each in seeds.values()})
    told = "–".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    return told, f"{max(int(row['frames']) for row in rows):,}"


def _number(effect: Effect, claim: Claim, results: Path) -> Number:
    rows = _of_figure(effect, results)
    for task in effect.tasks:
        for name in (effect.method, effect.baseline):
            if not any((row["task"], row["method"]) == (task, name) for row in rows):
                raise ClaimError(
                    f"figure {claim.figure}: {effect.file} has no rows of {name} in {task} of "
                    f"figure {effect.figure}; mend the effect in docs/results/claims.yaml."
                )
    return KINDS[effect.kind](effect, rows)


if __name__ == "__main__":
    main()
