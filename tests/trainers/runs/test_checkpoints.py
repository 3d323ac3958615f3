import errno
import json
import math
import os
import resource
import shutil
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from recipe_fixtures import load, tiny, train
from tensordict import TensorDict

from torchrl_recall.trainers.runs.checkpoints import CheckpointError, load_latest, save

FILES = {"tensors.safetensors", "state.json", "manifest.json"}
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
]  # fmt: skip


def round_trip(tmp_path, value):
    save(tmp_path, 7, {"value": value})
    frames, state = load_latest(tmp_path)
    assert frames == 7
    return state["value"]


def same_tensor(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous(), b.contiguous())


def folders(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)], ids=str)
def test_tensors_of_every_kind_come_back(tmp_path, dtype, shape):
    tensor = (10 * torch.rand(shape)).to(dtype)
    assert same_tensor(round_trip(tmp_path, tensor), tensor)


def test_bits_of_special_numbers_come_back(tmp_path):
    tensor = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, math.pi])
    tensor = tensor.double()
    out = round_trip(tmp_path, tensor)
    assert torch.equal(out.view(torch.int64), tensor.view(torch.int64))


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -3, 2**200 + 1, 1.5, 1e-310, math.inf, -math.inf, "", "dé\n\0\"",
        [], (), {}, [1, (2, [3, ()])], {"a": {"b": {}}}, {1: "one", 2: {3: "three"}},
        {"tensor": "not a tensor"}, {"dict": []}, {"list": (1,)}, {"a.b": 1, "a": {"b": 2}},
        {None: 1, True: 2},
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values_come_back(tmp_path, value):
    out = round_trip(tmp_path, value)
    assert out == value
    assert isinstance(out, type(value))


def test_nan_comes_back(tmp_path):
    assert math.isnan(round_trip(tmp_path, math.nan))


def test_lists_and_tuples_are_told_apart(tmp_path):
    out = round_trip(tmp_path, [(1, [2]), [(3,)]])
    assert repr(out) == repr([(1, [2]), [(3,)]])


def test_order_of_keys_comes_back(tmp_path):
    assert list(round_trip(tmp_path, {"b": 1, "a": 2, 3: 3})) == ["b", "a", 3]


@pytest.mark.parametrize(
    "state",
    [
        {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}},
        {1: torch.zeros(2), "1": torch.ones(2)},
        {"a": [torch.zeros(2)], "a.0": torch.ones(2)},
    ],
    ids=["dots", "integers", "lists"],
)
def test_keys_that_look_alike_hold_their_own_tensors(tmp_path, state):
    def leaves(node):
        if isinstance(node, torch.Tensor):
            return [node.tolist()]
        values = node.values() if isinstance(node, dict) else node
        return [leaf for value in values for leaf in leaves(value)]

    assert leaves(round_trip(tmp_path, state)) == leaves(state)


def test_views_and_shared_storage_come_back_without_the_rest(tmp_path):
    base = torch.arange(100_000.0)
    state = {
        "slice": base[2:5], "again": base[2:5], "column": base.view(1000, 100)[:, 3],
        "transposed": base[:6].view(2, 3).T, "expanded": torch.ones(1).expand(4),
        "whole": base[:8].clone(), "strided": base[0:10:2],
    }  # fmt: skip
    state["alias"] = state["whole"]
    state["reshaped"] = state["whole"].view(2, 4)
    out = round_trip(tmp_path, state)
    assert all(same_tensor(out[key], value) for key, value in state.items())
    assert (tmp_path / "000000000007" / "tensors.safetensors").stat().st_size < 20_000


def test_parameters_come_back_as_values(tmp_path):
    parameter = torch.nn.Parameter(torch.rand(3))
    out = round_trip(tmp_path, {"w": parameter})["w"]
    assert same_tensor(out, parameter.data)
    assert not out.requires_grad


def test_tensordicts_come_back(tmp_path):
    data = TensorDict(
        {"a": torch.rand(3, 2), "next": {"a": torch.rand(3, 2), "done": torch.ones(3, 1).bool()}},
        [3],
    )
    out = round_trip(tmp_path, [data])[0]
    assert out.batch_size == data.batch_size
    assert set(out.keys(True, True)) == set(data.keys(True, True))
    assert all(same_tensor(out[key], data[key]) for key in data.keys(True, True))


