"""One gradient step of a loss module, eager or compiled."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import HardUpdate, LossModule, SACLoss, SoftUpdate

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


def sac(make_actor, transitions):
    torch.manual_seed(0)
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    loss = SACLoss(make_actor(), qvalue)
    loss.make_value_estimator(gamma=0.9)
    updater = SoftUpdate(loss, tau=0.05)
    data = transitions(64)
    data["next", "reward"] = torch.randn(64, 1)
    data["next", "done"] = torch.rand(64, 1) < 0.1
    data["next", "terminated"] = data["next", "done"].clone()
    return loss, torch.optim.Adam(loss.parameters(), lr=3e-3), updater, data


def run(update, loss, data, steps: int) -> tuple[dict, list[TensorDict]]:
    outputs = []
    for step in range(steps):
        torch.manual_seed(step)
        outputs.append(update(data[torch.randint(64, (16,))]))
    return {
        name: value.detach().clone()
        for name, value in loss.state_dict().items()
        if isinstance(value, torch.Tensor)
    }, outputs


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


def test_compiled_equals_eager_over_100_updates(make_actor, transitions):
    loss, optimizer, updater, data = sac(make_actor, transitions)
    expected, outputs = run(make_update(loss, optimizer, updater), loss, data, 100)

    loss, optimizer, updater, data = sac(make_actor, transitions)
    update = make_update(loss, optimizer, updater, compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not be compiled.*")
        after, compiled = run(update, loss, data, 100)
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, atol=1e-4, rtol=1e-4)
    for out, reference in zip(compiled, outputs, strict=True):
        for key in ("loss_actor", "loss_qvalue", "loss_alpha"):
            torch.testing.assert_close(out[key], reference[key], atol=1e-3, rtol=1e-3)
    assert not any(name in loss.__dict__ for name in ("actor_network_params", "log_alpha"))


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


def actors_loss(make_actor, transitions):
    return ImitationLoss(make_actor()), transitions(64).select("observation", "action")


def models_loss(make_model, transitions):
    return BacktrackingLoss(make_model(action_scale="learned")), transitions(64)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("kind", ["imitation", "backtracking"])
def test_recalls_losses_agree_over_100_updates(kind, make_actor, make_model, transitions):
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss, data = (
            actors_loss(make_actor, transitions)
            if kind == "imitation"
            else models_loss(make_model, transitions)
        )
        optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=3e-3)
        update = make_update(loss, optimizer, compile=compile)
        results.append(run(update, loss, data, 100)[0])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, atol=1e-4, rtol=1e-4)


OPTIMIZERS = {
    "weight decay": lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=0.1),
    "decoupled weight decay": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1),
    "maximize": lambda p: torch.optim.Adam(p, lr=3e-3, maximize=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=3e-3, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=3e-3, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=3e-3, momentum=0.9),
    "two groups": lambda p: torch.optim.Adam(
        [{"params": p[:3], "lr": 1e-3}, {"params": p[3:], "betas": (0.8, 0.9)}], lr=3e-3
    ),
    "some parameters only": lambda p: torch.optim.Adam(p[:2], lr=3e-3),
}


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_and_a_schedule(name, make_actor, transitions):
    results, states = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        loss, data = actors_loss(make_actor, transitions)
        optimizer = OPTIMIZERS[name](list(loss.parameters()))
        update = make_update(loss, optimizer, compile=compile)
        for step in range(10):
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            torch.manual_seed(step)
            update(data)
        results.append([p.detach().clone() for p in loss.parameters()])
        states.append(optimizer.state_dict()["state"])
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state.keys() == states[1][key].keys()
        torch.testing.assert_close(states[1][key], state, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_a_schedule_compiles_once(make_actor, transitions):
    loss, data = actors_loss(make_actor, transitions)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    update = make_update(loss, optimizer, compile=True)
    update(data)
    with torch.compiler.set_stance("fail_on_recompile"):  # a failure would warn and run eagerly
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 1e-3 / (step + 1)
            update(data)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("updater", [SoftUpdate, HardUpdate])
def test_any_updater_of_targets(updater, make_actor, transitions):
    settings = {"tau": 0.1} if updater is SoftUpdate else {"value_network_update_interval": 3}
    results = []
    for compile in (False, True):
        loss, optimizer, _, data = sac(make_actor, transitions)
        loss._has_update_associated = dict.fromkeys(loss._has_update_associated, False)
        update = make_update(loss, optimizer, updater(loss, **settings), compile=compile)
        results.append(run(update, loss, data, 7)[0])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, atol=1e-5, rtol=1e-5)


def test_foreign_parameters_are_updated_eagerly_with_a_warning(make_actor, transitions):
    loss, data = actors_loss(make_actor, transitions)
    foreign = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([*loss.parameters(), foreign], lr=1e-3)
    update = make_update(loss, optimizer, compile=True)
    with pytest.warns(UserWarning, match="1 of the optimizer's parameters are not"):
        update(data)
    assert foreign.item() == 0.0


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_a_mask_that_comes_later_is_respected(make_actor, transitions):
    losses = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss, data = actors_loss(make_actor, transitions)
        update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1), compile=compile)
        masked = data.clone().set("mask", torch.arange(64) < 3)
        losses.append([update(batch)["loss_imitation"] for batch in (data, masked, data)])
    torch.testing.assert_close(losses[1], losses[0])
