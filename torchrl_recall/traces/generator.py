"""Generation of recall traces (Sec. 2.1 and Alg. 1, line 11)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.envs.backtracking_env import BacktrackingEnv, reverse_time
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.optim.compilation import compile_function, with_fallback

__all__ = ["RecallTraceGenerator"]


Step = Callable[[Tensor], tuple[Tensor, Tensor]]


class RecallTraceGenerator(nn.Module):
    r"""Rolls a backtracking model out from high-value states.

    From each seed :math:`s_T`, ``num_traces`` times and for ``trace_length`` steps,

    .. math:: a_t \sim q(a_t \mid s_{t+1}), \qquad s_t \sim q(s_t \mid a_t, s_{t+1})

    and the steps are returned in forward time, so that the last ``("next", "observation")`` of
    every trace is its seed.

    From Goyal et al., *Recall Traces*, ICLR 2019.

    Args:
        model: the backtracking model.

    Keyword Args:
        trace_length: steps of each trace. Tables 1 and 2 use 10 to 50; long traces drift.
        num_traces: traces from each seed, N in Alg. 1.
        compile: whether to compile one backward step, which is worth it from some hundred calls
            on. If compilation fails, a warning says why and the eager step is used.

    Raises:
        ValueError: ``trace_length`` or ``num_traces`` is below one.

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
        >>> seeds = TensorDict({"observation": torch.randn(5, 3)}, [5])
        >>> traces = generate(seeds)
        >>> traces.shape
        torch.Size([20, 20])
        >>> bool((traces["next", "observation"][:4, -1] == seeds["observation"][0]).all())
        True
    """

    def __init__(
        self,
        model: BacktrackingModel,
        *,
        trace_length: int = 20,
        num_traces: int = 1,
        compile: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("trace_length", trace_length), ("num_traces", num_traces)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        self.model = model
        self.trace_length = trace_length
        self.num_traces = num_traces
        self._step: Step = self._eager_step
        if compile:
            self._step = _compile_step(self._eager_step)

    @torch.no_grad()
    def forward(self, seeds: TensorDictBase) -> TensorDict:
        """Generate traces step by step, the fast path of :meth:`rollout`.

        Args:
            seeds: high-value states under the model's ``observation_key``, any batch shape,
                environment units. Other entries are ignored.

        Returns:
            Traces of shape ``[seeds.numel() * num_traces, trace_length]`` in forward time, with
            the observation, the action and ``("next", observation)``; the traces of one seed are
            contiguous.

        Raises:
            KeyError: the seeds have no observation.
            ValueError: they are empty, not finite, or of another shape, dtype or device than the
                model.
        """
        model = self.model
        states = [self._seed_states(seeds)]
        actions: list[Tensor] = []
        with set_exploration_type(ExplorationType.RANDOM):
            for _ in range(self.trace_length):
                action, state = self._step(states[-1])
                actions.append(action)
                states.append(state)
        path = torch.stack(states[::-1], 1)  # forward time: s_{T-L}, ..., s_T
        traces = TensorDict({}, batch_size=(*path.shape[:1], self.trace_length))
        traces.set(model.observation_key, path[:, :-1])
        traces.set(model.action_key, torch.stack(actions[::-1], 1))
        return traces.set(model.next_observation_key, path[:, 1:].clone())

    @torch.no_grad()
    def rollout(self, seeds: TensorDictBase) -> TensorDictBase:
        """Generate the same traces by rolling out a :class:`~torchrl_recall.BacktrackingEnv`.

        This is what :meth:`forward` means, with the entries that TorchRL adds to a rollout; from
        the same random state the two agree. See :meth:`forward` for arguments and errors.
        """
        model = self.model
        states = self._seed_states(seeds)
        start = TensorDict({}, batch_size=states.shape[:1])
        start.set(model.observation_key, states)
        env = BacktrackingEnv(model)
        with set_exploration_type(ExplorationType.RANDOM):
            rollout = env.rollout(
                self.trace_length,
                env.backward_policy,
                tensordict=env.reset(start, set_state=True),
                auto_reset=False,
                break_when_any_done=False,
            )
        return reverse_time(rollout, observation_key=model.observation_key)

    def _eager_step(self, next_observation: Tensor) -> tuple[Tensor, Tensor]:
        action = self.model.sample_action(next_observation)
        return action, self.model.sample_observation(action, next_observation)

    def _seed_states(self, seeds: TensorDictBase) -> Tensor:
        model, spec = self.model, self.model.observation_spec
        model._check_statistics()  # a compiled step cannot
        states = seeds.get(model.observation_key, None)
        if states is None:
            raise KeyError(
                f"the seeds have no {model.observation_key!r}, only "
                f"{sorted(map(str, seeds.keys(True, True)))}. Give the states to trace back from "
                "under the model's observation_key."
            )
        if states.shape[seeds.ndim :] != spec.shape:
            raise ValueError(
                f"the seeds' {model.observation_key!r} has shape {tuple(states.shape)} with batch "
                f"shape {tuple(seeds.shape)}; expected the batch shape followed by "
                f"{tuple(spec.shape)}."
            )
        if states.dtype != spec.dtype:
            raise ValueError(
                f"the seeds are {states.dtype}, but the model's observations are {spec.dtype}. "
                f"Convert them with seeds.to({spec.dtype}), or use torchrl's DoubleToFloat."
            )
        device = next((p.device for p in model.parameters()), states.device)
        if states.device != device:
            raise ValueError(
                f"the seeds are on {states.device}, but the model is on {device}. Move one with "
                ".to(device)."
            )
        if not seeds.batch_size.numel():
            raise ValueError("there are no seeds; give at least one high-value state.")
        if states.dtype.is_floating_point and not states.isfinite().all():
            raise ValueError(
                f"the seeds' {model.observation_key!r} holds NaN or infinity; drop those states."
            )
        states = states.reshape(-1, *spec.shape)
        return states.repeat_interleave(self.num_traces, 0)


def _compile_step(step: Step) -> Step:
    """A graph of its own for each round number of traces, and one, a tenth slower, for the rest."""
    graphs = [
        with_fallback(compile_function(step, any_size=any_size), step, "the backward step")
        for any_size in (False, True)
    ]
    return lambda next_observation: graphs[len(next_observation) % 32 > 0](next_observation)
