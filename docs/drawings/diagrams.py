"""Draw the diagrams of the concepts page: ``python docs/drawings/diagrams.py``.

Each is an SVG with colours for light and dark surroundings, on its own background.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; } .frame { fill: #f4f7fb; stroke: #0072b2; }
    .box { fill: #ffffff; stroke: #57606a; } .ours { fill: #e3f1fa; stroke: #0072b2; }
    text { fill: #1f2328; font-family: system-ui, sans-serif; font-size: 13px; }
    .name { font-weight: 600; } .note { fill: #57606a; font-size: 12px; }
    .line { fill: #b34700; font-size: 12px; font-weight: 600; }
    .middle { text-anchor: middle; } .right { text-anchor: end; }
    .arrow { stroke: #57606a; fill: none; stroke-width: 1.6; } .tip { fill: #57606a; }
    .dashed { stroke-dasharray: 5 4; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #14181d; stroke: #3d444d; } .frame { fill: #182430; stroke: #56b4e9; }
      .box { fill: #1c2128; stroke: #9198a1; } .ours { fill: #12324a; stroke: #56b4e9; }
      text { fill: #e6edf3; } .note { fill: #a9b4c0; } .line { fill: #ffb26b; }
      .arrow { stroke: #a9b4c0; } .tip { fill: #a9b4c0; }
    }
"""


_SUBSCRIPT = re.compile(r"(?<![A-Za-z])([asΔ]+)_(?:\{(.*?)\}|([tT]))")


def _lowered(found: re.Match) -> str:
    """Write ``s_{t+1}`` with a subscript."""
    below = found[2] or found[3]
    return f'{found[1]}<tspan dy="4" font-size="10">{below}</tspan><tspan dy="-4">\u200b</tspan>'


