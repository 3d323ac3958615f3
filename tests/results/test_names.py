"""Methods are called by words, and look the same in every picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from torchrl_recall.results.names import (
    GROUPS,
    VARIANTS,
    looks,
    method_name,
    method_names,
    split_method,
    task_name,
)

CONFIG = Path(__file__).parents[2] / "recipes" / "config"


@pytest.mark.parametrize(
    ("method", "host", "name"),
    [
        ("none", "a2c", "actor-critic alone"),
        ("backtracking", "trpo", "TRPO with recall traces"),
        ("backtracking", "sac", "SAC with recall traces to the critic"),
        ("ppo:self_imitation", "trpo", "PPO with self-imitation"),
        ("none+host=hindsight_sac+eval.stop_at_target=true", "goal_gan",
         "SAC with hindsight replay"),
        ("sb3", "trpo", "sb3-contrib's TRPO"),
        ("sbx+crossq", "sac", "SBX's CrossQ"),
        ("sb3", "", "Stable-Baselines3"),
        ("cloning+recall.demonstrations=runs/x/data/1", "sac", "SAC with cloning, 1 demonstration"),
        ("none+compile=false", "sac", "SAC alone, eager"),
        ("my_group+my.new_key=40000+my.flag=false", "my_host",
         "MY_HOST with my group, new key 40,000, no flag"),
    ],
)  # fmt: skip
def test_a_name(method, host, name):
    assert method_name(method, host) == name


def test_every_group_of_the_recipes_has_a_name_and_a_look_of_its_own():
    groups = {path.stem for path in CONFIG.glob("*/recall/*.yaml")} - {"base"}
    assert groups <= set(GROUPS)
    found = [look[1:] for look in GROUPS.values()]
    found += [look for (group, _), look in VARIANTS.items() if look != GROUPS[group][1:]]
    assert len(set(found)) == len(found) > len(GROUPS)


def test_what_all_share_is_left_out_and_nothing_else():
    methods = ["none+sac.n_step=3", "imitation+sac.n_step=3", "imitation+sac.n_step=3+recall.lr=1"]
    assert list(method_names(methods, "sac").values()) == [
        "SAC alone",
        "imitated recall traces",
        "imitated recall traces, imitation's learning rate 1",
    ]


def test_names_are_told_apart():
    names = method_names(["none+eval.a=1", "none+eval.a=2"])
    assert list(names.values()) == ["host alone (none+eval.a=1)", "host alone (none+eval.a=2)"]


def test_a_method_looks_the_same_whatever_stands_beside_it():
    for method in ("none", "backtracking", "self_imitation", "exact"):
        seen = {
            (look.color, look.line)
            for others in ([], ["paper"], ["mine", "yours"], ["none+optim.lr=1", "exact+x=1"])
            for name, look in looks([*others, method]).items()
            if name == method
        }
        assert len(seen) == 1


def test_thirty_methods_look_different():
    grid = [
        f"backtracking+recall.trace_length={length}+sac.n_step={n}"
        for length in (1, 5, 10, 20, 50)
        for n in (1, 2, 3, 4, 5, 6)
    ]
    found = looks(["none", *grid], "sac").values()
    assert len({(look.color, look.line) for look in found}) == 31


def test_unknown_methods_take_what_is_left():
    methods = ["none", "backtracking", "mine", "yours", "theirs"]
    found = looks(methods)
    assert len({(look.color, look.line) for look in found.values()}) == 5
    assert found["mine"].name == "mine"
    many = looks(f"mine{i}" for i in range(10))
    assert len({(look.color, look.line) for look in many.values()}) == 10


def test_two_sweeps_are_told_apart():
    methods = [f"{group}+optim.lr={lr}" for group in ("none", "paper") for lr in (1, 2, 3)]
    assert len({(look.color, look.line) for look in looks(methods).values()}) == 6


def test_what_names_the_host_is_never_left_out():
    crossq = method_names(["none+host=crossq", "backtracking+host=crossq"], "sac")
    assert list(crossq.values()) == ["CrossQ alone", "recall traces to the critic"]
    peers = method_names(["sbx+crossq", "sb3+crossq"], "sac")
    assert list(peers.values()) == ["SBX's CrossQ", "Stable-Baselines3's CrossQ"]
    assert method_names(["imitation+x.a= with 2", "none"], "sac")["none"] == "SAC alone"


def test_a_sweep_of_numbers_has_shades_from_dark_to_light():
    found = looks(["none", *(f"exact+recall.interval={n}" for n in (25, 1, 5))])
    shades = [sum(to_rgb(found[f"exact+recall.interval={n}"].color)) for n in (1, 5, 25)]
    assert shades == sorted(shades)
    assert len(set(shades)) == 3


def test_a_host_stands_before_the_first_plus_only():
    assert split_method("a+recall.reward=m:f") == ("", "a", ["recall.reward=m:f"])
    assert split_method("ppo:a+x=m:f") == ("ppo", "a", ["x=m:f"])


def test_tasks_are_told_in_words():
    assert task_name("19_opposite") == "19 x 19, opposite start"
    assert task_name("Hopper-v5+env.delay=end") == "Hopper-v5, reward at the end"
    assert task_name("Hopper-v5+env.delay=20+seed=1") == "Hopper-v5, reward every 20 steps, seed=1"
    assert task_name("Hopper-v5+env.delay=null") == "Hopper-v5, env.delay=null"
    repeated = "reacher-hard+env.backend=dm_control+env.frame_skip=4"
    assert task_name(repeated) == "reacher-hard, each action for 4 steps"
    assert task_name("mine") == "mine"
