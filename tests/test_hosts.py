"""Any loss is a host: values, imitation and what is left alone, as the table of docs/hosts.md."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from losses import LOSSES, SUPPORT, deterministic, experience, gaussian, values_of_actions
from tensordict import TensorDict
from torch import nn
from torchrl.objectives import BCLoss, ClipPPOLoss, LossModule

from torchrl_recall import (
    AdvantageGate,
    BoltzmannPolicy,
    CriticStates,
    GaussianPolicy,
    ImitationLoss,
    StateValues,
)

DOCS = Path(__file__).parents[1] / "docs" / "hosts.md"
OF_STATES = {"SAC with V", "IQL", "DiscreteIQL", "PPO", "ClipPPO", "KLPENPPO", "A2C", "Reinforce"}
OF_STATES |= {"TRPO"}
BY_VALUES = {"DQN", "DistributionalDQN", "DiscreteCQL"}  # no actor: they act by the best value
BY_ACTION = {"TD3", "TD3BC", "DDPG"}  # deterministic actors


def policy_of(name: str, loss: LossModule) -> tuple[nn.Module, str]:
    """Return the policy that Eq. 3 scores, and what it is wrapped in."""
    if name in BY_VALUES:
        return BoltzmannPolicy(loss.value_network), "`BoltzmannPolicy`"
    if name in BY_ACTION:
        return GaussianPolicy(loss.actor_network), "`GaussianPolicy`"
    return loss.actor_network, "its actor"


def each(loss: LossModule, name: str, data: TensorDict, key: str) -> torch.Tensor:
    """Evaluate a network of the loss by itself, member by member, ``[members, n, columns]``."""
    network, params = getattr(loss, name), getattr(loss, f"{name}_params")
    members = params.unbind(0) if params.batch_size else [params]
    out = []
    network.eval()
    for member in members:
        with member.to_module(network):
            out.append(network(data.copy())[key])
    network.train()
    return torch.stack(out).detach()


def by_hand(name: str, loss: LossModule, data: TensorDict) -> tuple:
    """Compute V(s) and Q(s, a) as the table says, without the class that is tested."""
    value = qvalue = None
    if name in OF_STATES:
        network = "value_network" if hasattr(loss, "value_network_params") else "critic_network"
        value = each(loss, network, data, "state_value")[0]
    if name in BY_VALUES | {"DiscreteSAC", "DiscreteIQL"}:
        network = "value_network" if name in BY_VALUES else "qvalue_network"
        key = "state_action_value" if name == "DiscreteIQL" else "action_value"
        of_all = each(loss, network, data, key)
        if name == "DistributionalDQN":
            of_all = torch.einsum("mnza,z->mna", of_all.exp(), SUPPORT)
        of_all = of_all.amin(0)
        qvalue = (of_all * data["action"]).sum(-1, keepdim=True)
        if name == "DiscreteSAC":
            with loss.actor_network_params.to_module(loss.actor_network):
                weights = loss.actor_network.get_dist(data.copy()).probs.detach()
            value = (weights * of_all).sum(-1, keepdim=True)
        elif value is None:
            value = of_all.max(-1, keepdim=True).values
    elif "PPO" not in name and name not in ("A2C", "Reinforce", "TRPO"):
        network = "value_network" if name == "DDPG" else "qvalue_network"

        def lowest(pairs):
            found = each(loss, network, pairs, "state_action_value")
            return found.mean(-1, keepdim=True).min(0).values

        qvalue = lowest(data)
        if value is None:
            acting = data.copy()
            loss.actor_network.eval()
            with loss.actor_network_params.to_module(loss.actor_network):
                if name in BY_ACTION:
                    action = loss.actor_network(data.copy())["action"]
                else:
                    action = loss.actor_network.get_dist(data.copy()).loc.new_tensor(0) + (
                        loss.actor_network[0](data.copy())["loc"].tanh()
                    )
            loss.actor_network.train()
            value = lowest(acting.set("action", action.detach()))
    return value, qvalue


def state_of(module: nn.Module) -> dict:
    """Return every tensor and every mode of a module."""
    tensors = {key: value.clone() for key, value in module.state_dict().items()}
    modes = {f"{key}.training": part.training for key, part in module.named_modules()}
    hidden = {
        f"{name}.{key}.training": part.training
        for name in ("actor_network", "qvalue_network", "value_network", "critic_network")
        if isinstance(getattr(module, name, None), nn.Module)
        for key, part in getattr(module, name).named_modules()
    }
    return tensors | modes | hidden


def same(before: dict, after: dict) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        for key, value in before.items()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_those_computed_by_hand(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    value, qvalue = by_hand(name, loss, data)
    out = StateValues(loss)(data.clone())
    torch.testing.assert_close(out["state_value"], value)
    assert ("state_action_value" in out) is (qvalue is not None)
    if qvalue is not None:
        torch.testing.assert_close(out["state_action_value"], qvalue)
    if qvalue is not None and name not in BY_VALUES:  # those are below
        mask = AdvantageGate(StateValues(loss))(data.clone())["mask"]
        assert torch.equal(mask, (qvalue > value).squeeze(-1))
        assert mask.any()
    assert CriticStates(StateValues(loss), 8)(data.clone()).shape == (8,)


def test_a_compiled_loss_is_a_loss():
    loss, data = LOSSES["SAC"](), experience("SAC")
    values = []
    for each in (loss, torch.compile(loss)):
        torch.manual_seed(0)
        values.append(StateValues(each)(data.clone())["state_value"])
    assert torch.equal(*values)


@pytest.mark.parametrize("name", sorted(BY_VALUES))
def test_the_gate_takes_the_value_of_the_softmax_where_there_is_no_policy(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    greedy = StateValues(loss)
    with pytest.raises(ValueError, match=r"no action has an advantage.*temperature=1.0"):
        AdvantageGate(greedy)
    critic = StateValues(loss, temperature=0.5)
    probs = BoltzmannPolicy(loss.value_network, temperature=0.5).get_dist(data.clone()).probs
    values = torch.stack(
        [
            greedy(data.clone().set("action", action.expand(64, 4)))["state_action_value"]
            for action in torch.eye(4, dtype=torch.bool)
        ],
        -1,
    ).squeeze(-2)
    out = critic(data.clone())
    torch.testing.assert_close(out["state_value"], (probs * values).sum(-1, keepdim=True))
    mask = AdvantageGate(critic)(data.clone())["mask"]
    assert torch.equal(mask, (out["state_action_value"] > out["state_value"]).squeeze(-1))
    assert mask.any()


@pytest.mark.parametrize("name", ["SAC", "DiscreteSAC", "PPO"])
def test_a_temperature_is_refused_where_there_is_a_policy(name):
    with pytest.raises(ValueError, match="leave temperature out"):
        StateValues(LOSSES[name](), temperature=1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_no_row_depends_on_the_others(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    whole = StateValues(loss)(data.clone())
    for rows in (slice(5, 6), slice(10, 41)):
        part = StateValues(loss)(data[rows].clone())
        for key in StateValues(loss).out_keys:
            torch.testing.assert_close(part[key], whole[key][rows])


@pytest.mark.parametrize("name", LOSSES)
def test_the_host_is_left_as_it_was(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    loss.train()
    before, numbers = state_of(loss), torch.get_rng_state()
    StateValues(loss)(data)
    assert same(before, state_of(loss))
    assert torch.equal(torch.get_rng_state(), numbers)
    ImitationLoss(policy_of(name, loss)[0])(data)["loss_imitation"].backward()
    assert same(before, state_of(loss))


def test_no_pair_depends_on_the_others():
    loss, data = LOSSES["CrossQ"](), experience("CrossQ")
    score = ImitationLoss(loss.actor_network, reduction="none")
    whole = score(data)["loss_imitation"]
    torch.testing.assert_close(score(data[5:6])["loss_imitation"], whole[5:6])


@pytest.mark.parametrize("name", LOSSES)
def test_imitation_reaches_the_policy_and_nothing_else(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    ImitationLoss(policy_of(name, loss)[0])(data)["loss_imitation"].backward()
    reached = {key for key, p in loss.named_parameters() if p.grad is not None}
    policy = "value_network" if name in BY_VALUES else "actor_network"
    assert reached
    assert all(key.startswith(policy) for key in reached), reached
    grads = [p.grad for p in loss.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_imitation_makes_imitated_actions_likelier(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name)
    data["action"] = data["action"][:1].expand(64, -1).clone()
    imitation = ImitationLoss(policy_of(name, loss)[0])
    optimizer = torch.optim.Adam(imitation.parameters(), 1e-2)
    first = imitation(data)["loss_imitation"].item()
    for _ in range(20):
        optimizer.zero_grad()
        imitation(data)["loss_imitation"].backward()
        optimizer.step()
    assert imitation(data)["loss_imitation"].item() < first


NOT_COMPILED = {"DistributionalDQN"}  # TorchRL's module looks at the numbers that it is given
COMPILED = ("CrossQ", "TD3", "DQN")  # the others are slow proofs


@pytest.mark.parametrize(
    "name",
    [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES],
)
def test_compiled_and_eager_agree(name):
    torch.manual_seed(0)
    loss, data = LOSSES[name](), experience(name, 300)
    eager = StateValues(loss)(data.clone())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = StateValues(loss, compile=True)(data.clone())
    fell_back = any("could not be compiled" in str(warning.message) for warning in caught)
    assert fell_back is (name in NOT_COMPILED)
    for key in StateValues(loss).out_keys:
        torch.testing.assert_close(compiled[key], eager[key])


def test_losses_without_values_are_refused():
    for loss in (BCLoss(deterministic()), BCLoss(gaussian()), ClipPPOLoss(gaussian(), None)):
        with pytest.raises(TypeError, match=r"has no network of values .*module of your own"):
            StateValues(loss)


def test_a_network_is_no_loss():
    with pytest.raises(TypeError, match=r"one of TorchRL's losses, got a QValueActor"):
        StateValues(values_of_actions())


@pytest.mark.parametrize("policy", [deterministic, values_of_actions])
def test_policies_without_a_distribution_name_their_adapter(policy):
    with pytest.raises(TypeError, match=r"GaussianPolicy.*BoltzmannPolicy"):
        ImitationLoss(policy())


def test_the_table_of_the_docs_is_this_one():
    """Set WRITE_TABLES=1 to write it again."""
    rows = ["| loss | V(s) | Q(s, a) | Eq. 3 scores | compiles |", "|---|---|---|---|---|"]
    for name, make in LOSSES.items():
        loss = make()
        if name in OF_STATES:
            value = "its network of V"
        elif name in BY_VALUES:
            value = "max over actions of Q"
        elif name == "DiscreteSAC":
            value = "mean of Q under the policy"
        else:
            value = "least Q of the deterministic action"
        has_q = "state_action_value" in StateValues(loss).out_keys
        cells = [
            name,
            value,
            "yes" if has_q else "no",
            policy_of(name, loss)[1],
            "no" if name in NOT_COMPILED else "yes",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    table = "\n" + "\n".join(rows) + "\n"
    text = DOCS.read_text()
    start, end = "<!-- table -->\n", "\n<!-- end of the table -->"
    head, rest = text.split(start)
    written, tail = rest.split(end)
    if os.environ.get("WRITE_TABLES"):
        DOCS.write_text(head + start + table + end + tail)
    else:
        assert written == table