class Drawing:
    """Boxes and arrows of an SVG, in its pixels."""

    def __init__(self, title: str, width: int, height: int) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>',
            f'<rect class="card" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="8"/>',
        ]

    def box(
        self,
        x: int,
        y: int,
        width: int,
        name: str,
        *notes: str,
        ours: bool = False,
        height: int = 0,
    ) -> None:
        """Draw a box with a name and notes below it."""
        height = height or 32 + 17 * len(notes)
        kind = "ours" if ours else "box"
        self.parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        )
        middle = x + width // 2
        self.text(middle, y + 21, name, "name middle")
        for row, note in enumerate(notes):
            self.text(middle, y + 40 + 17 * row, note, "note middle")

    def text(self, x: int, y: int, words: str, kind: str = "") -> None:
        """Write a line."""
        words = _SUBSCRIPT.sub(_lowered, escape(words))
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{words}</text>')

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        """Draw an arrow through points."""
        path = " ".join(f"{x},{y}" for x, y in points)
        kind = "arrow dashed" if dashed else "arrow"
        self.parts.append(f'<polyline class="{kind}" points="{path}" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([*self.parts, "</svg>", ""])


def algorithm_1() -> Drawing:
    """Draw Algorithm 1 with the names of the library on its arrows."""
    d = Drawing("Algorithm 1 with the names of torchrl_recall", 980, 590)
    d.box(30, 48, 180, "Collector", "environment, policy")
    d.box(290, 48, 180, "Replay buffer", "all experience")
    d.box(550, 48, 180, "Host", "any TorchRL loss")
    d.box(800, 48, 150, "Policy", "and critic")
    d.arrow((875, 48), (875, 22), (120, 22), (120, 48))
    d.text(480, 17, "l.4  acts", "line middle")
    d.arrow((210, 72), (290, 72))
    d.text(250, 65, "l.5", "line middle")
    d.arrow((470, 72), (550, 72))
    d.text(510, 65, "sample", "line middle")
    d.arrow((730, 72), (800, 72))
    d.text(765, 65, "l.6-7", "line middle")

    d.parts.append('<rect class="frame" x="18" y="150" width="944" height="424" rx="8"/>')
    d.text(850, 172, "Recall", "name middle")
    d.box(36, 205, 200, "TopKTrajectories", "the best trajectories", ours=True)
    d.arrow((120, 97), (120, 205))
    d.text(128, 136, "l.5  recall.extend(data)", "line")
    d.box(340, 205, 180, "ModelUpdates", "BacktrackingLoss, Eq. 2", ours=True)
    d.arrow((236, 229), (340, 229))
    d.text(268, 222, "l.8", "line middle")
    d.box(610, 205, 210, "BacktrackingModel", "Eq. 1: what led to a state", ours=True)
    d.arrow((520, 229), (610, 229))
    d.text(565, 222, "l.9", "line middle")

    d.box(
        36,
        365,
        200,
        "HighValueStates",
        "CriticStates, RewardStates,",
        "GoalGANStates, ...",
        ours=True,
    )
    d.arrow((310, 97), (310, 130), (300, 130), (300, 320), (136, 320), (136, 365))
    d.text(146, 345, "l.10  experience", "line")
    d.box(340, 365, 200, "RecallTraceGenerator", "walks backwards in", "BacktrackingEnv", ours=True)
    d.arrow((236, 398), (340, 398))
    d.text(288, 391, "end states", "line middle")
    d.arrow((715, 254), (715, 310), (440, 310), (440, 365))
    d.text(450, 345, "l.11", "line")
    d.box(610, 365, 140, "Filters", "WithinSupport,", "LoopErasure, ...", ours=True)
    d.arrow((540, 398), (610, 398))
    d.text(575, 391, "traces", "line middle")
    d.box(806, 365, 140, "ImitationLoss", "Eq. 3", "ImitationUpdates", ours=True)
    d.arrow((750, 398), (806, 398))
    d.text(778, 391, "l.12", "line middle")
    d.arrow((875, 365), (875, 97))
    d.text(868, 320, "l.13  recall.step()", "line right")
    d.box(590, 490, 180, "TraceTransitions", 'use="critic"', ours=True)
    d.arrow((680, 431), (680, 490), dashed=True)
    d.arrow((770, 514), (954, 514), (954, 122), (640, 122), (640, 97), dashed=True)
    d.text(782, 506, "recall.transitions(n)", "line")
    d.text(36, 520, "Solid: Algorithm 1 of the paper. l. is a line of it.", "note")
    d.text(36, 540, "Dashed: instead of imitation, or beside it, traces teach the critic.", "note")
    return d


def reversed_environment() -> Drawing:
    """Draw a forward step beside a step of the reversed environment."""
    d = Drawing("A step forwards, and a step of the reversed environment", 860, 300)
    d.text(24, 32, "The task: an action leads from a state to the next one", "name")
    d.box(60, 50, 130, "s_t", "observation")
    d.box(650, 50, 150, "s_{t+1}", "next observation")
    d.arrow((190, 74), (650, 74))
    d.text(420, 66, "action a_t  ~  policy(a_t | s_t)", "line middle")

    d.text(24, 152, "BacktrackingEnv: acting leads to where the agent came from", "name")
    d.box(650, 170, 150, "s_{t+1}", "observation", ours=True)
    d.box(60, 170, 130, "s_t", "next observation", ours=True)
    d.arrow((650, 194), (190, 194))
    d.text(420, 186, "action a_t  ~  backward policy q(a_t | s_{t+1})", "line middle")
    d.text(
        420,
        214,
        "s_t = s_{t+1} + Δs_t,   Δs_t  ~  state predictor q(Δs_t | a_t, s_{t+1})",
        "line middle",
    )
    d.text(
        24,
        262,
        "Both factors are one BacktrackingModel (Eq. 1). A rollout is a trace, last step first.",
        "note",
    )
    d.text(24, 282, "It is never rewarded and never done: its length is set.", "note")
    return d


def forward_time() -> Drawing:
    """Draw stored data in forward time, from a trajectory and from a trace."""
    d = Drawing("Data at rest is in forward time", 860, 250)
    d.text(24, 32, "While it is made: backwards, from the end state", "name")
    d.text(24, 132, "At rest: forwards, towards the end state", "name")
    for column in range(4):
        x = 40 + 200 * column
        for y, ours in ((48, True), (148, False)):
            end = column == (0 if ours else 3)
            order = 3 - column if ours else column
            name = "end state s_T" if end else f"s_{{T-{3 - order}}}"
            d.box(x, y, 130, name, ours=end)
            if column < 3:
                d.arrow((x + 130, y + 16), (x + 200, y + 16))
                d.text(
                    x + 165, y + 9, f"a_{{T-{column + 1 if ours else 3 - column}}}", "line middle"
                )
    d.arrow((830, 64), (846, 64), (846, 115), (830, 128))
    d.text(838, 112, "reverse_time", "line right")
    d.text(
        24,
        212,
        'traces["observation"] is s_t, traces["next", "observation"] is s_{t+1}.',
        "note",
    )
    d.text(
        24,
        232,
        'traces["next", "observation"][:, -1] is the end state of each trace.',
        "note",
    )
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "algorithm_1": algorithm_1,
    "reversed_environment": reversed_environment,
    "forward_time": forward_time,
}


if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())
