"""Check that mypy knows the type of every name that one module of ours takes from another.

A name is unknown (``Any``) where a module cannot be found, as behind an alias: go-to-definition and
all type checks then fail silently. The alias ``torchrl_recall.recipes`` is exempt.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("torchrl_recall", "recipes", "benchmarks")
OURS = ("torchrl_recall", "recipes", "runs", "speed_parts")
ALIAS = "torchrl_recall.recipes"


def imported_names() -> list[tuple[str, str]]:
    """Collect (module, name) of all imports among our modules."""
    found: set[tuple[str, str]] = set()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if module and module.split(".")[0] in OURS and not module.startswith(ALIAS):
                    found |= {(module, alias.name) for alias in node.names}
    return sorted(found)


def main() -> int:
    """Reveal all types; the exit status is one if some are unknown."""
    names = imported_names()
    lines = [f"from {module} import {name} as x{i}" for i, (module, name) in enumerate(names)]
    lines += [f"reveal_type(x{i})" for i in range(len(names))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "revealed.py"
        file.write_text("\n".join(lines))
        command = [sys.executable, "-m", "mypy", "--no-error-summary", str(file)]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    revealed = re.findall(r'revealed\.py:(\d+): note: Revealed type is "(.*)"', shown)
    unknown = [names[int(line) - 1 - len(names)] for line, kind in revealed if kind == "Any"]
    if len(revealed) != len(names) or unknown:
        print(shown if len(revealed) != len(names) else "")
        print("mypy does not know the type of", unknown)
        return 1
    print(f"mypy knows the type of all {len(names)} names that modules take from each other")
    return 0


if __name__ == "__main__":
    sys.exit(main())
