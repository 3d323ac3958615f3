"""Training of filters of traces on real transitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import check_masks
from torchrl_recall.forward_updates import ForwardUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.agreement import Agreement, QuantileFilter

__all__ = ["FilterUpdates"]


class FilterUpdates(Stateful):
    """Updates of the filters that judge traces by real transitions.

    Such a filter measures errors of real transitions. An :class:`~torchrl_recall.Agreement` also
    needs a forward model, which is trained here.

    Args:
        filters: filters of traces; those that learn nothing are left alone.
        model: the backtracking model, which its owner trains.

    Keyword Args:
        num_updates: gradient steps of the forward model in each round.
        batch_size: transitions in each step.
        lr: the learning rate.
        compile: whether steps are compiled.

    Attributes:
        judges: the filters that learn, each of them once.
        train_forward: gradient steps of the forward model, or None.

    Raises:
        ValueError: two filters have a forward model each, or an Agreement has the backtracking
            model in place of one.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import Agreement, BacktrackingModel
        >>> from torchrl_recall.filter_updates import FilterUpdates
        >>> specs = Unbounded((3,)), Bounded(-1, 1, (2,))
        >>> model, forward_model = (BacktrackingModel.from_specs(*specs) for _ in range(2))
        >>> agreement = Agreement(forward_model)
        >>> updates = FilterUpdates([agreement], model, num_updates=5)
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64])
        >>> updates.update_statistics(data)
        >>> updates.observe(data)
        >>> bool(agreement.threshold.isfinite())
        True
    """

    def __init__(
        self,
        filters: Iterable[TensorDictModuleBase],
        model: BacktrackingModel,
        *,
        num_updates: int = 50,
        batch_size: int = 256,
        lr: float = 1e-3,
        compile: bool = False,
    ) -> None:
        filters = check_masks(list(filters))
        judges = {id(each): each for each in filters if isinstance(each, QuantileFilter)}
        self.judges = list(judges.values())
        asked = [judge.model for judge in self.judges if isinstance(judge, Agreement)]
        if not isinstance(model, JointModel) and any(each is model for each in asked):
            raise ValueError(
                "Agreement asks a forward model about traces, but was given the model that "
                "generates them. Give it one of its own, BacktrackingModel.from_specs(...), or "
                "make both a JointModel."
            )
        forward_models = {id(each): each for each in asked if each is not model}
        if len(forward_models) > 1:
            raise ValueError(
                "two Agreement filters have a forward model each, of which one would be trained; "
                "give both the same model, or give the same Agreement twice."
            )
        self.train_forward: ForwardUpdates | None = None
        for forward_model in forward_models.values():
            self.train_forward = ForwardUpdates(
                forward_model,
                num_updates=num_updates,
                batch_size=batch_size,
                lr=lr,
                compile=compile,
            )

    def update_statistics(self, data: TensorDictBase) -> None:
        """Add new transitions to the statistics of the forward model; pass each of them once.

        Args:
            data: real transitions in forward time, any batch shape, environment units.
        """
        if self.train_forward is not None:
            self.train_forward.update_statistics(data)

    def observe(self, data: TensorDictBase) -> None:
        """Let the filters measure the errors of real transitions that no model has learned from.

        Args:
            data: real transitions in forward time, any batch shape, environment units.
        """
        for judge in self.judges:
            judge.observe(data)

    def __call__(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the forward model for a round; return the detached mean of its loss, if any."""
        return {} if self.train_forward is None else self.train_forward(replay_buffer)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the forward model with its optimiser, and the filters that have measured errors."""
        return {
            **({} if self.train_forward is None else {"train_forward": self.train_forward}),
            **({"judges": nn.ModuleList(self.judges)} if self.judges else {}),
        }