@pytest.mark.parametrize("shape", [[], [0], [2, 3]], ids=str)
def test_empty_tensordicts_keep_their_batch_size(tmp_path, shape):
    assert round_trip(tmp_path, TensorDict({}, shape)).batch_size == torch.Size(shape)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3), np.array(2.5), np.zeros((0, 3)), np.array([True, False]),
        np.arange(5, dtype=np.uint8), np.arange(6.0).reshape(2, 3).T, np.arange(6.0)[::-1],
        np.arange(3, dtype=np.uint32), np.arange(3, dtype=np.uint64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}{a.strides}",
)  # fmt: skip
def test_arrays_come_back(tmp_path, array):
    out = round_trip(tmp_path, array)
    assert isinstance(out, np.ndarray)
    assert out.dtype == array.dtype
    assert out.shape == array.shape
    assert np.array_equal(out, array)


@pytest.mark.parametrize("value", [np.float64(2.5), np.float32(0.5), np.int64(7), np.bool_(True)])
def test_numpy_scalars_come_back_as_numbers(tmp_path, value):
    assert round_trip(tmp_path, value) == value.item()


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_random_generators_go_on_bitwise(tmp_path, kind):
    generator = np.random.Generator(getattr(np.random, kind)(3))
    generator.random(5)
    state = round_trip(tmp_path, generator.bit_generator.state)
    expected = generator.random(5)
    other = np.random.Generator(getattr(np.random, kind)(4))
    other.bit_generator.state = state
    assert np.array_equal(other.random(5), expected)


