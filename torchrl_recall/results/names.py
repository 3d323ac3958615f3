"""Say in words what a method is, and give each the same colour and line in every picture.

A method is written as figures and ``collect`` write it: ``ppo:backtracking+gae.lmbda=0.9`` is the
group ``backtracking`` of ``recall`` beside PPO, with a setting.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Look", "looks", "method_name", "method_names", "split_method", "task_name"]

# Colours of Okabe and Ito, which colour-blind readers tell apart, but for yellow, which is too
# light on white, and with grey for the host alone.
GREY, BLUE, ORANGE, GREEN = "#767b84", "#0072b2", "#e69f00", "#009e73"
VERMILION, PURPLE, SKY, BLACK = "#d55e00", "#cc79a7", "#56b4e9", "#000000"
# Lines, which grey print tells apart.
SOLID, SHORT, DASHED = "-", (0, (2.2, 0.8)), (0, (5, 2))
DOTTED, DASH_DOT = (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5))
Line = str | tuple[int, tuple[float, ...]]

HOSTS = {
    "sac": "SAC", "crossq": "CrossQ", "dqn": "DQN", "trpo": "TRPO", "ppo": "PPO", "iql": "IQL",
    "cql": "CQL", "td3bc": "TD3+BC", "a2c": "actor-critic", "goal_gan": "Goal GAN",
    "hindsight_sac": "SAC with hindsight replay",
}  # fmt: skip
# Hosts of which the group ``backtracking`` feeds the critic.
TO_CRITIC = ("sac", "crossq", "redq", "td3", "dqn")
PEERS = {"sb3": "Stable-Baselines3", "sbx": "SBX"}
# What stands beside the host, with its colour and line, by the group of ``recall``.
GROUPS: dict[str, tuple[str, str, Line]] = {
    "none": ("", GREY, SHORT),
    "backtracking": ("recall traces", BLUE, SOLID),
    "exact": ("recall traces, known predecessors", SKY, DASHED),
    "self_imitation": ("self-imitation", ORANGE, DASH_DOT),
    "imitation": ("imitated recall traces", PURPLE, DASHED),
    "paper": ("recall as published", VERMILION, DOTTED),
    "random_model": ("traces of an untrained model", BLACK, DASH_DOT),
    "prioritized_replay": ("prioritised replay", GREEN, DASHED),
    "per_table_3": ("prioritised replay of Table 3", BLACK, DOTTED),
    "forward_dyna": ("forward Dyna", GREEN, DASH_DOT),
    "forward_model": ("a forward model", GREEN, DOTTED),
    "cloning": ("cloning", VERMILION, DASHED),
    "sb3": ("", PURPLE, DASH_DOT),
    "sbx": ("", SKY, DASH_DOT),
}
# Looks of variants of a group, by one of their settings.
VARIANTS: dict[tuple[str, str], tuple[str, Line]] = {
    ("none", "host=hindsight_sac"): (BLACK, SOLID),
    ("backtracking", "recall.anneal_frames=300000"): (SKY, DOTTED),
    ("self_imitation", "recall.max_kl=0.12"): (VERMILION, SHORT),
    ("self_imitation", "recall.anneal_frames=300000"): (PURPLE, SHORT),
}
SPARE: list[tuple[str, Line]] = [
    (BLUE, DASHED), (VERMILION, DASH_DOT), (GREEN, DOTTED), (PURPLE, SOLID), (ORANGE, DASHED),
    (SKY, SOLID), (BLACK, SOLID), (VERMILION, SOLID), (GREEN, DASHED), (BLUE, DOTTED),
]  # fmt: skip
# Looks of still more methods, before any is used twice.
MORE: list[tuple[str, Line]] = [
    (color, line)
    for line in (SOLID, DASHED, DOTTED, DASH_DOT, SHORT)
    for color in (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
    if (color, line) not in SPARE
]
# What settings are called; others by the last part of their key.
VALUES = {
    "recall.end_states=reward": "from successes",
    "recall.end_states=uniform": "from any state",
    "recall.trace_length=auto": "measured lengths",
    "recall.trace_length=1": "traces of one step",
    "recall.reward=torchrl_recall.envs.sparse_tasks:goal_rule": "told the goal",
    "recall.max_kl=null": "no radius",
    "sac.return_bound=true": "return bound",
    "sac.n_step=1": "1-step returns",
    "sac.num_updates=1": "1 update per step",
    "replay_buffer.prioritized=true": "prioritised replay",
    "backtracking.joint=true": "joint model",
    "compile=false": "eager",
    "a2c.entropy_coeff=0": "no entropy bonus",
}
KEYS = {
    "sac.n_step": "{}-step returns",
    "sac.num_updates": "{} updates per step",
    "optim.lr": "learning rate {}",
    "recall.lr": "imitation's learning rate {}",
    "trpo.max_kl": "the host's radius {}",
    "collector.init_random_frames": "{} random steps",
    "recall.max_kl": "radius {}",
    "recall.anneal_frames": "annealed to zero at {} steps",
    "recall.trace_length": "traces of {} steps",
    "recall.num_updates": "{} imitation updates",
    "recall.interval": "interval {}",
    "recall.agreement": "agreement {}",
    "recall.disagreement": "disagreement {}",
    "backtracking.num_models": "{} models",
    "goal_gan.num_new": "{} new goals",
    "goal_gan.num_old": "{} old goals",
}
HIDDEN = ("host", "eval.")  # keys that say nothing of how a method learns
TASKS = {
    "point_free2": "point mass, 2 dimensions",
    "point_free4": "point mass, 4 dimensions",
    "point_free6": "point mass, 6 dimensions",
    "point_umaze": "U-maze",
    "point_umaze_long": "long U-maze",
    "point_maze": "MuJoCo's point maze",
    "pendulum_swingup": "pendulum swing-up",
    "ant_maze": "ant in a U-maze",
}


@dataclass(frozen=True)
class Look:
    """Name, colour and line of a method in a picture."""

    name: str
    color: str
    line: Line


def split_method(method: str) -> tuple[str, str, list[str]]:
    """Split a method into its host, which may be empty, its group of ``recall`` and its settings.

    A colon behind the first plus belongs to a setting.

    Examples:
        >>> from torchrl_recall.results.names import split_method
        >>> split_method("ppo:backtracking+gae.lmbda=0.9")
        ('ppo', 'backtracking', ['gae.lmbda=0.9'])
        >>> split_method("forward_dyna+recall.reward=my.module:rule")
        ('', 'forward_dyna', ['recall.reward=my.module:rule'])
    """
    first, *settings = method.split("+")
    host, _, recall = first.rpartition(":")
    return host, recall, settings


def method_name(method: str, host: str = "") -> str:
    """Say in words what a method is.

    Args:
        method: as figures write it.
        host: what recall learns beside, where the method does not say it.

    Returns:
        The name, such as ``self-imitation, 3-step returns``.

    Examples:
        >>> from torchrl_recall.results.names import method_name
        >>> method_name("backtracking+sac.n_step=3", "sac")
        'SAC with recall traces to the critic, 3-step returns'
        >>> method_name("ppo:none"), method_name("self_imitation")
        ('PPO alone', 'self-imitation')
    """
    of_method, recall, settings = split_method(method)
    return _name(of_method or host, recall, settings)


def method_names(methods: Iterable[str], host: str = "") -> dict[str, str]:
    """Say in words what methods are, without host and settings where all of them share these.

    The host alone is named, and so is everything where there are several hosts.

    Args:
        methods: all that are shown together.
        host: of the methods that name none.

    Returns:
        Names by method; no two are the same.

    Examples:
        >>> from torchrl_recall.results.names import method_names
        >>> list(method_names(["none+sac.n_step=3", "imitation+sac.n_step=3"], "sac").values())
        ['SAC alone', 'imitated recall traces']
    """
    split = {method: split_method(method) for method in methods}
    has_hosts = len({of_method for of_method, *_ in split.values()}) > 1
    shared = set.intersection(*(set(settings) for *_, settings in split.values())) if split else ()
    shared = {word for word in shared if "=" in word and not word.startswith("host=")}
    names = {}
    for method, (of_method, recall, settings) in split.items():
        own = [word for word in settings if word not in shared or len(split) == 1]
        is_short = not has_hosts and recall != "none" and recall not in PEERS
        names[method] = _name(of_method or host, recall, own, is_short=is_short)
    counts = Counter(names.values())
    return {
        method: name if counts[name] == 1 else f"{name} ({method})"
        for method, name in names.items()
    }


def looks(methods: Iterable[str], host: str = "") -> dict[str, Look]:
    """Give methods that are shown together their names, colours and lines.

    A group has the same look in every picture, and so has a method where no other of its group is
    shown. Methods that differ in one number have shades. A method that the tables do not know has
    the first colour that is left.

    Args:
        methods: in the order of the legend.
        host: of the methods that name none.
    """
    names = method_names(methods, host)
    found: dict[str, tuple[str, Line]] = {}
    sweeps = _sweeps(names)
    if len(sweeps) == 1:  # shades of two would be the same
        for number, method in enumerate(sweeps[0]):
            found[method] = (_shade(number / (len(sweeps[0]) - 1)), SOLID)
    for method in sorted(names, key=lambda method: len(split_method(method)[2])):
        known = [look for look in _known(method) if look not in found.values()]
        if method not in found and known:
            found[method] = known[0]
    left = [look for look in SPARE if look not in found.values()]
    left.sort(key=lambda look: look[0] in {color for color, _ in found.values()})
    left += [look for look in MORE if look not in found.values()]
    for number, method in enumerate(method for method in names if method not in found):
        found[method] = left[number % len(left)]
    return {method: Look(name, *found[method]) for method, name in names.items()}


def task_name(task: str) -> str:
    """Say in words what a task is.

    Args:
        task: name of the task as figures write it, with its settings after a plus.

    Returns:
        The name; a name without words is returned as it is.

    Examples:
        >>> from torchrl_recall.results.names import task_name
        >>> task_name("point_free4"), task_name("15_uniform"), task_name("Hopper-v5+env.delay=20")
        ('point mass, 4 dimensions', '15 x 15, uniform start', 'Hopper-v5, reward every 20 steps')
    """
    name, *settings = task.split("+")
    if room := re.fullmatch(r"(\d+)_(\w+)", name):
        name = f"{room[1]} x {room[1]}, {room[2].replace('_', ' ')} start"
    words = {
        r"env\.delay=end": "reward at the end",
        r"env\.delay=(\d+)": r"reward every \1 steps",
        r"env\.frame_skip=(\d+)": r"each action for \1 steps",
    }
    told = [TASKS.get(name, name)]
    for setting in settings:
        if setting == "env.backend=dm_control":  # the task's name says it
            continue
        for key, text in words.items():
            setting = re.sub(key, text, setting)
        told.append(setting)
    return ", ".join(told)


def _name(host: str, recall: str, settings: Sequence[str], *, is_short: bool = False) -> str:
    given = dict(word.partition("=")[::2] for word in settings)
    host = given.get("host", host)
    if recall in PEERS:  # whose algorithm may follow a plus
        algorithm = next((word for word in settings if "=" not in word), host)
        settings = [word for word in settings if "=" in word]
        text = f"{PEERS[recall]}'s {HOSTS.get(algorithm, algorithm.upper())}".rstrip()
        if (recall, algorithm) == ("sb3", "trpo"):
            text = "sb3-contrib's TRPO"
        text = text.removesuffix("'s")
    else:
        beside = GROUPS[recall][0] if recall in GROUPS else recall.replace("_", " ")
        if host == "a2c":  # whose predecessors may be known
            words = {
                "random_model": "known predecessors, untrained backward policy",
                "backtracking": "recall traces, learned model",
            }
            beside = words.get(recall, beside)
        if recall == "backtracking" and host in TO_CRITIC:
            beside += " to the critic"
        name = "" if is_short else HOSTS.get(host, host.upper())
        text = f"{name} with {beside}" if name and beside else beside or f"{name or 'host'} alone"
        if recall == "none" and " with " in name:
            text = name
    told = [_setting(*word.partition("=")[::2]) for word in settings]
    return ", ".join([text, *filter(None, told)])


def _setting(key: str, value: str) -> str:
    if f"{key}={value}" in VALUES:
        return VALUES[f"{key}={value}"]
    if key.startswith(HIDDEN):
        return ""
    if key == "recall.demonstrations":  # a folder
        number = Path(value).name
        return f"{number} demonstration{'' if number == '1' else 's'}"
    number = f"{int(value):,}" if value.isdecimal() else value
    if key in KEYS:
        return KEYS[key].format(number)
    words = key.rpartition(".")[2].replace("_", " ")
    if value in ("true", "false", "null"):
        return words if value == "true" else f"no {words}"
    return f"{words} {number}".strip()


def _known(method: str) -> list[tuple[str, Line]]:
    """Return looks of the tables: of one of the settings, else of the group."""
    _, recall, settings = split_method(method)
    found = [VARIANTS[recall, word] for word in settings if (recall, word) in VARIANTS]
    return found or ([GROUPS[recall][1:]] if recall in GROUPS else [])


def _sweeps(names: Iterable[str]) -> list[list[str]]:
    """Return methods that differ in the number of one setting, three or more, in its order."""
    kinds: dict[tuple[str, ...], dict[str, float]] = {}
    for method in names:
        host, recall, settings = split_method(method)
        for i, word in enumerate(settings):
            key, _, value = word.partition("=")
            if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value):
                rest = (*settings[:i], f"{key}=", *settings[i + 1 :])
                kinds.setdefault((host, recall, *rest), {})[method] = float(value)
    return [sorted(kind, key=kind.__getitem__) for kind in kinds.values() if len(kind) > 2]


def _shade(share: float) -> str:
    """Return a colour of viridis between dark and light, by linear interpolation."""
    stops = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98))
    place = share * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    mixed = (round(a + (b - a) * (place - i)) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)
