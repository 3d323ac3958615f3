"""One gradient step of a loss module, by hand and with its fallback."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import IndependentNormal, ProbabilisticActor
from torchrl.objectives import LossModule
from updates import run, sac

from torchrl_recall import BacktrackingLoss, ImitationLoss
from torchrl_recall.optim.gradient_step import make_update


class Fixed(nn.Module):
    """N(loc, 2), whatever the state."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.ones(1))

    def forward(self, observation):
        loc = self.loc.expand(*observation.shape[:-1], 1)
        return loc, torch.full_like(loc, 2.0)


def test_one_step_of_gradient_descent_by_hand():
    actor = ProbabilisticActor(
        TensorDictModule(net := Fixed(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
    )
    loss = ImitationLoss(actor)
    update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1))
    data = TensorDict({"observation": torch.zeros(4, 3), "action": torch.full((4, 1), 5.0)}, [4])
    out = update(data)  # the gradient is -(5 - 1) / 2²
    assert net.loc.item() == pytest.approx(1.1)
    assert not out["loss_imitation"].requires_grad
    update(data)  # gradients do not add up: -(5 - 1.1) / 2²
    assert net.loc.item() == pytest.approx(1.1 + 0.1 * 3.9 / 4)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("max_grad_norm", "step"), [(0.5, 0.05), (3.0, 0.1), (None, 0.1)])
def test_gradients_are_clipped_by_hand(max_grad_norm, step, compile):
    actor = ProbabilisticActor(
        TensorDictModule(net := Fixed(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
    )
    loss = ImitationLoss(actor)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    update = make_update(loss, optimizer, max_grad_norm=max_grad_norm, compile=compile)
    data = TensorDict({"observation": torch.zeros(4, 3), "action": torch.full((4, 1), 5.0)}, [4])
    update(data)  # the gradient is -1
    assert net.loc.item() == pytest.approx(1 + step, rel=1e-5)


def test_eager_is_the_usual_loop(make_actor, transitions):
    loss, optimizer, updater, data = sac(make_actor, transitions)
    before = {
        name: value.clone()
        for name, value in loss.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    after, _ = run(make_update(loss, optimizer, updater), loss, data, 5)

    loss, optimizer, updater, data = sac(make_actor, transitions)

    def by_hand(batch):
        out = loss(batch)
        optimizer.zero_grad()
        (out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]).backward()
        optimizer.step()
        updater.step()
        return out.detach()

    expected, _ = run(by_hand, loss, data, 5)
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any("target" in name for name in moved)
    assert any("actor" in name for name in moved)


class Uncompilable(LossModule):
    """A squared norm whose forward leaves Python's sight."""

    network: TensorDictModule
    network_params: TensorDictParams
    target_network_params: TensorDictParams

    def __init__(self) -> None:
        super().__init__()
        net = TensorDictModule(nn.Linear(3, 1), ["observation"], ["value"])
        self.convert_to_functional(net, "network")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        pass

    def forward(self, tensordict):
        torch._dynamo.graph_break()
        noise = torch.randn(tensordict.shape)
        with self.network_params.to_module(self.network, preserve_module_state=False):
            value = self.network(tensordict.copy())["value"].squeeze(-1)
        return TensorDict({"loss_square": (value + noise).square().mean()})


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")
def test_what_cannot_be_compiled_warns_once_and_runs_eagerly():
    data = TensorDict({"observation": torch.randn(16, 3)}, [16])
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss = Uncompilable()
        update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1), compile=compile)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outputs = [update(data)["loss_square"].item() for _ in range(5)]
        ours = [w for w in caught if "could not be compiled" in str(w.message)]
        assert len(ours) == int(compile)
        results.append((outputs, [p.detach().clone() for p in loss.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_a_mistake_of_the_data_is_not_taken_for_the_compiler(make_model, transitions):
    loss = BacktrackingLoss(make_model())
    update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1), compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not be compiled.*")
        with pytest.raises(KeyError, match="action"):
            update(transitions(4).exclude("action"))


def test_loss_fn_may_take_several_batches(make_model, transitions):
    model = make_model()
    loss = BacktrackingLoss(model)

    def losses(first, second):
        return TensorDict(
            {
                "loss_backward_policy": loss.backward_policy_loss(first),
                "other": loss.state_predictor_loss(second).detach(),
            }
        )

    update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1), loss_fn=losses)
    before = [p.clone() for p in model.state_predictor.parameters()]
    out = update(transitions(8), transitions(5))
    assert set(out.keys()) == {"loss_backward_policy", "other"}
    after = model.state_predictor.parameters()
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_the_gradients_of_a_host_are_left_alone(optimizer, compile):
    """TorchRL's trainers set gradients to zero after a step, so what is left would be added."""
    actor = ProbabilisticActor(
        TensorDictModule(net := Fixed(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
    )
    loss = ImitationLoss(actor)
    update = make_update(loss, optimizer(loss.parameters(), lr=0.1), compile=compile)
    data = TensorDict({"observation": torch.zeros(4, 3), "action": torch.full((4, 1), 5.0)}, [4])
    update(data)
    assert net.loc.grad is None
    net.loc.grad = torch.tensor([7.0])  # the host's, not stepped yet
    update(data)
    assert net.loc.grad.item() == 7.0
    assert net.loc.item() > 1.1
