"""Recall traces beside a host algorithm: lines 5 and 8 to 13 of Algorithm 1, wired once."""

from __future__ import annotations

from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.self_imitation import (
    ImitationOfGoodPairs,
    make_adam,
    mean_losses,
    minibatches,
    valid_steps,
)
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import HighValueStates, best_indices

__all__ = ["Recall", "candidates"]


class Recall(ImitationOfGoodPairs):
    r"""Recall traces beside a host algorithm: lines 5 and 8 to 13 of Algorithm 1.

    From Goyal et al., *Recall Traces*, ICLR 2019. Give it the model and the policy's loss, call
    :meth:`extend` with what was collected and :meth:`step` after the host's own update.

    Args:
        model: the backtracking model.
        imitation_loss: Eq. 3, holding the host's policy.
        high_value_states: where traces start (line 10).

    Keyword Args:
        trace_length: steps of each trace.
        num_traces: N, traces from each high-value state.
        num_model_updates: steps of Eq. 2 in each round; zero leaves the model untrained.
        model_batch_size: transitions in each of them.
        model_lr: β, the model's learning rate.
        state_predictor_data: what the state predictor learns from, ``"all"`` transitions or, as
            in the paper, only the ``"top"`` trajectories. The backward policy always learns from
            the top ones.
        state_batch_size: transitions from which the high-value states are chosen.
        state_fraction: k, the share of most valuable states of the top trajectories that the
            model learns from (line 8); needs a critic below one.
        critic: ranks states for ``state_fraction``.
        kwargs: see :class:`ImitationOfGoodPairs`.

    Raises:
        ValueError: a number is out of its range, or a critic is needed.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import (
        ...     Bounded, LazyTensorStorage, TensorDictReplayBuffer, Unbounded
        ... )
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import BacktrackingModel, ImitationLoss, Recall, RewardStates
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> recall = Recall(model, ImitationLoss(actor), RewardStates(4), interval=40)
        >>> replay_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
        >>> data = TensorDict({                       # two episodes of 20 steps
        ...     "observation": torch.randn(40, 3),
        ...     "action": torch.rand(40, 2),
        ...     "next": {
        ...         "observation": torch.randn(40, 3),
        ...         "reward": torch.randn(40, 1),
        ...         "done": (torch.arange(40) % 20 == 19).unsqueeze(-1),
        ...     },
        ... }, [40])
        >>> _ = replay_buffer.extend(data)
        >>> recall.extend(data)
        >>> bool(recall.step(replay_buffer)["recall/loss_imitation"].isfinite())
        True
    """

    def __init__(
        self,
        model: BacktrackingModel,
        imitation_loss: ImitationLoss,
        high_value_states: HighValueStates,
        *,
        trace_length: int = 20,
        num_traces: int = 1,
        num_model_updates: int = 50,
        model_batch_size: int = 256,
        model_lr: float = 1e-3,
        state_predictor_data: Literal["all", "top"] = "all",
        state_batch_size: int = 1024,
        state_fraction: float = 1.0,
        critic: TensorDictModuleBase | None = None,
        compile: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(imitation_loss, compile=compile, **kwargs)
        if not isinstance(state_batch_size, int) or state_batch_size < 1:
            raise ValueError(
                f"state_batch_size must be an integer of at least 1, got {state_batch_size!r}."
            )
        if not isinstance(num_model_updates, int) or num_model_updates < 0:
            raise ValueError(
                f"num_model_updates must be an integer of at least 0, got {num_model_updates!r}."
            )
        if not isinstance(model_batch_size, int) or model_batch_size < 1:
            raise ValueError(
                f"model_batch_size must be an integer of at least 1, got {model_batch_size!r}."
            )
        if not model_lr > 0:
            raise ValueError(f"model_lr must be positive, got {model_lr}.")
        if state_predictor_data not in ("all", "top"):
            raise ValueError(
                f"state_predictor_data must be 'all' or 'top', got {state_predictor_data!r}."
            )
        if not 0 < state_fraction <= 1 or (state_fraction < 1 and critic is None):
            raise ValueError(
                f"state_fraction must be in (0, 1], and below 1 it needs a critic to rank states "
                f"with; got {state_fraction} and critic={critic}."
            )
        self.model = model
        self.high_value_states = high_value_states
        self.generator = RecallTraceGenerator(
            model, trace_length=trace_length, num_traces=num_traces, compile=compile
        )
        self.backtracking_loss = BacktrackingLoss(model)
        self.model_optimizer = make_adam(self.backtracking_loss, model_lr)
        self._update_model = make_update(
            self.backtracking_loss, self.model_optimizer, loss_fn=self._losses, compile=compile
        )
        self.num_model_updates = num_model_updates
        self.model_batch_size = model_batch_size
        self.state_predictor_data = state_predictor_data
        self.state_batch_size = state_batch_size
        self.state_fraction = state_fraction
        self.critic = critic

    def _take_in(self, data: TensorDictBase) -> None:
        """Also the model's running statistics."""
        self._update_statistics(data)
        super()._take_in(data)

    def _update_statistics(self, data: TensorDictBase) -> None:
        self.model.update_statistics(valid_steps(data))

    def _round(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        return self._train_model(replay_buffer) | super()._round(replay_buffer)

    def _train_model(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Alg. 1, lines 8 and 9."""
        if not self.num_model_updates:
            return {}
        size = self.num_model_updates, self.model_batch_size
        keys = self.backtracking_loss.in_keys
        top = self._top_states()
        everything = replay_buffer if self.state_predictor_data == "all" else top
        batches = zip(
            minibatches(top, *size, keys), minibatches(everything, *size, keys), strict=True
        )
        return mean_losses([self._update_model(*batch) for batch in batches], "backtracking")

    def _losses(self, top: TensorDictBase, everything: TensorDictBase) -> TensorDict:
        """Eq. 2, each factor on its own data."""
        loss = self.backtracking_loss
        return TensorDict(
            {
                "loss_backward_policy": loss.backward_policy_loss(top),
                "loss_state_predictor": loss.state_predictor_loss(everything),
            }
        )

    def _top_states(self) -> TensorDictBase:
        """The most valuable states of the top trajectories."""
        if self.critic is None or self.state_fraction == 1:
            return self.backtracking_buffer.storage[: len(self.backtracking_buffer)]
        states = candidates(self.backtracking_buffer, self.state_batch_size)
        with torch.no_grad():
            values = self.critic(states.select(self.model.observation_key))["state_value"]
        k = max(1, round(self.state_fraction * len(states)))
        return states[best_indices(values.flatten(), k, name="values")]

    def _pairs(self, replay_buffer: ReplayBuffer) -> TensorDictBase | None:
        """Alg. 1, lines 10 and 11."""
        seeds = self.high_value_states(candidates(replay_buffer, self.state_batch_size))
        return self.generator(seeds) if len(seeds) else None

    def state_dict(self) -> dict:
        """The model, its optimiser, and the rest."""
        return super().state_dict() | {
            "model": self.model.state_dict(),
            "model_optimizer": self.model_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.model.load_state_dict(state["model"])
        self.model_optimizer.load_state_dict(state["model_optimizer"])


def candidates(buffer: ReplayBuffer, num: int) -> TensorDictBase:
    """At most ``num`` distinct transitions to rank: copies of one state are not several seeds."""
    return buffer[torch.randint(len(buffer), (num,)).unique()]
