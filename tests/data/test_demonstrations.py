import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall import DataSetError, whole_trajectories
from torchrl_recall.data.demonstrations import Demonstrations
from torchrl_recall.data.top_trajectories import TopTrajectories


def steps(rewards: list[float], ends: list[int]) -> TensorDict:
    num = len(rewards)
    path = torch.arange(num + 1.0).unsqueeze(-1)
    done = torch.zeros(num, 1, dtype=torch.bool)
    done[ends] = True
    following = {"observation": path[1:], "reward": torch.tensor(rewards).unsqueeze(-1), "done": done}  # noqa: E501  # fmt: skip
    return TensorDict({"observation": path[:-1], "next": following}, [num])


def test_episodes_are_cut_where_they_end_and_the_rest_is_said_to_be_left_out():
    with pytest.warns(UserWarning, match="the last 2 steps of the demonstrations"):
        found = whole_trajectories(steps([1.0] * 7, [1, 4]))
    assert [len(each) for each in found] == [2, 3]


def test_data_without_an_end_and_returns_that_are_not_finite_are_refused():
    with pytest.raises(DataSetError, match="marks the ends of episodes"):
        whole_trajectories(TensorDict({"next": {"reward": torch.ones(3, 1)}}, [3]))
    with pytest.raises(DataSetError, match="no episode ends within the 3 steps"):
        whole_trajectories(steps([1.0] * 3, []))
    with pytest.raises(DataSetError, match="the return of episode 0 is inf"):
        whole_trajectories(steps([3e38, 3e38], [1]))


def test_rows_of_both_are_drawn_in_the_order_asked_for():
    demonstrations = Demonstrations([steps([1.0] * 3, [2])])
    buffer = ReplayBuffer(storage=LazyTensorStorage(10), batch_size=1)
    buffer.extend(steps([5.0, 6.0], [1]).set("more", torch.zeros(2)))
    both = demonstrations.beside(buffer)
    index = torch.tensor([4, 0, 3, 2])
    assert both[index]["next", "reward"].flatten().tolist() == [6, 1, 5, 1]
    assert "more" not in list(both[index].keys())  # which the demonstrations lack
    assert len(both) == 5


def test_a_store_is_ready_with_demonstrations_and_better_trajectories_replace_them():
    store, other = (TopTrajectories(2, keys=["observation"]) for _ in range(2))
    other.extend(torch.cat([steps([1.0, 1.0], [1]), steps([2.0], [0])]))
    assert not other.ready  # of the agent's own none is better than another
    store.demonstrate([steps([1.0, 1.0], [1]), steps([2.0], [0])])
    assert store.ready
    assert store.filter.returns.tolist() == [2.0, 2.0]
    live = steps([9.0], [0]).set("is_init", torch.ones(1, 1, dtype=torch.bool))
    store.extend(live)  # which says more of where episodes begin
    store.flush()
    assert store.filter.returns.tolist() == [2.0, 9.0]
    again = TopTrajectories(2, keys=["observation"])
    again.load_state_dict(store.state_dict())
    assert again.ready


def test_a_store_refuses_demonstrations_that_it_cannot_keep():
    with pytest.raises(ValueError, match=r"a demonstration has 3 steps.*buffer_size="):
        TopTrajectories(2, buffer_size=2).demonstrate([steps([1.0] * 3, [2])])
    with pytest.raises(ValueError, match="no demonstration has a return above 5"):
        TopTrajectories(2, return_threshold=5.0).demonstrate([steps([1.0], [0])])


def test_data_without_steps_or_rewards_are_refused():
    with pytest.raises(DataSetError, match="no episode ends within the 0 steps"):
        whole_trajectories(steps([1.0] * 3, [2])[:0])
    data = steps([1.0] * 3, [2])
    del data["next", "reward"]
    with pytest.raises(DataSetError, match=r"the data have no \('next', 'reward'\)"):
        whole_trajectories(data)
