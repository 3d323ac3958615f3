"""Check how states and actions enter and leave the networks."""

from __future__ import annotations

import math

import pytest
import torch
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    Unbounded,
)

from torchrl_recall import BacktrackingModel
from torchrl_recall.modules.standardization import (
    ContinuousCodec,
    DiscreteCodec,
    codec_from_spec,
)


@pytest.fixture
def two_and_two() -> ContinuousCodec:
    """Mean 2 and standard deviation 2."""
    codec = ContinuousCodec(Unbounded((1,)))
    codec.update(torch.tensor([[0.0], [4.0]]))
    return codec


@pytest.mark.parametrize(("value", "feature"), [(4.0, 1.0), (2.0, 0.0), (-2.0, -2.0)])
def test_standardises_and_back(two_and_two, value, feature):
    assert two_and_two.features(torch.tensor([value])).item() == pytest.approx(feature)
    assert two_and_two.decode(torch.tensor([feature])).item() == pytest.approx(value)


def test_jacobian_is_minus_the_log_of_the_scales():
    codec = ContinuousCodec(Unbounded((2,)))
    codec.update(torch.tensor([[0.0, 0.0], [4.0, 10.0]]))  # scales 2 and 5
    assert codec.log_abs_det().item() == pytest.approx(-math.log(2 * 5), rel=1e-5)


def test_units_of_the_environment_on_demand():
    codec = codec_from_spec(Unbounded((1,)), "state", standardize=False)
    codec.update(torch.tensor([[0.0], [4.0]]))  # mean 2, standard deviation 2
    value = torch.tensor([7.0])
    for convert in (codec.features, codec.target, codec.decode):
        assert torch.equal(convert(value), value)
    assert codec.log_abs_det() == 0
    assert codec.normalize(value).item() == pytest.approx(2.5)  # which filters need


def test_weights_of_standardised_networks_and_of_raw_units_are_not_mixed():
    standardised, raw = (
        BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), standardize=standardize)
        for standardize in (True, False)
    )
    for model, other in ((standardised, raw), (raw, standardised)):
        with pytest.raises(RuntimeError, match="raw_units"):
            model.load_state_dict(other.state_dict())
        model.load_state_dict(model.state_dict())


def test_bounds_do_not_change_the_dtype():
    codec = ContinuousCodec(Bounded(-1, 1, (2,))).double()
    assert codec.clamp(torch.tensor([3.0, 0.0])).tolist() == [1.0, 0.0]
    assert codec.clamp(torch.zeros(2)).dtype == torch.float32


def test_before_data_it_is_the_identity():
    value = torch.randn(5, 3)
    codec = ContinuousCodec(Unbounded((3,)))
    torch.testing.assert_close(codec.features(value), value)
    torch.testing.assert_close(codec.decode(value), value)


@pytest.mark.parametrize("chunks", [1, 2, 7, 100])
def test_statistics_do_not_depend_on_how_data_was_cut(chunks):
    data = torch.randn(100, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -9.0])
    codec = ContinuousCodec(Unbounded((3,)))
    for chunk in data.chunk(chunks):
        codec.update(chunk)
    torch.testing.assert_close(codec.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codec.scale(), data.std(0, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_statistics_over_any_batch_shape(shape):
    data = torch.arange(6.0).reshape(*shape, 1)
    codec = ContinuousCodec(Unbounded((1,)))
    codec.update(data)
    assert codec.mean.item() == pytest.approx(2.5)
    assert codec.count.item() == 6


@pytest.mark.parametrize("constant", [0.0, 5.0, 1000.1])
def test_constant_dimension_is_centred_but_not_amplified(constant):
    codec = ContinuousCodec(Unbounded((2,)))
    codec.update(torch.stack([torch.randn(64), torch.full((64,), constant)], -1))
    assert codec.scale()[1] == 1.0
    value = torch.tensor([0.0, constant * (1 + 1e-6)])  # off by rounding only
    assert codec.features(value)[1].abs() < 1e-2


def test_clamps_to_bounds():
    codec = ContinuousCodec(Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])))
    assert codec.clamp(torch.tensor([-3.0, 3.0])).tolist() == [-1.0, 2.0]
    assert codec.clamp(torch.tensor([0.5, 0.5])).tolist() == [0.5, 0.5]


