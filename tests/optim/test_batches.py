"""Random batches of one run, and means of losses."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)

from torchrl_recall.optim.batches import Draws, mean_losses


def numbered(n: int) -> TensorDict:
    return TensorDict(
        {"observation": torch.arange(float(n)).unsqueeze(-1), "other": torch.ones(n)}, [n]
    )


def test_seeds_are_distinct_states():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8), batch_size=2)
    buffer.extend(numbered(8))
    drawn = Draws().candidates(buffer, 1000)["observation"].flatten()
    assert sorted(drawn.tolist()) == list(range(8))
    assert len(Draws().candidates(buffer, 3)) <= 3


def test_rows_that_are_slices_of_time_are_refused():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8), batch_size=2)
    buffer.extend(numbered(12).reshape(2, 6))
    for draw in (Draws().candidates, lambda *args: list(Draws().batches(*args, 2, ["other"]))):
        with pytest.raises(ValueError, match=r"shape \(6,\).*data\.reshape\(-1\)"):
            draw(buffer, 3)


def test_batches_have_their_number_size_and_entries():
    batches = list(Draws().batches(numbered(10), 3, 4, ["observation"]))
    assert [batch.shape for batch in batches] == [(4,)] * 3
    assert all(list(batch.keys()) == ["observation"] for batch in batches)


def test_batches_are_uniform_over_all_rows():
    (batch,) = Draws().batches(numbered(4), 1, 40_000, ["observation"])
    share = torch.bincount(batch["observation"].flatten().long()) / 40_000
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.01)


def test_a_buffers_own_batch_size_and_priorities_do_not_matter():
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=1.0, beta=1.0, storage=LazyTensorStorage(4), batch_size=2, priority_key="td_error"
    )
    buffer.extend(numbered(4))
    buffer.update_priority(torch.arange(4), torch.tensor([1e6, 1e-6, 1e-6, 1e-6]))
    assert (buffer.sample()["observation"] == 0).all()
    (batch,) = Draws().batches(buffer, 1, 4_000, ["observation"])
    share = torch.bincount(batch["observation"].flatten().long()) / 4_000
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_pairs_are_those_of_the_mask():
    traces = numbered(6).reshape(2, 3)
    traces["mask"] = torch.tensor([[True, False, False], [False, True, True]])
    (batch,) = Draws().pairs(traces, 1, 200, ["observation"])
    assert sorted(batch["observation"].flatten().unique().tolist()) == [0, 4, 5]


def test_all_pairs_without_a_mask_and_none_without_any_left():
    traces = numbered(6).reshape(2, 3)
    (batch,) = Draws().pairs(traces, 1, 200, ["observation"])
    assert len(batch["observation"].unique()) == 6
    traces["mask"] = torch.zeros(2, 3, dtype=torch.bool)
    assert list(Draws().pairs(traces, 5, 4, ["observation"])) == []


def test_numbers_are_those_of_the_global_generator():
    def draw():
        torch.manual_seed(3)
        return torch.stack(list(Draws().batches(numbered(10), 2, 3, ["observation"])))

    expected = draw()
    assert (draw() == expected).all()
    torch.manual_seed(3)
    index = torch.randint(10, (6,))
    assert expected["observation"].flatten().tolist() == index.tolist()
    assert Draws().state_dict() == {}


def test_a_reduced_loss_is_the_total():
    loss = torch.tensor(3.0)
    assert Draws().total(loss) is loss


def test_means_by_hand():
    losses = [TensorDict({"a": torch.tensor(x), "b": torch.tensor(y)}) for x, y in ((1.0, True), (4.0, False))]  # noqa: E501  # fmt: skip
    told = mean_losses(losses, "recall")
    assert {key: float(value) for key, value in told.items()} == {"recall/a": 2.5, "recall/b": 0.5}
