import json
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tensordict import TensorDict
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    LazyMemmapStorage,
    LazyTensorStorage,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorDictReplayBuffer,
    Unbounded,
)

from torchrl_recall import DataSetError, read_data_set, whole_trajectories
from torchrl_recall.data.data_sets import conform

SPECS = Unbounded((3,)), Bounded(-1, 1, (2,))


def steps(num: int = 12, episode: int = 4) -> TensorDict:
    path = torch.arange(3.0 * (num + 1)).reshape(num + 1, 3)
    done = ((torch.arange(num) + 1) % episode == 0).unsqueeze(-1)
    following = {
        "observation": path[1:], "reward": torch.ones(num, 1), "terminated": done, "done": done,
    }  # fmt: skip
    data = {"observation": path[:-1], "action": torch.rand(num, 2) * 2 - 1, "next": following}
    return TensorDict(data, [num])


class _Planted:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("storage", [LazyMemmapStorage, LazyTensorStorage])
def test_a_dump_of_torchrl_is_read_without_its_pickles(storage, tmp_path):
    buffer, data = TensorDictReplayBuffer(storage=storage(100), batch_size=4), steps()
    buffer.extend(data)
    buffer.dumps(tmp_path / "set")
    for pickled in [*(tmp_path / "set").rglob("*.pkl"), *(tmp_path / "set").rglob("*.pickle")]:
        pickled.write_bytes(pickle.dumps(_Planted(tmp_path / "ran")))
    planted = tmp_path / "set" / "planted.pkl"  # where a dump brings none
    planted.write_bytes(pickle.dumps(_Planted(tmp_path / "ran")))
    found = read_data_set(tmp_path / "set", *SPECS)
    assert found.shape == (12,)
    for key in ("observation", "action", ("next", "observation"), ("next", "reward")):
        assert torch.equal(found[key], data[key])
    assert not (tmp_path / "ran").exists()
    pickle.loads(planted.read_bytes())
    assert (tmp_path / "ran").exists()  # it would have run


def test_a_full_buffer_is_read_oldest_first(tmp_path):
    buffer, data = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=4), steps(13)
    buffer.extend(data[:10])
    buffer.extend(data[10:])
    buffer.dumps(tmp_path)
    assert torch.equal(read_data_set(tmp_path, *SPECS)["observation"], data["observation"][3:])


def test_streams_of_several_environments_stay_apart(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100, ndim=2), batch_size=4)
    data = steps(12).reshape(2, 6)
    buffer.extend(data)
    buffer.dumps(tmp_path)
    found = read_data_set(tmp_path, *SPECS)
    assert found.shape == (2, 6)
    assert torch.equal(found["observation"], data["observation"])


@pytest.mark.parametrize("num", [12, 20, 25])
def test_items_that_are_whole_trajectories_are_read_as_such(num, tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=4)
    data = steps(4 * num).reshape(num, 4)
    for part in data.split(10):
        buffer.extend(part)
    buffer.dumps(tmp_path)
    found = read_data_set(tmp_path, *SPECS)
    assert torch.equal(found["observation"], data["observation"][-20:])


def test_masked_steps_are_left_out_after_the_unwritten_ones(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=4)
    data = steps(24).reshape(6, 4)
    mask = torch.arange(4) < torch.tensor([[4], [3], [4], [2], [4], [1]])
    buffer.extend(data.clone().set(("collector", "mask"), mask))
    buffer.dumps(tmp_path)
    found = read_data_set(tmp_path, *SPECS)
    assert torch.equal(found["observation"], data["observation"][mask])


def test_an_order_that_is_unclear_is_refused(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=4)
    data = steps(80)[torch.randperm(80)]
    data["next", "done"] = data["next", "terminated"] = torch.zeros(80, 1, dtype=torch.bool)
    buffer.extend(data.reshape(20, 4))
    buffer.dumps(tmp_path)
    with pytest.raises(DataSetError, match=r"Write it flat"):
        read_data_set(tmp_path, *SPECS)


def test_transitions_of_several_steps_are_refused(tmp_path):
    steps().set("steps_to_next_obs", torch.full((12,), 3)).memmap(tmp_path)
    with pytest.raises(DataSetError, match="12 transitions are of several steps"):
        read_data_set(tmp_path, *SPECS)