def test_without_bounds_nothing_is_clamped():
    value = torch.tensor([1e30, -1e30])
    assert torch.equal(ContinuousCodec(Unbounded((2,))).clamp(value), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decodes_to_the_dtype_of_the_spec(dtype):
    codec = ContinuousCodec(Unbounded((2,), dtype=dtype))
    codec.update(torch.randn(8, 2, dtype=dtype))
    assert codec.features(torch.zeros(2, dtype=dtype)).dtype == torch.float32
    assert codec.decode(torch.zeros(2)).dtype == dtype


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Categorical(4), torch.tensor([2, 0])),
        (OneHot(4), torch.tensor([[False, False, True, False], [True, False, False, False]])),
        (OneHot(4, dtype=torch.int64), torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0]])),
    ],
)
def test_categories_are_one_hot_features(spec, value):
    codec = DiscreteCodec(spec)
    assert codec.features(value).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert codec.features(value).is_floating_point()
    assert torch.equal(codec.target(value), value.long())
    assert torch.equal(codec.decode(codec.target(value)), value)
    assert codec.decode(codec.target(value)).dtype == spec.dtype
    assert torch.equal(codec.clamp(value), value)
    assert codec.log_abs_det() == 0


@pytest.mark.parametrize(
    ("spec", "kind", "features"),
    [
        (Unbounded((3,)), ContinuousCodec, 3),
        (Bounded(-1, 1, (2,)), ContinuousCodec, 2),
        (Unbounded((3,), dtype=torch.float64), ContinuousCodec, 3),
        (Categorical(5), DiscreteCodec, 5),
        (OneHot(5), DiscreteCodec, 5),
    ],
)
def test_kind_follows_the_spec(spec, kind, features):
    codec = codec_from_spec(spec, "state")
    assert isinstance(codec, kind)
    assert codec.num_features == features


@pytest.mark.parametrize(
    "spec",
    [
        MultiCategorical([2, 3]),
        MultiOneHot([2, 3]),
        Binary(4),
        Unbounded((3, 64, 64)),
        Unbounded((3, 64, 64), dtype=torch.uint8),
        Unbounded((2, 3)),
        Unbounded(()),
        Unbounded((3,), dtype=torch.int64),
        Categorical(5, shape=(2,)),
        OneHot(5, shape=(2, 5)),
    ],
    ids=str,
)
def test_other_specs_are_refused(spec):
    with pytest.raises(ValueError, match="the weather spec is"):
        codec_from_spec(spec, "weather")


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Categorical(4), torch.tensor([[3, 0, 1]])),
        (OneHot(4), torch.eye(4, dtype=torch.bool)[torch.tensor([[3, 0, 1]])]),
    ],
)
def test_categories_may_be_indices(spec, value):
    features = codec_from_spec(spec, "observation", as_index=True).features(value)
    assert features.dtype is torch.int64
    assert features.tolist() == [[3, 0, 1]]


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-8])
def test_units_do_not_matter(unit):
    codec = ContinuousCodec(Unbounded((2,)))
    data = torch.randn(200, 2)
    codec.update(unit * data)
    expected = (data - data.mean(0)) / data.std(0, unbiased=False)
    torch.testing.assert_close(codec.features(unit * data), expected, rtol=1e-3, atol=1e-3)


def test_rounding_is_no_variation():
    codec = ContinuousCodec(Unbounded((2,)))
    codec.update(torch.tensor([300.0, 1e-12]) * (1 + 1e-6 * torch.randn(200, 2)))
    assert codec.scale().tolist() == [1, 1]
