"""Base of groups of configuration keys, and the error of a wrong configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["ConfigError", "Group"]


class ConfigError(ValueError):
    """Error of a configuration that cannot be run; its message names the key and the cure.

    Examples:
        >>> from omegaconf import OmegaConf
        >>> from torchrl_recall.trainers.schema import ConfigError, validate
        >>> from torchrl_recall.trainers.schema.parts import OptimConfig
        >>> try:
        ...     validate(OmegaConf.create({"lr": -1}), OptimConfig)
        ... except ConfigError as error:
        ...     print(error)
        lr must be positive, got -1.
    """


class Group(BaseModel):
    """Base of groups of keys, which refuses unknown keys and values out of range.

    Subclasses override :meth:`faults` for conditions between values.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each condition between values that does not hold."""
        yield from ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sentences := list(self.faults()):
            raise PydanticCustomError("faults", "{sentences}", {"sentences": sentences})
        return self