def test_numbers_are_no_categories_of_continuous_actions(tmp_path):
    steps().set("action", torch.ones(12, 1, dtype=torch.int64)).memmap(tmp_path)
    with pytest.raises(DataSetError, match="action has the shape"):
        read_data_set(tmp_path, *SPECS)


def test_numbers_become_categories(tmp_path):
    data = steps(4)
    data["observation"], data["action"] = torch.tensor([0, 1, 2, 3]), torch.tensor([[2]] * 4)
    data["next", "observation"] = torch.tensor([1, 2, 3, 4])
    data.memmap(tmp_path)
    found = read_data_set(tmp_path, OneHot(5), OneHot(3))
    assert found["observation"].int().argmax(-1).tolist() == [0, 1, 2, 3]
    assert found["action"].int().tolist() == [[0, 0, 1]] * 4
    with pytest.raises(DataSetError, match="observation reaches from 1 to 4, but the task has 4"):
        read_data_set(tmp_path, OneHot(4), OneHot(3))


def _without_done(data):
    return data.exclude(("next", "done"), ("next", "terminated"))


FAULTS = {
    "there is no 'action' among": lambda data: data.exclude("action"),
    "observation has the shape": lambda data: data.set("observation", torch.zeros(12, 4)),
    "reward is NaN or infinite in 1 steps": lambda data: data.set_at_(
        ("next", "reward"), torch.nan, 3
    ),
    "'terminated' and 'done'": _without_done,
    "action is out of its bounds in 12 of 12": lambda data: data.set(
        "action", torch.full((12, 2), 7.0)
    ),
    "one number is expected": lambda data: data.set(("next", "reward"), torch.zeros(12, 2)),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_what_does_not_fit_the_task_is_named(message, tmp_path):
    FAULTS[message](steps().clone()).memmap(tmp_path)
    with pytest.raises(DataSetError, match=message):
        read_data_set(tmp_path, *SPECS)


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(DataSetError, match="does not exist"):
        read_data_set(tmp_path / "nowhere", *SPECS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataSetError, match="holds no data set"):
        read_data_set(tmp_path / "empty", *SPECS)
    steps().memmap(tmp_path / "cut")
    (tmp_path / "cut" / "action.memmap").write_bytes(b"1234")
    with pytest.raises(DataSetError, match="4 bytes do not make"):
        read_data_set(tmp_path / "cut", *SPECS)
    meta = tmp_path / "cut" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "shape": "many"}))
    with pytest.raises(DataSetError, match="names no shape"):
        read_data_set(tmp_path / "cut", *SPECS)


def test_a_rounded_action_is_clamped_to_its_bounds(tmp_path):
    data = steps()
    data["action"][0] = 1.0001
    data.memmap(tmp_path)
    assert read_data_set(tmp_path, *SPECS)["action"].max() == 1


