"""Goals of recall traces in hindsight."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_recall import HindsightGoal


def traces_of(*paths: list[float]) -> TensorDict:
    path = torch.tensor(paths).unsqueeze(-1)
    return TensorDict(
        {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}},
        [len(paths), path.shape[1] - 1],
    )


def test_every_step_is_sent_to_the_end_state():
    traces = HindsightGoal()(traces_of([1.0, 2.0, 3.0], [6.0, 5.0, 4.0]))
    assert traces["desired_goal"].squeeze(-1).tolist() == [[3.0, 3.0], [4.0, 4.0]]


def test_goals_are_decoded_and_replace_those_that_are_there():
    traces = traces_of([1.0, 2.0, 3.0])
    traces["desired_goal"] = torch.zeros(1, 2, 2)
    out = HindsightGoal(lambda states: torch.cat([states, -states], -1))(traces)
    assert out is traces
    assert out["desired_goal"].tolist() == [[[3.0, -3.0], [3.0, -3.0]]]


@pytest.mark.parametrize("key", ["state", ("agent", "state")])
def test_renamed_and_nested_keys(key):
    traces = traces_of([1.0, 2.0, 3.0])
    for parent in ((), ("next",)):
        path = (*parent, *(key if isinstance(key, tuple) else (key,)))
        traces.rename_key_((*parent, "observation"), path)
    out = HindsightGoal(goal_key=("agent", "goal"), observation_key=key)(traces)
    assert out["agent", "goal"].flatten().tolist() == [3.0, 3.0]
    assert "desired_goal" not in out.keys(True)


def test_steps_of_a_trace_share_no_memory():
    traces = HindsightGoal()(traces_of([1.0, 2.0, 3.0]))
    traces["desired_goal"][:, 0] = 9.0
    assert traces["desired_goal"][:, 1].item() == 3.0
    assert traces["next", "observation"][:, -1].item() == 3.0


def test_pairs_and_missing_states_are_refused():
    with pytest.raises(ValueError, match="HindsightGoal needs traces of shape"):
        HindsightGoal()(traces_of([1.0, 2.0, 3.0])[0])
    with pytest.raises(KeyError, match="HindsightGoal reads"):
        HindsightGoal()(traces_of([1.0, 2.0, 3.0]).exclude("next"))


def test_goals_of_tasks_of_categories():
    cells = torch.tensor([[1, 2, 3], [4, 5, 6]])
    following = {"observation": cells + 1}
    traces = HindsightGoal()(TensorDict({"observation": cells, "next": following}, [2, 3]))
    assert traces["desired_goal"].tolist() == [[4, 4, 4], [7, 7, 7]]