def test_optimisers_go_on_bitwise(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    x = torch.rand(8, 3)

    def steps(net, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    steps(net, optimizer, 3)
    state = round_trip(tmp_path, {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    other = torch.nn.Linear(3, 2)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=1.0)
    other.load_state_dict(state["net"])
    other_optimizer.load_state_dict(state["optimizer"])
    steps(net, optimizer, 3)
    steps(other, other_optimizer, 3)
    assert all(map(torch.equal, net.parameters(), other.parameters()))


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", 1j, object(), print, torch.float32, np.array(["text"])],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_cannot_be_saved_is_named(tmp_path, value):
    save(tmp_path, 1, {"good": 1})
    with pytest.raises(TypeError, match=rf"state\.outer\.1\.inner.*{type(value).__name__}"):
        save(tmp_path, 2, {"outer": [0, {"inner": value}]})
    assert folders(tmp_path) == ["000000000001"]
    assert load_latest(tmp_path) == (1, {"good": 1})


def test_keys_that_cannot_be_saved_are_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match=r"outer.*tuple|tuple.*outer"):
        save(tmp_path, 1, {"outer": {("a", "b"): 1}})


def test_no_file_is_a_pickle_or_a_zip(tmp_path):
    data = TensorDict({"a": torch.rand(3)}, [3])
    folder = save(tmp_path, 1, {"t": torch.rand(3), "d": data, "n": np.arange(3), "s": "text"})
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert_not_executable(path.read_bytes())


def assert_not_executable(content: bytes):
    assert not content.startswith((b"\x80", b"PK", b"\x93NUMPY", b"\x1f\x8b"))
    assert b"ctorch" not in content
    assert b"__reduce" not in content


def state_of(n: int) -> dict:
    return {"n": n, "t": torch.full((50,), float(n)), "text": "some words"}


def two(tmp_path):
    """Two checkpoints, the newer of which a test will spoil."""
    save(tmp_path, 10, state_of(10))
    return save(tmp_path, 20, state_of(20))


def expect_the_older(tmp_path, match):
    with pytest.warns(UserWarning, match=match):
        frames, state = load_latest(tmp_path)
    assert (frames, state["n"]) == (10, 10)
    assert torch.equal(state["t"], torch.full((50,), 10.0))


def test_nothing_there_is_none(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "nowhere") is None


def test_the_newest_is_loaded_without_a_warning(tmp_path):
    two(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_latest(tmp_path)[0] == 20


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_found_and_the_older_one_used(tmp_path, name, where):
    path = two(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0x10
    path.write_bytes(content)
    expect_the_older(tmp_path, match=f"20.*{name}")


def test_no_single_bit_of_the_manifest_can_change_what_is_loaded(tmp_path):
    path = save(tmp_path, 20, {"n": 20}) / "manifest.json"
    good = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bit in range(8 * len(good)):
            content = bytearray(good)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            try:
                loaded = load_latest(tmp_path)
            except CheckpointError:
                continue
            assert loaded == (20, {"n": 20}), f"bit {bit}: {content[bit // 8 - 12 : bit // 8 + 4]}"


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("rest", [0, 1, 20])
def test_a_truncated_file_is_found(tmp_path, name, rest):
    path = two(tmp_path) / name
    path.write_bytes(path.read_bytes()[:rest])
    expect_the_older(tmp_path, match=f"20.*{name}")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_found(tmp_path, name):
    (two(tmp_path) / name).unlink()
    expect_the_older(tmp_path, match=name)


@pytest.mark.parametrize("name", ["prefetch.pkl", "other.pickle", "notes.txt", "tensors.pt"])
def test_a_foreign_file_is_refused_by_name(tmp_path, name):
    (two(tmp_path) / name).write_bytes(b"\x80\x04cos\nsystem\n")
    expect_the_older(tmp_path, match=f"{name}.*pickles are never read")


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    manifest = two(tmp_path) / "manifest.json"
    content = json.loads(manifest.read_text()) | {"format": "something else 3"}
    manifest.write_text(json.dumps(content))
    expect_the_older(tmp_path, match="something else 3")


def test_a_plain_file_with_a_number_for_a_name_is_not_a_checkpoint(tmp_path):
    two(tmp_path)
    (tmp_path / "000000000030").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_latest(tmp_path)[0] == 20


def test_none_good_is_an_error_with_a_cure(tmp_path):
    two(tmp_path)
    for folder in tmp_path.iterdir():
        (folder / "state.json").write_text("{}")
    with (
        pytest.warns(UserWarning, match="checksum"),
        pytest.raises(CheckpointError, match=r"none of the checkpoints.*another run_dir"),
    ):
        load_latest(tmp_path)


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    newest = two(tmp_path)
    shutil.copytree(newest, tmp_path / ".writing-000000000030")
    assert load_latest(tmp_path)[0] == 20
    save(tmp_path, 30, state_of(30))
    assert load_latest(tmp_path)[0] == 30


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep_removes_the_oldest(tmp_path, keep):
    for frames in (5, 10, 100, 1_000):
        save(tmp_path, frames, state_of(frames), keep=keep)
    expected = [f"{frames:012d}" for frames in (5, 10, 100, 1_000)][-keep:]
    assert folders(tmp_path) == expected


def test_keep_never_removes_the_one_just_written(tmp_path):
    damaged = save(tmp_path, 30, state_of(30), keep=1)
    (damaged / "state.json").write_text("{}")
    written = save(tmp_path, 20, state_of(20), keep=1)  # resumed from before the damaged one
    assert written.is_dir()


def test_saving_again_at_the_same_frames_replaces(tmp_path):
    save(tmp_path, 10, state_of(1))
    save(tmp_path, 10, state_of(2))
    assert load_latest(tmp_path)[1]["n"] == 2
    assert folders(tmp_path) == ["000000000010"]


@contextmanager
def files_no_larger_than(size: int):
    """The operating system refuses to write more, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("state", "size"),
    [
        ({"t": torch.rand(100_000)}, 50_000),
        ({"text": "x" * 100_000}, 50_000),
        ({"t": torch.rand(1)}, 0),
    ],
    ids=["tensors", "json", "nothing"],
)
def test_a_full_disk_leaves_older_checkpoints_and_no_rest(tmp_path, state, size):
    save(tmp_path, 10, state_of(10))
    with (
        files_no_larger_than(size),
        pytest.raises(CheckpointError, match=r"20 frames could not be written.*resume=auto"),
    ):
        save(tmp_path, 20, state)
    assert folders(tmp_path) == ["000000000010"]
    assert load_latest(tmp_path)[1]["n"] == 10
    save(tmp_path, 20, state)
    assert load_latest(tmp_path)[0] == 20


def test_the_limit_is_real(tmp_path):
    with files_no_larger_than(1000), (tmp_path / "file").open("wb", buffering=0) as file:
        assert file.write(b"x" * 2000) == 1000
        with pytest.raises(OSError, match="File too large") as error:
            file.write(b"x")
    assert error.value.errno == errno.EFBIG


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "checkpoints", 1, state_of(1))


def test_a_full_disk_stops_a_run_with_its_checkpoints_intact(tmp_path):
    run = tmp_path / "run"
    changes = {"collector__init_random_frames": 20, "checkpoint__interval": 30}
    assert train(run, tiny(collector__total_frames=30, **changes)) == 0
    with files_no_larger_than(8_000), pytest.raises(CheckpointError, match="60 frames"):
        train(run, [*tiny(collector__total_frames=90, **changes), "resume=auto"])
    assert os.listdir(run / "checkpoints") == ["000000000030"]
    assert train(run, [*tiny(collector__total_frames=90, **changes), "resume=auto"]) == 0
    assert load(run)[0] == 90


def test_checkpoints_of_a_real_run_hold_no_pickle(tmp_path):
    run = tmp_path / "run"
    train(run, tiny(collector__total_frames=30, collector__init_random_frames=20))
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert {path.name for path in files} == FILES
    for path in files:
        assert_not_executable(path.read_bytes())
