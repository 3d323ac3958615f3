"""Every recipe's configuration: each composition is valid, and each field has its range."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel

from torchrl_recall.trainers.schema import (
    A2CRecallConfig,
    ConfigError,
    DQNRecallConfig,
    GoalGANRecallConfig,
    OfflineRecallConfig,
    PPORecallConfig,
    SACRecallConfig,
    TRPORecallConfig,
    validate,
)

CONFIG = Path(__file__).resolve().parents[3] / "recipes" / "config"
SCHEMAS: dict[str, type[BaseModel]] = {
    "sac/sac_recall": SACRecallConfig,
    "dqn/dqn_recall": DQNRecallConfig,
    "on_policy/trpo_recall": TRPORecallConfig,
    "on_policy/ppo_recall": PPORecallConfig,
    "four_rooms/a2c_recall": A2CRecallConfig,
    "goal_gan/goal_gan_recall": GoalGANRecallConfig,
    "offline/offline_recall": OfflineRecallConfig,
}
GROUPS = [
    (recipe, f"{group.parent.name}={group.stem}")
    for recipe in SCHEMAS
    for group in sorted((CONFIG / recipe).parent.glob("*/*.yaml"))
]
AT_LEAST_ZERO = {
    "seed", "seeds", "env.slip", "env.start", "env.goal", "a2c.entropy_coeff", "ppo.entropy_coeff",
    "trpo.damping", "goal_gan.num_old", "goal_gan.min_success", "goal_gan.goal_noise",
    "hindsight.ratio", "prioritized_replay.beta", "collector.init_random_frames",
    "checkpoint.interval", "recall.num_updates", "recall.loop_erasure", "backtracking.num_updates",
    "backtracking.smoothing", "td3.policy_noise", "td3.noise_clip", "td3.exploration_noise",
    "dqn.eps_init", "dqn.eps_end", "crossq.adam_beta1", "random_frames_of_host",
    "replay_buffer.alpha", "replay_buffer.beta", "recall.audit",
    "td3bc.policy_noise", "td3bc.noise_clip",
}  # fmt: skip
AT_MOST_ONE = {
    "backtracking.smoothing", "a2c.gamma", "a2c.lmbda", "gae.gamma", "gae.lmbda",
    "ppo.clip_epsilon", "recall.min_probability", "goal_gan.min_success", "goal_gan.max_success",
    "hindsight.ratio", "sac.gamma", "sac.target_update_tau", "backtracking.state_fraction",
    "eval.target", "td3.gamma", "td3.target_update_tau", "redq.gamma", "redq.target_update_tau",
    "crossq.gamma", "dqn.gamma", "dqn.eps_init", "dqn.eps_end", "dqn.annealed_fraction",
    "recall.agreement", "recall.disagreement",
    "iql.gamma", "iql.target_update_tau", "cql.gamma", "cql.target_update_tau", "td3bc.gamma",
    "td3bc.target_update_tau",
}  # fmt: skip
ANY_NUMBER = {"backtracking.return_threshold", "eval.target_return"}


# What a user has to give.
GIVEN = {"offline/offline_recall": ["data_set=data"]}
GIVEN_FOR_GROUP = {"recall=cloning": ["recall.demonstrations=data"]}


def composed(recipe: str, *overrides: str):
    path = CONFIG / recipe
    overrides = (*overrides, *GIVEN.get(recipe, []))
    overrides += tuple(word for given in overrides for word in GIVEN_FOR_GROUP.get(given, []))
    with initialize_config_dir(config_dir=str(path.parent), version_base="1.3"):
        return compose(path.name, list(overrides))


@cache
def plain(recipe: str) -> dict:
    values = OmegaConf.to_container(composed(recipe), resolve=True)
    assert isinstance(values, dict)
    return values


def parts_of(kind) -> set:
    """All types within an annotation, without the groups."""
    return {kind}.union(*(parts_of(part) for part in get_args(kind)))


def numbers(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set]]:
    """Dotted keys of numbers and of lists or tables of them, with the types they are made of."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers(kind, f"{prefix}{name}.")
        elif parts := parts_of(kind) & {int, float}:
            yield prefix + name, parts | ({get_origin(part) for part in parts_of(kind)})


