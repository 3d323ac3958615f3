"""Generation of recall traces (Sec. 2.1 and Alg. 1, line 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.checks import at_least, require, same_dtype
from torchrl_recall.devices import device_of
from torchrl_recall.envs.backtracking_env import BacktrackingEnv, reverse_time
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.backward_model import BackwardModel, check_backward_model
from torchrl_recall.modules.policies import check_bounded, uniform_actions
from torchrl_recall.optim.compilation import compile_function, with_fallback
from torchrl_recall.traces.measured_length import MeasuredLength

__all__ = ["RecallTraceGenerator"]

Step = Callable[[Tensor], tuple[Tensor, Tensor]]

# Each number of traces that is a multiple of this gets its own compiled graph, which is a tenth
# faster. All other numbers share one graph, because they vary from call to call, and each graph
# takes seconds to compile.
_ROUND = 32

# Largest number of steps of a trace; longer traces would take hours without a message.
_LONGEST = 10_000


class RecallTraceGenerator(nn.Module):
    r"""Generator of recall traces, which rolls a backtracking model out from high-value states.

    From each end state :math:`s_T` it generates ``num_traces`` traces of ``trace_length`` steps:

    .. math:: a_t \sim q(a_t \mid s_{t+1}), \qquad s_t \sim q(s_t \mid a_t, s_{t+1})

    Steps are returned in forward time. The last ``("next", "observation")`` of every trace is its
    end state.

    From Goyal et al., *Recall Traces*, ICLR 2019.

    Args:
        model: the backtracking model, or any :class:`~torchrl_recall.BackwardModel`.

    Keyword Args:
        trace_length: steps of each trace. Tables 1 and 2 of the paper use 10 to 50; long traces
            drift. A :class:`~torchrl_recall.MeasuredLength` finds the length from real
            trajectories.
        num_traces: number of traces to each end state, N in Alg. 1.
        actions: how actions are drawn, from the ``"backward_policy"`` or ``"uniform"`` over the
            action space. Imitation needs the backward policy. A critic can learn from any action.
        compile: whether to compile the backward step, which pays off after some hundred calls. If
            compilation fails, a warning gives the reason and the eager step is used.

    Raises:
        ValueError: ``trace_length`` is below one or above 10,000, ``num_traces`` below one, or
            uniform actions have no bounds.
        TypeError: the model cannot be rolled backwards.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import BacktrackingModel, RecallTraceGenerator
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> model.update_statistics(TensorDict({
        ...     "observation": torch.randn(64, 3),
        ...     "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64]))
        >>> generate = RecallTraceGenerator(model, trace_length=20, num_traces=4)
        >>> end_states = TensorDict({"observation": torch.randn(5, 3)}, [5])
        >>> traces = generate(end_states)
        >>> traces.shape
        torch.Size([20, 20])
        >>> bool((traces["next", "observation"][:4, -1] == end_states["observation"][0]).all())
        True
    """

    def __init__(
        self,
        model: BackwardModel,
        *,
        trace_length: int | MeasuredLength = 20,
        num_traces: int = 1,
        actions: Literal["backward_policy", "uniform"] = "backward_policy",
        compile: bool = False,
    ) -> None:
        super().__init__()
        longest = (
            trace_length.max_length if isinstance(trace_length, MeasuredLength) else trace_length
        )
        at_least(1, trace_length=longest, num_traces=num_traces)
        if longest > _LONGEST:
            raise ValueError(
                f"trace_length must be at most {_LONGEST:,}, got {longest:,}: a learned model "
                "leaves the data within tens of steps, and the paper uses 10 to 50."
            )
        check_backward_model(model)
        if actions not in ("backward_policy", "uniform"):
            raise ValueError(f"actions must be 'backward_policy' or 'uniform', got {actions!r}.")
        if actions == "uniform":
            check_bounded(model.action_spec)
        self.model, self.actions = model, actions
        self.trace_length = trace_length
        self.num_traces = num_traces
        self.compile_step = compile
        self._step: Step | None = None  # made at the first call

    @torch.no_grad()
    def forward(self, end_states: TensorDictBase) -> TensorDict:
        """Generate traces step by step, faster than :meth:`rollout`.

        Args:
            end_states: high-value states under the model's ``observation_key``, any batch shape,
                environment units. Other entries are ignored.

        Returns:
            Traces of shape ``[end_states.numel() * num_traces, trace_length]`` in forward time,
            with the observation, the action and ``("next", observation)``. Traces to the same end
            state are adjacent.

        Raises:
            TypeError: the end states are not in a tensordict.
            KeyError: the end states have no observation.
            ValueError: the end states are empty or not finite, or their shape, dtype or device
                differs from the model's.
        """
        model = self.model
        step = self._step = self._step or self._make_step()
        length = int(self.trace_length)
        states = [self._repeated(end_states)]
        actions: list[Tensor] = []
        with set_exploration_type(ExplorationType.RANDOM):
            for _ in range(length):
                action, state = step(states[-1])
                actions.append(action)
                states.append(state)
        path = torch.stack(states[::-1], 1)  # forward time: s_{T-L}, ..., s_T
        traces = TensorDict({}, batch_size=(*path.shape[:1], length))
        traces.set(model.observation_key, path[:, :-1])
        traces.set(model.action_key, torch.stack(actions[::-1], 1))
        return traces.set(model.next_observation_key, path[:, 1:].clone())

    @torch.no_grad()
    def rollout(self, end_states: TensorDictBase) -> TensorDictBase:
        """Generate the same traces by rolling out a :class:`~torchrl_recall.BacktrackingEnv`.

        The rollout is the definition of :meth:`forward`: from the same random state both return
        the same traces. The errors are the same too.

        Args:
            end_states: see :meth:`forward`.

        Returns:
            Traces as :meth:`forward` returns them, with the entries that TorchRL adds to a rollout.
        """
        model = self.model
        states = self._repeated(end_states)
        first = TensorDict({}, batch_size=states.shape[:1])
        first.set(model.observation_key, states)
        env = BacktrackingEnv(model)
        with set_exploration_type(ExplorationType.RANDOM):
            rollout = env.rollout(
                int(self.trace_length),
                self._act if self.actions == "uniform" else env.backward_policy,
                tensordict=env.reset(first, set_state=True),
                auto_reset=False,
                break_when_any_done=False,
            )
        return reverse_time(rollout, observation_key=model.observation_key)

    def _make_step(self) -> Step:
        return _compile_step(self._eager_step) if self.compile_step else self._eager_step

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_step": None}  # a copy makes a step of its own model

    def _eager_step(self, next_observation: Tensor) -> tuple[Tensor, Tensor]:
        if self.actions == "uniform":
            num = len(next_observation)
            action = uniform_actions(self.model.action_spec, num, device=next_observation.device)
        else:
            action = self.model.sample_action(next_observation)
        return action, self.model.sample_observation(action, next_observation)

    def _act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draw uniform actions in a rollout."""
        model = self.model
        device = tensordict.get(model.observation_key).device
        action = uniform_actions(model.action_spec, len(tensordict), device=device)
        return tensordict.set(model.action_key, action)

    def _repeated(self, end_states: TensorDictBase) -> Tensor:
        """Check end states, and return each ``num_traces`` times."""
        model, spec = self.model, self.model.observation_spec
        if isinstance(model, BacktrackingModel):
            model.check_statistics()  # a compiled step cannot check them
        if not isinstance(end_states, TensorDictBase):
            raise TypeError(
                f"end states come in a TensorDict under {model.observation_key!r}, not in a "
                f"{type(end_states).__name__}; give TensorDict({{{model.observation_key!r}: "
                "states}, [len(states)])."
            )
        cure = "Put the end states under the model's observation_key."
        states = require(end_states, model.observation_key, "RecallTraceGenerator", cure)
        if states.shape[end_states.ndim :] != spec.shape:
            raise ValueError(
                f"the end states' {model.observation_key!r} has shape {tuple(states.shape)} with "
                f"batch shape {tuple(end_states.shape)}; expected the batch shape followed by "
                f"{tuple(spec.shape)}."
            )
        same_dtype(f"the end states' {model.observation_key!r}", states, spec)
        device = device_of(cast(nn.Module, model)) or states.device
        if states.device != device:
            raise ValueError(
                f"the end states are on {states.device}, but the model is on {device}. Move one "
                "with .to(device)."
            )
        if not end_states.batch_size.numel():
            raise ValueError("there are no end states; give at least one high-value state.")
        if states.dtype.is_floating_point and not states.isfinite().all():
            raise ValueError(
                f"the end states' {model.observation_key!r} holds NaN or infinity; drop those."
            )
        states = states.reshape(-1, *spec.shape)
        return states.repeat_interleave(self.num_traces, 0)


def _compile_step(step: Step) -> Step:
    """Compile a step: one graph for each round number of traces, and one for all other numbers."""
    graphs = [
        with_fallback(compile_function(step, any_size=any_size), step, "the backward step")
        for any_size in (False, True)
    ]
    return lambda next_observation: graphs[len(next_observation) % _ROUND > 0](next_observation)
