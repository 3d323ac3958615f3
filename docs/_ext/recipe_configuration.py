"""Reference of a recipe's configuration, made from its schema and the comments of its YAML files.

The directive ``recipe-configuration`` of the site calls it; ``python
docs/_ext/recipe_configuration.py sac_recall`` prints it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from docutils import nodes
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sphinx.util.docutils import SphinxDirective

from torchrl_recall import recipes
from torchrl_recall.trainers import schema
from torchrl_recall.trainers.schema.group import Group

CONFIG = Path(recipes.__file__).parent / "config"
RECIPES: dict[str, tuple[str, type[Group]]] = {
    "sac_recall": ("sac", schema.SACRecallConfig),
    "dqn_recall": ("dqn", schema.DQNRecallConfig),
    "trpo_recall": ("on_policy", schema.TRPORecallConfig),
    "ppo_recall": ("on_policy", schema.PPORecallConfig),
    "a2c_recall": ("four_rooms", schema.A2CRecallConfig),
    "goal_gan_recall": ("goal_gan", schema.GoalGANRecallConfig),
    "offline_recall": ("offline", schema.OfflineRecallConfig),
}


@dataclass(frozen=True)
class Key:
    """A row of the reference."""

    name: str
    type: str
    range: str
    default: str
    comment: str


def keys(recipe: str) -> list[Key]:
    """Return a row for each key of a recipe, in the order of its schema."""
    folder, group = RECIPES[recipe]
    root = CONFIG / folder
    words = comments(root / f"{recipe}.yaml", root)
    with initialize_config_dir(config_dir=str(root), version_base="1.3"):
        composed = OmegaConf.to_container(compose(recipe), resolve=False)
    rows = []
    for name, annotation, metadata in fields(group):
        kind, bounds = describe(annotation, metadata)
        default = composed
        for part in name.split("."):
            default = default[part]
        rows.append(Key(name, kind, bounds, written(default), words.get(name, "")))
    return rows


def written(value: Any) -> str:
    """Write a value as on the command line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip("'")


def fields(group: type[Group], prefix: str = "") -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield name, type and conditions of each key, those of groups within it included."""
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation, field.metadata


def describe(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """Return the type and the range of a value, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(parts[0], [*_conditions(parts[1:]), *metadata])
    if origin in (Union, UnionType):
        found = [describe(part, []) for part in parts if part is not NoneType]
        kinds = [kind for kind, _ in found] + ["null"] * (NoneType in parts)
        bounds = [bound for _, bound in found if bound]
        return " or ".join(kinds), ", ".join([*bounds, *_bounds(metadata)])
    if origin is Literal:
        return "choice", ", ".join(f"`{part}`" for part in parts)
    if origin in (list, dict):
        kind, bound = describe(parts[-1], [])
        return f"{origin.__name__} of {kind}", bound
    if isinstance(annotation, type) and issubclass(annotation, Group):
        return "group", ""
    return annotation.__name__, ", ".join(_bounds(metadata))


def _conditions(metadata: Any) -> list[Any]:
    return [one for field in metadata for one in getattr(field, "metadata", [field])]


def _bounds(metadata: list[Any]) -> list[str]:
    """Write conditions as ``> 0`` and the like."""
    signs = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}
    return [
        f"{sign} {getattr(condition, name)}"
        for condition in metadata
        for kind, (name, sign) in signs.items()
        if isinstance(condition, kind)
    ]


def comments(path: Path, root: Path) -> dict[str, str]:
    """Read comments by key, from a file and from those that it builds on.

    Args:
        path: the file.
        root: the recipe's folder, which names with a slash begin at.
    """
    text = path.read_text()
    own = comments_in(text)
    if not text.startswith("# @package _global_") and path.parent.parent == root:
        own = {f"{path.parent.name}.{key}": comment for key, comment in own.items()}
    found: dict[str, str] = {}
    defaults = (yaml.safe_load(text) or {}).get("defaults", ["_self_"])
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            found |= {key: comment for key, comment in own.items() if comment}
        for key, name in _files(entry):
            start = root if name.startswith("/") else path.parent
            file = (start / key / name.lstrip("/")).with_suffix(".yaml").resolve()
            found |= comments(file, root)
    return found


def _files(entry: Any) -> Iterator[tuple[str, str]]:
    """Yield the groups and files of an entry of a list of defaults."""
    if isinstance(entry, dict):
        yield from ((k, name) for k, name in entry.items() if not k.startswith("override "))
    elif entry != "_self_":
        yield "", entry


def comments_in(text: str) -> dict[str, str]:
    """Read the comments beside keys, or else above them."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    text = re.sub(r"\A(?:#.*\n)+", "", text)  # what is said of the whole file
    for line in text.splitlines():
        if comment := re.match(r"\s*# ?(.*)", line):
            above.append(comment[1])
        elif entry := re.match(r"(\s*)([\w.-]+):.*?(?:\s# ?(.*))?$", line):
            indent, key, beside = len(entry[1]), entry[2], entry[3] or ""
            path = [(depth, name) for depth, name in path if depth < indent]
            name = ".".join([*(name for _, name in path), key])
            found[name] = beside or " ".join(above)
            path.append((indent, key))
            above = []
        else:
            above = []
    return found


def reference(recipe: str) -> str:
    """Return the reference of a recipe in Markdown, with a table for each group of keys."""
    groups: dict[str, list[Key]] = {}
    for key in keys(recipe):
        groups.setdefault(key.name.split(".")[0] if "." in key.name else "", []).append(key)
    lines = []
    for group, rows in groups.items():
        lines += [f"### `{group}`" if group else "### The run", ""]
        lines += ["| key | type | range | default | meaning, source |", "|---|---|---|---|---|"]
        lines += [_row(key) for key in rows] + [""]
    return "\n".join(lines)


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else ""
    cells = [f"`{key.name}`", key.type, key.range, default, _without_choices(key)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _without_choices(key: Key) -> str:
    """Return the comment without the list of choices that it may begin with."""
    if "choice" not in key.type:
        return key.comment
    one = "|".join(re.escape(choice.strip("` ")) for choice in key.range.split(","))
    return re.sub(rf"^(?:{one})(?: \| (?:{one}))+[:;,]?\s*", "", key.comment)


class RecipeConfiguration(SphinxDirective):
    """Directive that writes the reference of a recipe's configuration."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a table for each group of keys."""
        recipe = self.arguments[0]
        for file in (
            Path(__file__),
            *CONFIG.rglob("*.yaml"),
            *Path(schema.__file__).parent.glob("*.py"),
        ):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes(reference(recipe), allow_section_headings=True)


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("recipe-configuration", RecipeConfiguration)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    print(reference(sys.argv[1]))