def said(recipe: str, key: str, kinds: set, number: float) -> str:
    """Return the message for a number in place of a key's value; rows of tables go by their key."""
    cfg = OmegaConf.create(plain(recipe))
    value = [1, number] if list in kinds else number
    row = f"{key}.Some-v0" if dict in kinds else key
    OmegaConf.update(cfg, row, value, merge=False)
    try:
        validate(cfg, SCHEMAS[recipe])
    except ConfigError as error:
        return str(error).replace(row, key)
    return ""


def all_said(recipe: str, number: float) -> dict[str, str]:
    return {key: said(recipe, key, kinds, number) for key, kinds in numbers(SCHEMAS[recipe])}


def test_there_are_groups_and_numbers():
    assert len(GROUPS) >= 25
    assert len(list(numbers(SACRecallConfig))) >= 40
    assert {"env.start", "seeds", "a2c.gamma"} <= dict(numbers(A2CRecallConfig)).keys()


@pytest.mark.parametrize(("recipe", "group"), GROUPS)
def test_every_group_is_valid_and_validates_again(recipe, group):
    config = validate(composed(recipe, group), SCHEMAS[recipe])
    assert type(config) is SCHEMAS[recipe]
    assert getattr(config, group.split("=")[0]).name == group.split("=")[1]
    assert validate(OmegaConf.create(config.model_dump()), SCHEMAS[recipe]) == config


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_the_shared_files_are_no_choices(recipe):
    groups = {path.stem for path in (CONFIG / recipe).parent.glob("*/*.yaml")}
    assert "base" not in groups


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_every_key_of_a_schema_stands_in_the_yaml(recipe):
    schema = SCHEMAS[recipe]
    assert schema.model_validate(plain(recipe)).model_dump() == plain(recipe)


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_settings_can_be_changed(recipe):
    config = validate(composed(recipe), SCHEMAS[recipe])
    config.collector.total_frames = 64  # type: ignore[attr-defined]
    assert config.model_dump()["collector"]["total_frames"] == 64


@pytest.mark.parametrize(
    ("recipe", "key"),
    [(name, "logger.interval" if "a2c" in name else "eval.interval") for name in SCHEMAS],
)
def test_rows_are_written_at_one_interval(recipe, key):
    config = validate(composed(recipe), SCHEMAS[recipe])
    assert config.log_interval == OmegaConf.select(composed(recipe), key)  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_numbers_below_their_range_are_refused(recipe):
    for key, sentence in all_said(recipe, -1).items():
        least = "zero or more" if key in AT_LEAST_ZERO else "positive"
        assert sentence == ("" if key in ANY_NUMBER else f"{key} must be {least}, got -1.")


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_zero_is_accepted_where_it_means_something(recipe):
    for key, sentence in all_said(recipe, 0).items():
        refused = sentence == f"{key} must be positive, got 0."
        assert refused is (key not in AT_LEAST_ZERO | ANY_NUMBER), key


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_shares_are_at_most_one(recipe):
    for key, sentence in all_said(recipe, 2).items():
        assert (sentence == f"{key} must be at most 1, got 2.") is (key in AT_MOST_ONE), key


@pytest.mark.parametrize("recipe", SCHEMAS)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_are_finite(recipe, number):
    for key, sentence in all_said(recipe, number).items():
        assert sentence == f"{key} must be a finite number, got {number}."


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_booleans_are_no_numbers(recipe):
    for key, kinds in numbers(SCHEMAS[recipe]):
        expected = "a number" if float in kinds else "an integer"
        assert said(recipe, key, kinds, True) == f"{key} must be {expected}, got true."


@pytest.mark.parametrize("recipe", SCHEMAS)
def test_integral_floats_are_integers(recipe):
    for key, kinds in numbers(SCHEMAS[recipe]):
        if int in kinds:
            assert "must be an integer" not in said(recipe, key, kinds, 1e6)
            assert said(recipe, key, kinds, 1.5) == f"{key} must be an integer, got 1.5."


def test_the_step_of_the_line_search_shrinks():
    sentence = said("on_policy/trpo_recall", "trpo.line_search_shrink", {float}, 1.0)
    assert sentence == "trpo.line_search_shrink must be below 1, got 1.0."