@pytest.fixture
def minari_set(tmp_path, monkeypatch):
    """A data set that Minari itself wrote."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    def make(name, observations, actions, space, action_space):
        buffers = [
            EpisodeBuffer(
                observations=observation, actions=action, rewards=[1.0] * len(action),
                terminations=[False] * (len(action) - 1) + [True],
                truncations=[False] * len(action), infos={},
            )
            for observation, action in zip(observations, actions, strict=True)
        ]  # fmt: skip
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=space, action_space=action_space
        )
        return tmp_path / name

    return make


def test_a_data_set_of_minari_is_read(minari_set):
    path = [np.arange(9.0).reshape(3, 3), 100 + np.arange(12.0).reshape(4, 3)]
    actions = [np.full((2, 2), 0.5, np.float32), np.full((3, 2), -0.5, np.float32)]
    spaces = Box(-np.inf, np.inf, (3,), np.float64), Box(-1, 1, (2,), np.float32)
    folder = minari_set("tests/vectors-v0", path, actions, *spaces)
    found = read_data_set(folder, *SPECS)
    assert found["observation"].dtype == torch.float32
    assert found["observation"][:, 0].tolist() == [0, 3, 100, 103, 106]
    assert found["next", "observation"][:, 0].tolist() == [3, 6, 103, 106, 109]
    assert found["next", "done"].flatten().tolist() == [False, True, False, False, True]
    assert found["is_init"].flatten().tolist() == [True, False, True, False, False]
    same = read_data_set(folder / "data" / "main_data.hdf5", *SPECS)
    assert torch.equal(same["action"], found["action"])


def test_entries_of_minaris_dicts_are_joined_in_order(minari_set):
    states = {"goal": np.ones((3, 1), np.float32), "place": np.zeros((3, 2), np.float32)}
    space = Dict(goal=Box(-9, 9, (1,), np.float32), place=Box(-9, 9, (2,), np.float32))
    folder = minari_set("tests/dicts-v0", [states], [np.array([0, 1])], space, Discrete(2))
    found = read_data_set(folder, SPECS[0], OneHot(2), observation_keys=["place", "goal"])
    assert found["observation"][0].tolist() == [0, 0, 1]
    assert found["action"].int().tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataSetError, match=r"env.observation_keys=\[goal,place\]"):
        read_data_set(folder, SPECS[0], OneHot(2))


def test_a_file_that_is_no_data_set_of_minaris_is_named(tmp_path):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_group("episode_0")
    with pytest.raises(DataSetError, match="no array 'actions'"):
        read_data_set(tmp_path / "other.hdf5", *SPECS)
    (tmp_path / "text.hdf5").write_text("text")
    with pytest.raises(DataSetError, match="is no data set of Minari's"):
        read_data_set(tmp_path / "text.hdf5", *SPECS)


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_what_another_file_holds_is_not_read(kind, tmp_path):
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["values"] = np.zeros((3, 3), np.float32)
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        group = file.create_group("episode_0")
        if kind == "link":
            group["observations"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/values")
        elif kind == "storage":
            external = [(str(tmp_path / "secret.hdf5"), 0, 36)]
            group.create_dataset("observations", (3, 3), np.float32, external=external)
        else:
            layout = h5py.VirtualLayout((3, 3), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.hdf5"), "values", (3, 3))
            group.create_virtual_dataset("observations", layout)
    with pytest.raises(DataSetError, match="episode_0/observations is kept in another file"):
        read_data_set(tmp_path / "set.hdf5", *SPECS)


@pytest.mark.parametrize(
    ("keys", "dim"), [(["goal", "place"], 3), (["observation", "goal"], 4), (["observation"], 3)]
)
def test_entries_of_a_dict_are_joined_beside_one_that_is_called_observation(tmp_path, keys, dim):
    data = steps()
    for rows in (data, data["next"]):
        rows["goal"], rows["place"] = torch.full((12, 1), 7.0), torch.full((12, 2), 9.0)
    data.memmap(tmp_path / "set")
    found = read_data_set(tmp_path / "set", Unbounded((dim,)), SPECS[1], observation_keys=keys)
    assert torch.equal(found["observation"], torch.cat([data[key] for key in keys], -1))
    following = torch.cat([data["next", key] for key in keys], -1)
    assert torch.equal(found["next", "observation"], following)


def test_a_recording_holds_its_entries_joined(tmp_path):
    data = steps()
    data.memmap(tmp_path / "set")
    found = read_data_set(tmp_path / "set", *SPECS, observation_keys=["place", "goal"])
    assert torch.equal(found["observation"], data["observation"])


def test_episodes_of_minaris_without_a_step_are_left_out(tmp_path):
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        for number, num in enumerate((2, 0)):
            group = file.create_group(f"episode_{number}")
            group["observations"] = np.zeros((num + 1, 3), np.float32)
            group["actions"] = np.zeros((num, 2), np.float32)
            group["rewards"] = np.ones(num)
            for flag in ("terminations", "truncations"):
                group[flag] = np.ones(num, bool)
    assert len(read_data_set(tmp_path / "set.hdf5", *SPECS)) == 2


FLAG = torch.zeros(4, 1, dtype=torch.bool)


def four(action: torch.Tensor, observation: torch.Tensor | None = None) -> TensorDict:
    state = torch.zeros(4, 3) if observation is None else observation
    following = {
        "observation": state, "reward": torch.ones(4, 1), "terminated": FLAG, "done": FLAG,
    }  # fmt: skip
    return TensorDict({"observation": state, "action": action, "next": following}, [4])


@pytest.mark.parametrize(
    ("data", "specs", "message"),
    [
        (four(torch.tensor([0, 1, 7, -2])), (SPECS[0], Categorical(4)), "reaches from -2 to 7"),
        (
            four(torch.tensor([0.0, 1.9, 2.0, 3.0])),
            (SPECS[0], Categorical(4)),
            "action has numbers that are not whole",
        ),
        (
            four(torch.tensor([0.0, 1.0, 2.0, torch.nan])),
            (SPECS[0], Categorical(4)),
            "action has numbers that are not whole",
        ),
        (
            four(torch.rand(4, 2), torch.tensor([0, 1, 9, -2])),
            (Categorical(4), SPECS[1]),
            "observation reaches from -2 to 9",
        ),
        (
            four(torch.rand(4, 2), torch.full((4, 3), True)),
            (OneHot(3), SPECS[1]),
            "observation is no one-hot vector",
        ),
        (
            four(torch.tensor([[5.0, 0.0]] * 4)),
            (SPECS[0], Bounded(torch.tensor([-torch.inf, -1.0]), torch.ones(2), (2,))),
            "action is out of its bounds in 4 of 4",
        ),
    ],
)
def test_values_that_the_task_does_not_have_are_refused(data, specs, message):
    with pytest.raises(DataSetError, match=message):
        conform(data, *specs)


@pytest.mark.parametrize(
    ("spec", "known", "unknown"),
    [
        (MultiCategorical([3, 4]), [2, 3], [3, 0]),
        (MultiOneHot([2, 3]), [0, 1, 1, 0, 0], [1, 1, 1, 0, 0]),
        (Binary(3), [0, 1, 1], [0, 1, 2]),
    ],
)
def test_actions_of_several_parts(spec, known, unknown):
    data = conform(four(torch.tensor([known] * 4)), SPECS[0], spec)
    assert data["action"].long().tolist() == [known] * 4
    if spec.dtype is not torch.bool or isinstance(
        spec, MultiOneHot
    ):  # to which all other numbers are True
        with pytest.raises(DataSetError, match="action has values that the task's"):
            conform(four(torch.tensor([unknown] * 4)), SPECS[0], spec)


def test_whole_floats_are_taken_for_categories():
    data = conform(four(torch.tensor([0.0, 1.0, 2.0, 3.0])), SPECS[0], Categorical(4))
    assert data["action"].tolist() == [0, 1, 2, 3]


def test_a_data_set_that_begins_in_mid_episode_is_known_by_its_elapsed_steps():
    ends = torch.tensor([0, 0, 1, 0, 1]).bool().unsqueeze(1)
    following = {
        "observation": torch.tensor([4, 5, 6, 1, 2]), "reward": torch.ones(5, 1),
        "terminated": ends, "done": ends,
    }  # fmt: skip
    data = TensorDict(
        {
            "observation": torch.tensor([3, 4, 5, 0, 1]),
            "action": torch.zeros(5, dtype=torch.long),
            "elapsed_steps": torch.tensor([2, 3, 4, 0, 1]),
            "next": following,
        },
        [5],
    )
    with pytest.warns(UserWarning, match="dropped 3 steps"):
        found = whole_trajectories(conform(data, Categorical(9), Categorical(4)))
    assert [len(trajectory) for trajectory in found] == [2]


@pytest.mark.parametrize(("widths", "flags"), [((3, 4), ()), ((3,), (2,))])
def test_files_whose_arrays_do_not_fit_together_are_damaged(tmp_path, widths, flags):
    with h5py.File(tmp_path / "a.hdf5", "w") as root:
        for number, width in enumerate(widths):
            group = root.create_group(f"episode_{number}")
            group["observations"] = np.zeros((5, width), np.float32)
            group["actions"] = np.zeros((4, 2), np.float32)
            group["rewards"] = np.zeros(4, np.float32)
            group["terminations"] = np.zeros((4, *flags), bool)
            group["truncations"] = np.array([0, 0, 0, 1], bool)
    with pytest.raises(DataSetError, match="is no data set of Minari's"):
        read_data_set(tmp_path / "a.hdf5", *SPECS)
