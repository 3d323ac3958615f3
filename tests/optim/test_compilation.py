"""Check calls of compiled functions, and failures to compile."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from torchrl_recall.optim.compilation import compile_function, with_fallback


class Scaled(nn.Module):
    """A module with a flag, a number, a parameter and an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-2.0, 3.0]))
        self.activation = activation
        self.negate, self.factor = False, 1.0

    def forward(self, x):
        out = self.activation(self.weight * x) * self.factor
        return -out if self.negate else out


def test_values_flags_and_numbers_may_change_between_calls():
    module = Scaled(nn.ReLU())
    compiled = compile_function(module.forward)
    x = torch.tensor([1.0, 1.0])
    assert compiled(x).tolist() == [0.0, 3.0]
    module.factor = 2.0
    assert compiled(x).tolist() == [0.0, 6.0]
    module.negate = True
    assert compiled(x).tolist() == [0.0, -6.0]
    with torch.no_grad():
        module.weight.add_(1.0)
    assert compiled(x).tolist() == [0.0, -8.0]


def test_functions_of_one_code_keep_their_own_graphs():
    x = torch.tensor([1.0, 1.0])
    modules = [Scaled(nn.ReLU()), Scaled(nn.Tanh()), Scaled(nn.Identity())]
    compiled = [compile_function(module.forward) for module in modules]
    for _ in range(2):
        for function, module in zip(compiled, modules, strict=True):
            torch.testing.assert_close(function(x), module(x))


@pytest.mark.parametrize(
    "arguments",
    [
        [({"a": torch.ones(2)},), ({"a": torch.ones(2), "b": torch.ones(2)},)],
        [({"a": [torch.ones(2)]},), ({"a": [torch.ones(2), torch.ones(2)]},)],
        [({"a": torch.ones(2)},), ({"a": torch.ones(3)},)],
        [({"a": torch.ones(2)},), ({"a": torch.ones(2, dtype=torch.float64)},)],
        [({"a": (torch.ones(2), 1.0)},), ({"a": (torch.ones(2), 2.0)},)],
    ],
    ids=["keys", "length", "shape", "dtype", "number"],
)
def test_the_structure_of_arguments_is_checked(arguments):
    def total(data):
        out = torch.zeros(())
        for value in data.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                out = out + (part.sum() if isinstance(part, torch.Tensor) else part)
        return out

    compiled = compile_function(total)
    for _ in range(2):
        for args in arguments:
            assert compiled(*args).item() == total(*args).item()


def test_random_numbers_are_those_of_eager_mode():
    def draw(x):
        return x + torch.randn(3)

    compiled = compile_function(draw)
    torch.manual_seed(3)
    expected = draw(torch.zeros(3))
    for _ in range(2):
        torch.manual_seed(3)
        assert torch.equal(compiled(torch.zeros(3)), expected)


def test_a_failure_of_the_fast_way_warns_once_and_leaves_the_random_state():
    calls = []

    def fast(x):
        torch.rand(5)
        calls.append("fast")
        raise RuntimeError("no compiler\nmore")

    def eager(x):
        return x + torch.rand(1)

    function = with_fallback(fast, eager, "the thing")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="the thing could not be compiled.*no compiler"):
        first = function(torch.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = function(torch.zeros(1))
    torch.manual_seed(0)
    assert torch.equal(first, eager(torch.zeros(1)))
    assert torch.equal(second, eager(torch.zeros(1)))
    assert calls == ["fast"]


def test_a_mistake_of_the_caller_keeps_the_fast_way():
    def fast(x):
        return x["a"]

    function = with_fallback(fast, lambda x: x["a"], "the thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            function({})
        assert function({"a": 1}) == 1


def test_settled_arguments_are_read_anew_but_not_checked():
    calls = compile_function(lambda weight, x: weight["w"] * x, settled=(0,))
    x = torch.ones(2)
    assert calls({"w": torch.tensor([1.0, 2.0])}, x).tolist() == [1.0, 2.0]
    assert calls({"w": torch.tensor([3.0, 4.0])}, x).tolist() == [3.0, 4.0]
    assert calls({"w": torch.tensor([3.0, 4.0])}, torch.ones(1)).tolist() == [3.0, 4.0]  # checked


_SQUASHED = """
import torch
from torch._dynamo.utils import counters
from torchrl.modules import TanhNormal
from torchrl_recall.optim.compilation import compile_function

def gradient(loc, action):
    def negative(loc):
        return -TanhNormal(loc, torch.ones(2)).log_prob(action).sum()
    return torch.func.grad(negative)(loc)

out = compile_function(gradient)(torch.zeros(4, 2), torch.full((4, 2), 0.5))
hits = counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"]
print(*hits, out)
"""


@pytest.mark.slow
def test_a_second_process_takes_graphs_with_autograd_functions_from_the_disk(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-c", _SQUASHED]
    first, second = (
        subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first.startswith("0 0 ")
    assert second.startswith("1 1 ")
    assert first[4:] == second[4:]
