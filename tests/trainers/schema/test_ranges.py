import math

import pytest
from pydantic import TypeAdapter, ValidationError

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    CountOrZero,
    Fraction,
    FractionOrZero,
    Number,
    Positive,
    Text,
)

INTEGERS = [Count, CountOrZero]
FLOATS = [AtLeastZero, Fraction, FractionOrZero, Number, Positive]


def accept(kind, value):
    return TypeAdapter(kind, config=Group.model_config).validate_python(value)


def refuse(kind, value):
    with pytest.raises(ValidationError) as error:
        accept(kind, value)
    return error.value.errors()[0]["type"]


@pytest.mark.parametrize("kind", INTEGERS)
def test_integral_floats_are_integers(kind):
    value = accept(kind, 1e4)
    assert value == 10_000
    assert type(value) is int


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("value", [True, False, "5", "five", 1.5, math.nan, math.inf, None, [1]])
def test_nothing_else_is_an_integer(kind, value):
    assert refuse(kind, value) in {"int_type", "int_from_float", "finite_number"}


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("value", [1, 1.0, "1", "1e0"])
def test_numbers_are_floats(kind, value):
    assert type(accept(kind, value)) is float


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("value", [True, False, "one", None, [1.0]])
def test_nothing_else_is_a_float(kind, value):
    assert refuse(kind, value) in {"float_type", "float_parsing"}


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf"])
def test_floats_are_finite(kind, value):
    assert refuse(kind, value) == "finite_number"


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Count, [1, 2], [0, -1]),
        (CountOrZero, [0, 1], [-1]),
        (Number, [-1.0, 0.0, 2.0], []),
        (Positive, [1e-9, 2.0], [0.0, -1.0]),
        (AtLeastZero, [0.0, 2.0], [-1e-9]),
        (Fraction, [1e-9, 1.0], [0.0, 1.1]),
        (FractionOrZero, [0.0, 1.0], [-1e-9, 1.1]),
    ],
)
def test_bounds(kind, inside, outside):
    assert [accept(kind, value) for value in inside] == inside
    for value in outside:
        assert refuse(kind, value).startswith(("greater_than", "less_than"))


@pytest.mark.parametrize(("value", "text"), [("a b", "a b"), (2024, "2024"), (0.5, "0.5")])
def test_numbers_are_text(value, text):
    assert accept(Text, value) == text


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_text_is_not_blank(value):
    assert refuse(Text, value) == "blank"


@pytest.mark.parametrize("value", [True, None, ["a"]])
def test_nothing_else_is_text(value):
    assert refuse(Text, value) == "string_type"
