"""The compiled gradient step: it agrees with the eager one."""

from __future__ import annotations

import warnings

import pytest
import torch
from losses import gaussian, of_states
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.modules import IndependentNormal, ProbabilisticActor
from torchrl.objectives import HardUpdate, KLPENPPOLoss, LossModule, SoftUpdate
from updates import run, sac

from torchrl_recall import BacktrackingLoss, ImitationLoss
from torchrl_recall.optim.functional_loss import total_loss
from torchrl_recall.optim.gradient_step import make_update


def test_the_total_is_the_sum_of_the_losses_only():
    one = torch.ones(())
    losses = TensorDict({"loss_actor": one, "loss_qvalue": 2 * one, "entropy": 4 * one})
    assert total_loss(losses).item() == 3.0


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


class BatchNormalised(LossModule):
    """A network whose running statistics move whenever it is evaluated in training mode."""

    net: TensorDictModule
    net_params: TensorDictParams
    target_net_params: TensorDictParams

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.convert_to_functional(TensorDictModule(layers, ["x"], ["y"]), "net")

    def forward(self, data):
        with self.net_params.to_module(self.net, preserve_module_state=False):
            return TensorDict({"loss_x": self.net(data)["y"].square().mean()})


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


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_running_statistics_move_once_a_step():
    """As they do eagerly, the first step included, which runs the function once more."""
    losses, states = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        loss = BatchNormalised()
        update = make_update(loss, torch.optim.Adam(loss.parameters(), lr=0.1), compile=compile)
        batches = [torch.randn(8, 3) + 2 for _ in range(4)]
        losses.append([float(update(TensorDict({"x": x}, [8]))["loss_x"]) for x in batches])
        states.append({key: value.clone() for key, value in loss.state_dict().items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert any(key.endswith("running_mean") for key in states[0])
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    assert all(int(v) == 4 for k, v in states[1].items() if k.endswith("num_batches_tracked"))


class Writing(LossModule):
    """A loss that writes into its batch: entries that are new, replaced, or changed in place."""

    net: TensorDictModule
    net_params: TensorDictParams
    target_net_params: TensorDictParams

    def __init__(self) -> None:
        super().__init__()
        self.convert_to_functional(TensorDictModule(nn.Linear(3, 1), ["x"], ["y"]), "net")

    def forward(self, data):
        with self.net_params.to_module(self.net, preserve_module_state=False):
            error = self.net(data.select("x"))["y"].squeeze(-1) - data["goal"]
        data["x"] = data["x"] / 2
        data["next", "error"] = error.detach()
        data.set("td_error", error.detach().abs(), inplace=True)
        return TensorDict({"loss_x": error.square().mean()})


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_batches_are_written_as_they_are_eagerly(optimizer):
    """From the second step on, ``td_error`` is there and is written in place."""
    batches = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss = Writing()
        update = make_update(loss, optimizer(loss.parameters(), lr=0.1), compile=compile)
        data = TensorDict({"x": torch.randn(8, 3), "goal": torch.randn(8)}, [8])
        for _ in range(3):
            update(data)
            batches.append(data.clone())
    for eager, compiled in zip(batches[:3], batches[3:], strict=True):
        assert set(compiled.keys(True, True)) == {"x", "goal", ("next", "error"), "td_error"}
        for key, value in eager.items(True, True):
            torch.testing.assert_close(compiled[key], value)


@pytest.mark.filterwarnings("ignore:.*could not be compiled.*")
def test_a_losss_own_buffers_move_once_a_step(transitions):
    """TorchRL's weight of the divergence, which doubles where a policy moves too far."""
    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss = KLPENPPOLoss(gaussian(), of_states(), dtarg=1e-4, beta=1.0)
        data = loss.actor_network(transitions(64)).detach()
        for key in ("advantage", "value_target", "state_value"):
            data[key] = torch.randn(64, 1)
        update = make_update(loss, torch.optim.Adam(loss.parameters(), 1e-2), compile=compile)
        for _ in range(4):
            update(data.clone())
            weights.append(float(loss.beta))
    assert weights == [0.5, 1.0, 2.0, 4.0] * 2


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_compiled_imitation_leaves_running_statistics_alone():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        distribution_class=IndependentNormal,
    )
    data = TensorDict({"observation": torch.randn(8, 3) + 2, "action": torch.randn(8, 2)}, [8])
    loss = ImitationLoss(actor)
    expected = loss(data)["loss_imitation"]
    update = make_update(loss, torch.optim.SGD(loss.parameters(), lr=0.1), compile=True)
    torch.testing.assert_close(update(data)["loss_imitation"], expected.detach())
    assert update(data)["loss_imitation"] < expected
    assert not net[0].running_mean.any()
    assert all(module.training for module in actor.modules())


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_the_number_of_batches_may_change():
    """As with SAC, which has no traces in its first steps."""

    def losses(real, traces=None):
        batches = [real] if traces is None else [real, traces]
        found = [loss(batch)["loss_x"] for batch in batches]
        return TensorDict({"loss_x": sum(found)})

    trained = []
    for compile in (False, True):
        torch.manual_seed(0)
        loss = Writing()
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
        update = make_update(loss, optimizer, compile=compile, loss_fn=losses)
        for num in (1, 2, 1, 2):
            batches = [
                TensorDict({"x": torch.randn(8, 3), "goal": torch.randn(8)}, [8])
                for _ in range(num)
            ]
            update(*batches)
            assert all("td_error" in batch for batch in batches)
        trained.append([p.detach().clone() for p in loss.parameters()])
    torch.testing.assert_close(*trained)
