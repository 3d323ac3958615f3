"""Audit of traces: values by hand, what filters leave, and the exact simulator as a filter."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl_recall import ExactDynamics, TraceAuditor
from torchrl_recall.envs import FourRoomsEnv, PointMassEnv, make_simulator

UMAZE = PointMassEnv(2, maze="u", step_size=0.1)


def traces_of(path, actions, **more) -> TensorDict:
    """Traces ``[num, steps]`` of paths ``[num, steps + 1, dim]``."""
    path, actions = torch.as_tensor(path), torch.as_tensor(actions)
    entries = {"observation": path[:, :-1], "action": actions, "next": {"observation": path[:, 1:]}}
    return TensorDict(entries | more, path[:, 1:].shape[:2])


def test_exact_reverse_dynamics_land_and_can_be():
    torch.manual_seed(0)
    path, led = [UMAZE.sample_goals(64)], torch.ones(64, dtype=torch.bool)
    actions = 2 * torch.rand(64, 10, 2) - 1
    for action in actions.flip(1).unbind(1):
        state, possible = UMAZE.reverse_step(path[0], action)
        path.insert(0, state)
        led &= possible
    assert led.any()
    traces = traces_of(torch.stack(path, 1)[led], actions[led])
    for found in TraceAuditor(UMAZE, lengths=[1, 5, 10])(traces).values():
        assert found.num_traces == led.sum()
        assert found.impossible == found.missed == 0
        assert found.landing_error < 1e-6
        assert found.step_error < 1e-6
    assert found.displacement > 0.1


def test_a_trace_out_of_a_wall_by_hand():
    path = [[[0.0, 0.2], [0.0, 0.4], [0.05, 0.4]]]  # the first state is in the wall
    found = TraceAuditor(UMAZE, lengths=[1, 2, 5])(traces_of(path, [[[0.0, 1.0], [0.5, 0.0]]]))
    assert list(found) == [1, 2]  # no trace has five steps
    assert found[1].impossible == 0
    assert found[1].landing_error < 1e-6
    assert found[1].displacement == pytest.approx(0.05 / math.sqrt(2))  # a root mean square
    assert found[2].impossible == 1
    assert math.isnan(found[2].landing_error)


def test_a_trace_through_a_wall_misses():
    """Jump over the wall twice, once under a mask; the third trace is right."""
    jump, right = [[0.0, -0.4], [0.0, 0.4]], [[0.0, 0.5], [0.0, 0.6]]
    traces = traces_of([jump, jump, right], torch.tensor([0.0, 1.0]).expand(3, 1, 2))
    (found,) = TraceAuditor(UMAZE, lengths=[1])(traces).values()
    assert found.num_traces == 3
    assert found.missed == pytest.approx(2 / 3)
    assert found.landing_error == pytest.approx(0.8 / math.sqrt(2))  # it stood still
    traces["mask"] = torch.tensor([[False], [False], [True]])
    (found,) = TraceAuditor(UMAZE, lengths=[1])(traces).values()
    assert (found.num_traces, found.missed) == (1, 0)
    traces["mask"][:] = False
    assert TraceAuditor(UMAZE, lengths=[1])(traces)[1].num_traces == 0


def test_errors_are_in_units_of_the_scale():
    traces = traces_of([[[0.0, 0.5], [0.3, 0.5]]], [[[1.0, 0.0]]])  # a step of 0.1 at most
    scales = [None, torch.tensor([0.5, 1.0]), lambda: torch.tensor([0.5, 1.0])]
    errors = [TraceAuditor(UMAZE, lengths=[1], scale=s)(traces)[1].landing_error for s in scales]
    assert errors == pytest.approx([0.2 / math.sqrt(2), 0.4 / math.sqrt(2), 0.4 / math.sqrt(2)])


@pytest.mark.parametrize(
    ("name", "tolerance"), [("Hopper-v5", 1e-5), ("HalfCheetah-v5", 1e-5), ("Ant-v5", 1e-5)]
)
def test_real_trajectories_land(name, tolerance):
    """Replay without the root position, which the observation leaves out."""
    task, paths, actions = gymnasium.make(name), [], []
    task.action_space.seed(0)
    for seed in range(3):
        path, taken = [task.reset(seed=seed)[0]], []
        for _ in range(5):
            taken.append(task.action_space.sample())
            path.append(task.step(taken[-1])[0])
        paths.append(path)
        actions.append(taken)
    traces = traces_of(np.array(paths, np.float32), np.array(actions))
    simulator = make_simulator(gymnasium.make(name))
    found = TraceAuditor(simulator, lengths=[5])(traces)[5]
    assert found.impossible == found.missed == 0
    assert found.landing_error < tolerance
    assert found.displacement > 0.1
    assert ExactDynamics(simulator, 1e-3)(traces)["mask"].all()
    traces["action"][:, 2] *= -1
    found = TraceAuditor(simulator, lengths=[5])(traces)[5]
    assert found.landing_error > 0.01
    mask = ExactDynamics(simulator, 1e-3)(traces)["mask"]
    assert mask[:, 3:].all()
    assert not mask[:, :3].any()


def test_cells_are_compared_by_row_and_column():
    env = FourRoomsEnv(7, goal=(5, 5))  # from (1, 1) to the right, and a jump by two rows
    cells = torch.tensor([[8, 9], [8, 22]])
    traces = traces_of(cells[..., None], torch.tensor([[1], [2]]))
    traces = traces.apply(lambda x: x.squeeze(-1) if x.ndim > 2 else x)
    found = TraceAuditor(env, lengths=[1])(traces)[1]
    assert found.missed == 0  # one row down is nearer
    assert ExactDynamics(env, 0.1)(traces)["mask"].flatten().tolist() == [True, False]


def test_metrics_are_named_by_length():
    traces = traces_of([[[0.0, 0.5], [0.3, 0.5]]], [[[1.0, 0.0]]])
    metrics = TraceAuditor(UMAZE)(traces), TraceAuditor(UMAZE).metrics(traces)
    assert metrics[1] == {
        "traces/landing_error_1": metrics[0][1].landing_error,
        "traces/displacement_1": pytest.approx(0.3 / math.sqrt(2)),
        "traces/impossible_1": 0.0,
    }


def test_an_audit_draws_no_random_number():
    before = torch.get_rng_state()
    traces = traces_of([[[0.0, 0.5], [0.3, 0.5]]], [[[1.0, 0.0]]])
    audit = TraceAuditor(UMAZE, lengths=[1])
    assert audit(traces) == audit(traces)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_exact_filter_walks_back_and_narrows():
    """The middle step of three is wrong; what was masked out stays so."""
    path = torch.tensor([[[0.0, 0.5], [0.1, 0.5], [0.5, 0.5], [0.6, 0.5]]]).repeat(2, 1, 1)
    traces = traces_of(path, torch.tensor([1.0, 0.0]).expand(2, 3, 2))
    traces["mask"] = torch.tensor([[True] * 3, [True, True, False]])
    mask = ExactDynamics(UMAZE, 0.01)(traces)["mask"]
    assert mask.tolist() == [[False, False, True], [False, False, False]]


def test_traces_of_another_task_are_refused():
    audit = TraceAuditor(gymnasium.make("Pendulum-v1"), lengths=[1])
    states, actions = torch.tensor([[[1.0, 0.0, 0.0]] * 2]), torch.zeros(1, 1, 1)
    assert audit(traces_of(states, actions))[1].impossible == 0
    with pytest.raises(ValueError, match=r"state shape \(3,\), the traces have \(4,\)"):
        audit(traces_of(torch.zeros(1, 2, 4), actions))
    with pytest.raises(ValueError, match=r"action shape \(1,\), the traces have \(3,\)"):
        audit(traces_of(states, torch.zeros(1, 1, 3)))
    audit.scale = torch.ones(2)
    with pytest.raises(ValueError, match="scale= has 2 numbers, states have 3"):
        audit(traces_of(states, actions))


def test_states_of_the_ant_may_leave_out_contact_forces():
    simulator = make_simulator(gymnasium.make("Ant-v5"))
    state = torch.tensor([[0.7, 1.0, *[0.0] * 25]])
    assert simulator.is_valid(state).all()
    with pytest.raises(ValueError, match=r"state shape \(105,\), the traces have \(28,\)"):
        simulator.is_valid(torch.zeros(1, 28))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="Reacher-v5 cannot be put"):
        TraceAuditor(gymnasium.make("Reacher-v5"))
    with pytest.raises(ValueError, match="lengths is empty"):
        TraceAuditor(UMAZE, lengths=[])
    with pytest.raises(ValueError, match="lengths must be an integer of at least 1, got 0"):
        TraceAuditor(UMAZE, lengths=[0])
    with pytest.raises(ValueError, match="tolerance must be positive"):
        ExactDynamics(UMAZE, 0.0)
    traces = traces_of([[[0.0, 0.5], [0.3, 0.5]]], [[[1.0, 0.0]]])
    for reader in (TraceAuditor(UMAZE), ExactDynamics(UMAZE, 0.1)):
        with pytest.raises(ValueError, match=r"needs traces of shape \[num_traces, trace_length\]"):
            reader(traces.flatten())
        with pytest.raises(KeyError, match=r"reads .+action.+Name it with observation_key="):
            reader(traces.exclude("action"))


class _Fragile:
    """Simulator whose replay of one trace is NaN."""

    def __getattr__(self, name: str):
        return getattr(UMAZE, name)

    def replay(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        path = UMAZE.replay(states, actions)
        path[0] = torch.nan
        return path


def test_one_replay_that_fails_does_not_hide_the_others():
    states, actions = UMAZE.sample_goals(5), torch.zeros(5, 1, 2)
    path = torch.cat([states.unsqueeze(1), UMAZE.replay(states, actions)], 1)
    found = TraceAuditor(_Fragile(), lengths=[1])(traces_of(path, actions))[1]
    assert found.landing_error == found.step_error == 0
