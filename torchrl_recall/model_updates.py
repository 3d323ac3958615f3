"""Training of the backtracking model (Alg. 1, lines 8 and 9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import at_least
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.joint import JointLoss
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.batches import BatchSource, Draws, check_stored, mean_losses
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.high_value_states import best_indices

__all__ = ["ModelUpdates", "make_model_loss"]


class ModelUpdates(Stateful):
    r"""Gradient steps of maximum likelihood of a backtracking model (Alg. 1, l.8-9; Eq. 2).

    .. math:: -\sum_t \log q(a_t \mid s_{t+1}) + \log q(\Delta s_t \mid a_t, s_{t+1})

    The first term is the backward policy, which learns from good trajectories. The second is the
    state predictor, which learns from all experience by default. A state predictor without
    trainable parameters, such as known dynamics, is not trained.

    Args:
        loss: Eq. 2, holding the model.

    Keyword Args:
        num_updates: gradient steps in each round; zero leaves the model untrained.
        batch_size: transitions of good trajectories in each step.
        all_batch_size: transitions of all experience in each step; ``batch_size`` by default.
        lr: β, the learning rate.
        state_predictor_data: training data of the state predictor: ``"all"`` transitions or, as in
            the paper, only those of the ``"top"`` trajectories.
        learns_policy: whether the backward policy is trained. Traces of uniform actions need none.
        state_fraction: k, a share in (0, 1]. The model learns from this share of the good states,
            the most valuable ones (line 8). A share below one needs a critic.
        critic: writes ``state_value``, which ranks states for ``state_fraction``.
        state_batch_size: number of transitions that are ranked for ``state_fraction``.
        prepare: function applied to each batch before the loss, such as
            :func:`~torchrl_recall.reverse_time`.
        optimizer: an optimiser of the loss's parameters;
            :func:`~torchrl_recall.optim.adam.make_adam` by default.
        draws: the source of random batches.
        compile: whether steps are compiled.

    Raises:
        ValueError: a number is out of its range, or a critic is needed but missing.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall import BacktrackingLoss, BacktrackingModel
        >>> from torchrl_recall.data.top_trajectories import TopTrajectories
        >>> from torchrl_recall.model_updates import ModelUpdates
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> path = torch.randn(2, 21, 3).cumsum(1)    # two episodes of 20 steps
        >>> data = TensorDict({
        ...     "observation": path[:, :-1].flatten(0, 1),
        ...     "action": torch.rand(40, 2),
        ...     "next": {
        ...         "observation": path[:, 1:].flatten(0, 1),
        ...         "reward": torch.randn(40, 1),
        ...         "done": (torch.arange(40) % 20 == 19).unsqueeze(-1),
        ...     },
        ... }, [40])
        >>> model.update_statistics(data)
        >>> trajectories, buffer = TopTrajectories(1), ReplayBuffer(storage=LazyTensorStorage(40))
        >>> _ = trajectories.extend(data), buffer.extend(data)
        >>> train_model = ModelUpdates(BacktrackingLoss(model), num_updates=5)
        >>> sorted(train_model(trajectories, buffer))
        ['backtracking/loss_backward_policy', 'backtracking/loss_state_predictor']
    """

    def __init__(
        self,
        loss: BacktrackingLoss,
        *,
        num_updates: int = 50,
        batch_size: int = 256,
        all_batch_size: int | None = None,
        lr: float = 1e-3,
        state_predictor_data: Literal["all", "top"] = "all",
        learns_policy: bool = True,
        state_fraction: float = 1.0,
        critic: TensorDictModuleBase | None = None,
        state_batch_size: int = 1024,
        prepare: Callable[[TensorDictBase], TensorDictBase] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        draws: BatchSource | None = None,
        compile: bool = False,
    ) -> None:
        all_batch_size = batch_size if all_batch_size is None else all_batch_size
        at_least(0, num_model_updates=num_updates)
        at_least(1, model_batch_size=batch_size, all_batch_size=all_batch_size)
        at_least(1, state_batch_size=state_batch_size)
        if not lr > 0:
            raise ValueError(f"model_lr must be positive, got {lr}.")
        if state_predictor_data not in ("all", "top"):
            raise ValueError(
                f"state_predictor_data must be 'all' or 'top', got {state_predictor_data!r}."
            )
        if not 0 < state_fraction <= 1 or (state_fraction < 1 and critic is None):
            raise ValueError(
                f"state_fraction must be in (0, 1], and below 1 it needs a critic to rank states "
                f"with; got {state_fraction} and critic={critic}."
            )
        self.loss = loss
        self.num_updates = num_updates
        self.batch_size, self.all_batch_size = batch_size, all_batch_size
        self.state_predictor_data, self.learns_policy = state_predictor_data, learns_policy
        self.state_fraction, self.critic = state_fraction, critic
        self.state_batch_size = state_batch_size
        self.prepare = prepare
        self.draws: BatchSource = Draws() if draws is None else draws
        dynamics = loss.backtracking_model_params.get("state_predictor", None)  # None: no network
        values = () if dynamics is None else dynamics.values(True, True)
        self.learns_dynamics = any(p.requires_grad for p in values)
        self.optimizer = make_adam(loss, lr) if optimizer is None else optimizer
        self._update = make_update(loss, self.optimizer, loss_fn=self._losses, compile=compile)

    def __call__(self, trajectories: Any, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the model for a round.

        Args:
            trajectories: a store of good trajectories, such as
                :class:`~torchrl_recall.data.top_trajectories.TopTrajectories`.
            replay_buffer: all experience.

        Returns:
            Detached means of the losses over the round; empty without updates.
        """
        if not self.num_updates:
            return {}
        keys, batches = self.loss.in_keys, []
        if isinstance(self.loss, JointLoss):
            cure = "Keep them in it, or take a BacktrackingModel."
            check_stored(replay_buffer, keys, "the joint model", cure)
        top = self.most_valuable(trajectories) if self.needs_top else None
        if self.learns_policy:
            batches.append(self.draws.batches(top, self.num_updates, self.batch_size, keys))
        if self.learns_dynamics:
            everything = replay_buffer if self.state_predictor_data == "all" else top
            size = self.num_updates, self.all_batch_size
            batches.append(self.draws.batches(everything, *size, keys))
        if not batches:
            return {}
        losses = [self._update(*batch) for batch in zip(*batches, strict=True)]
        return mean_losses(losses, "backtracking")

    @property
    def needs_top(self) -> bool:
        """Whether training needs good trajectories, and so has to wait for them."""
        return self.learns_policy or self.state_predictor_data == "top"

    def most_valuable(self, trajectories: Any) -> Any:
        """Return transitions of the most valuable ``state_fraction`` of the good states.

        Args:
            trajectories: a store of good trajectories.
        """
        if self.critic is None or self.state_fraction == 1:
            return trajectories.transitions()
        states = self.draws.candidates(trajectories.buffer, self.state_batch_size)
        assert states is not None
        with torch.no_grad():
            inputs = states.select(*self.critic.in_keys, strict=False)
            values = self.critic(inputs)["state_value"]
        k = max(1, round(self.state_fraction * len(states)))
        return states[best_indices(values.flatten(), k, name="values")]

    def _losses(
        self, top: TensorDictBase, everything: TensorDictBase | None = None
    ) -> TensorDictBase:
        """Compute Eq. 2, each factor on its own data."""
        if not self.learns_policy:  # the only batch is the state predictor's
            data = top if self.prepare is None else self.prepare(top)
            losses = self.loss.dynamics_losses(data)
            return TensorDict({name: self.draws.total(loss) for name, loss in losses.items()})
        weight = top.get("weight", None)
        if self.prepare is not None:
            top = self.prepare(top)
            everything = None if everything is None else self.prepare(everything)
        total, loss = self.draws.total, self.loss
        losses = {"loss_backward_policy": total(loss.backward_policy_loss(top), weight)}
        if everything is not None:
            of_dynamics = loss.dynamics_losses(everything)
            losses |= {name: total(value) for name, value in of_dynamics.items()}
        return TensorDict(losses)

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the optimiser; the model is saved by the object that owns it."""
        return {"optimizer": self.optimizer}


def make_model_loss(model: BacktrackingModel, *, bootstrap: bool = False) -> BacktrackingLoss:
    """Make the objective of a model: Eq. 2, or that of a joint model.

    Args:
        model: the model to train.

    Keyword Args:
        bootstrap: whether each member of an ensemble learns from its own random batches; see
            :class:`~torchrl_recall.BacktrackingLoss`.

    Returns:
        A :class:`~torchrl_recall.JointLoss` of a joint model, and otherwise a
        :class:`~torchrl_recall.BacktrackingLoss`.

    Raises:
        ValueError: ``bootstrap`` is set for a model that is no ensemble.
    """
    if isinstance(model, JointModel) and not bootstrap:
        return JointLoss(model)
    return BacktrackingLoss(model, bootstrap=bootstrap)
