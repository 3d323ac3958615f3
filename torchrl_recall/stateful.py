"""State of an object that is made of parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from tensordict import TensorDict, TensorDictBase

__all__ = ["NoDeepCopy", "Part", "Stateful", "Steps", "from_containers", "to_containers"]


class Part(Protocol):
    """Interface of an object whose state a resumed run needs."""

    def state_dict(self) -> dict:
        """Return the state."""

    def load_state_dict(self, state: dict, /) -> Any:
        """Restore :meth:`state_dict`."""


class Steps:
    """Counter of steps that is saved and restored with a state.

    Examples:
        >>> from torchrl_recall.stateful import Steps
        >>> steps = Steps()
        >>> [steps.every(2) for _ in range(4)]
        [False, True, False, True]
    """

    def __init__(self) -> None:
        self.taken = 0

    def every(self, interval: int) -> bool:
        """Count one step, and return whether it completes an interval.

        Args:
            interval: number of steps in an interval.

        Returns:
            True at every ``interval``-th step.
        """
        self.taken += 1
        return self.taken % interval == 0

    def state_dict(self) -> dict:
        """Return the count."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.taken = state["taken"]


class NoDeepCopy:
    """Base of objects that refuse a deep copy, which would share their compiled functions."""

    def __deepcopy__(self, memo: dict) -> NoReturn:
        raise TypeError(
            f"a deep copy of {type(self).__name__} would train the original's networks. Build "
            "another one with networks of its own, and give it state_dict() of this one."
        )

    def __copy__(self) -> NoReturn:
        self.__deepcopy__({})

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled, since the networks that it trains would be "
            "copied. Save its state_dict()."
        )


class Stateful(NoDeepCopy, ABC):
    """Base of objects that are saved and restored part by part."""

    @abstractmethod
    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the parts whose state is all of the object's state."""

    def __repr__(self) -> str:
        parts = (f"{name}={type(part).__name__}" for name, part in self.stateful_parts().items())
        return f"{type(self).__name__}({', '.join(parts)})"

    def state_dict(self) -> dict:
        """Return the state of each part."""
        return {name: part.state_dict() for name, part in self.stateful_parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        parts = self.stateful_parts()
        if parts.keys() != state.keys():
            raise KeyError(
                f"the state of {type(self).__name__} has the parts {sorted(parts)}, but this one "
                f"has {sorted(map(str, state))}. Give what state_dict() of the same class returned."
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])


def to_containers(data: TensorDictBase) -> dict:
    """Turn a tensordict into tensors and plain containers, which every checkpoint can hold.

    Args:
        data: a tensordict of any batch shape.

    Returns:
        A dictionary that :func:`from_containers` turns back.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.stateful import from_containers, to_containers
        >>> state = to_containers(TensorDict({"next": {"reward": torch.zeros(3)}}, [3]))
        >>> state["shape"], from_containers(state)["next", "reward"]
        ([3], tensor([0., 0., 0.]))
    """
    items = [(key, value.clone()) for key, value in data.items(True, True)]
    return {"items": items, "shape": list(data.shape)}


def from_containers(state: dict) -> TensorDict:
    """Turn the result of :func:`to_containers` back into a tensordict.

    Args:
        state: the dictionary that :func:`to_containers` returned.

    Returns:
        The tensordict.
    """
    data = TensorDict({}, batch_size=state["shape"])
    for key, value in state["items"]:
        data.set(tuple(key) if isinstance(key, list) else key, value.clone())
    return data
