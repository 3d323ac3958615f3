from omegaconf import OmegaConf

from torchrl_recall.trainers.schema.interpolation import drop_echoes, resolve


def test_interpolations_are_replaced():
    cfg = OmegaConf.create(
        {"a": {"b": 1, "c": "${a.b}"}, "d": ["${a.c}", {"e": None}], "f": "${a}"}
    )
    values, faults, texts = resolve(cfg)
    assert values == {"a": {"b": 1, "c": 1}, "d": [1, {"e": None}], "f": {"b": 1, "c": 1}}
    assert faults == {}
    assert texts == {"a.c": "${a.b}", "f": "${a}"}


def test_every_key_without_a_value_is_named():
    cfg = OmegaConf.create(
        {"a": "???", "b": {"c": "${nope}", "d": 1}, "e": "${oc.env:NO_SUCH_NAME}"}
    )
    values, faults, _ = resolve(cfg)
    assert values == {"b": {"d": 1}}
    assert list(faults) == ["a", "b.c", "e"]
    assert faults["a"] == "configuration key 'a': a value is missing."
    assert "'nope' not found" in faults["b.c"]
    assert "NO_SUCH_NAME" in faults["e"]


def test_a_circle_is_named():
    _, faults, texts = resolve(OmegaConf.create({"a": "${b}", "b": "${a}"}))
    assert list(faults) == ["a", "b"]
    assert len(drop_echoes(faults, texts)) == 2


def test_one_mistake_is_said_once():
    texts = {"recall.lr": "${optim.lr}", "run_dir": "runs/${env.name}_${seed}"}
    faults = {"recall.lr": "echo", "optim.lr": "mistake"}
    assert drop_echoes(faults, texts) == ["mistake"]
    assert drop_echoes({"recall.lr": "mistake"}, texts) == ["mistake"]
    assert drop_echoes({"run_dir": "echo", "env": "no group"}, texts) == ["no group"]


def test_a_table_that_is_looked_up_is_the_source():
    texts = {"env.trace_length": "${oc.select:table_1.${env.name},20}"}
    faults = {"env.trace_length": "echo", "table_1.Hopper-v5": "mistake"}
    assert drop_echoes(faults, texts) == ["mistake"]


def test_faults_of_other_keys_stay():
    faults = {"a": "one", "b": "two", "c": "three"}
    assert drop_echoes(faults, {"a": "${d}", "b": "text"}) == ["one", "two", "three"]
