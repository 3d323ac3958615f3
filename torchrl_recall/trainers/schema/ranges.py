"""Ranges of configuration values, as types of fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError, PydanticKnownError

__all__ = [
    "AtLeastZero",
    "Count",
    "CountOrZero",
    "Fraction",
    "FractionOrZero",
    "Number",
    "Positive",
    "Seed",
    "Text",
    "Threads",
    "TraceLength",
    "multiples",
]


def multiples(value: int, of: int) -> str:
    """Name the multiples next to a value that is none, smaller and larger.

    Args:
        value: which is refused.
        of: positive.

    Examples:
        >>> from torchrl_recall.trainers.schema.ranges import multiples
        >>> multiples(20_000, 2_048), multiples(100, 2_048)
        ('18432 or 20480', '2048')
    """
    below = value // of * of
    return " or ".join(str(each) for each in (below, below + of) if each)


def _refuse_booleans_and_text(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticKnownError("int_type")
    return value  # Hydra reads 1e4 as a float; pydantic accepts it as an integer, but not 1.5


def _refuse_booleans(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _refuse_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "is empty")
    return value


_Integer = BeforeValidator(_refuse_booleans_and_text)
_Float = BeforeValidator(_refuse_booleans)

Count = Annotated[int, Field(gt=0), _Integer]
CountOrZero = Annotated[int, Field(ge=0), _Integer]
Seed = Annotated[int, Field(ge=0, lt=2**32), _Integer]
Threads = Annotated[int, Field(gt=0, le=1024), _Integer]
TraceLength = Annotated[int, Field(gt=0, le=10_000), _Integer]

Number = Annotated[float, _Float]
Positive = Annotated[float, Field(gt=0), _Float]
AtLeastZero = Annotated[float, Field(ge=0), _Float]
Fraction = Annotated[float, Field(gt=0, le=1), _Float]
FractionOrZero = Annotated[float, Field(ge=0, le=1), _Float]

Text = Annotated[str, AfterValidator(_refuse_blank)]
