"""How states and actions enter and leave the networks."""

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

from torchrl_recall.modules.standardization import (
    ContinuousVariable,
    DiscreteVariable,
    variable_from_spec,
)


@pytest.fixture
def two_and_two() -> ContinuousVariable:
    """Mean 2 and standard deviation 2."""
    variable = ContinuousVariable(Unbounded((1,)))
    variable.update(torch.tensor([[0.0], [4.0]]))
    return variable


@pytest.mark.parametrize(("value", "feature"), [(4.0, 1.0), (2.0, 0.0), (-2.0, -2.0)])
def test_standardises_and_back(two_and_two, value, feature):
    assert two_and_two.features(torch.tensor([value])).item() == pytest.approx(feature)
    assert two_and_two.decode(torch.tensor([feature])).item() == pytest.approx(value)


def test_jacobian_is_minus_the_log_of_the_scales():
    variable = ContinuousVariable(Unbounded((2,)))
    variable.update(torch.tensor([[0.0, 0.0], [4.0, 10.0]]))  # scales 2 and 5
    assert variable.log_abs_det().item() == pytest.approx(-math.log(2 * 5), rel=1e-5)


def test_before_data_it_is_the_identity():
    value = torch.randn(5, 3)
    variable = ContinuousVariable(Unbounded((3,)))
    torch.testing.assert_close(variable.features(value), value)
    torch.testing.assert_close(variable.decode(value), value)


@pytest.mark.parametrize("chunks", [1, 2, 7, 100])
def test_statistics_do_not_depend_on_how_data_was_cut(chunks):
    data = torch.randn(100, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -9.0])
    variable = ContinuousVariable(Unbounded((3,)))
    for chunk in data.chunk(chunks):
        variable.update(chunk)
    torch.testing.assert_close(variable.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variable.scale(), data.std(0, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_statistics_over_any_batch_shape(shape):
    data = torch.arange(6.0).reshape(*shape, 1)
    variable = ContinuousVariable(Unbounded((1,)))
    variable.update(data)
    assert variable.mean.item() == pytest.approx(2.5)
    assert variable.count.item() == 6


@pytest.mark.parametrize("constant", [0.0, 5.0, 1000.1])
def test_constant_dimension_is_centred_but_not_amplified(constant):
    variable = ContinuousVariable(Unbounded((2,)))
    variable.update(torch.stack([torch.randn(64), torch.full((64,), constant)], -1))
    assert variable.scale()[1] == 1.0
    value = torch.tensor([0.0, constant * (1 + 1e-6)])  # off by rounding only
    assert variable.features(value)[1].abs() < 1e-2


def test_clamps_to_bounds():
    variable = ContinuousVariable(Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])))
    assert variable.clamp(torch.tensor([-3.0, 3.0])).tolist() == [-1.0, 2.0]
    assert variable.clamp(torch.tensor([0.5, 0.5])).tolist() == [0.5, 0.5]


def test_without_bounds_nothing_is_clamped():
    value = torch.tensor([1e30, -1e30])
    assert torch.equal(ContinuousVariable(Unbounded((2,))).clamp(value), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decodes_to_the_dtype_of_the_spec(dtype):
    variable = ContinuousVariable(Unbounded((2,), dtype=dtype))
    variable.update(torch.randn(8, 2, dtype=dtype))
    assert variable.features(torch.zeros(2, dtype=dtype)).dtype == torch.float32
    assert variable.decode(torch.zeros(2)).dtype == dtype


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Categorical(4), torch.tensor([2, 0])),
        (OneHot(4), torch.tensor([[False, False, True, False], [True, False, False, False]])),
        (OneHot(4, dtype=torch.int64), torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0]])),
    ],
)
def test_categories_are_one_hot_features(spec, value):
    variable = DiscreteVariable(spec)
    assert variable.features(value).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert variable.features(value).is_floating_point()
    assert torch.equal(variable.target(value), value.long())
    assert torch.equal(variable.decode(variable.target(value)), value)
    assert variable.decode(variable.target(value)).dtype == spec.dtype
    assert torch.equal(variable.clamp(value), value)
    assert variable.log_abs_det() == 0


@pytest.mark.parametrize(
    ("spec", "kind", "features"),
    [
        (Unbounded((3,)), ContinuousVariable, 3),
        (Bounded(-1, 1, (2,)), ContinuousVariable, 2),
        (Unbounded((3,), dtype=torch.float64), ContinuousVariable, 3),
        (Categorical(5), DiscreteVariable, 5),
        (OneHot(5), DiscreteVariable, 5),
    ],
)
def test_kind_follows_the_spec(spec, kind, features):
    variable = variable_from_spec(spec, "state")
    assert isinstance(variable, kind)
    assert variable.num_features == features


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
        variable_from_spec(spec, "weather")


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Categorical(4), torch.tensor([[3, 0, 1]])),
        (OneHot(4), torch.eye(4, dtype=torch.bool)[torch.tensor([[3, 0, 1]])]),
    ],
)
def test_categories_may_be_indices(spec, value):
    features = variable_from_spec(spec, "observation", as_index=True).features(value)
    assert features.dtype is torch.int64
    assert features.tolist() == [[3, 0, 1]]
