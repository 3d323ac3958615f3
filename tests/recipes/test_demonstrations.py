import goal_fixtures
import on_policy_fixtures
import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import (
    RECIPES,
    configure,
    load,
    metrics,
    process_state_kept,
    sha256,
    stopped_copy,
    tiny,
    train,
)
from tensordict import TensorDict

from torchrl_recall import load_backtracking_model, load_policy
from torchrl_recall.envs import FourRoomsLayout
from torchrl_recall.recipes import a2c_recall, trpo_recall
from torchrl_recall.trainers.schema import A2CRecallConfig, ConfigError, validate

TASK = {"env__name": "point_free4", "collector__init_random_frames": 60}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Three straight ways to the goal."""
    episodes = []
    for number in range(3):
        path = torch.lerp(torch.full((4,), -0.4 + 0.1 * number), torch.full((4,), 0.4), torch.linspace(0, 1, 7).unsqueeze(-1))  # noqa: E501  # fmt: skip
        done = (torch.arange(6) == 5).unsqueeze(-1)
        following = {"observation": path[1:], "reward": done.float(), "terminated": done, "done": done}  # noqa: E501  # fmt: skip
        data = {"observation": path[:-1], "action": torch.ones(6, 4) * 0.9, "next": following}
        episodes.append(TensorDict(data, [6]))
    folder = tmp_path_factory.mktemp("data") / "set"
    torch.cat(episodes).memmap(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, demonstrations):
    """Uninterrupted runs, made once."""
    made = {}

    def get(recall):
        if recall not in made:
            made[recall] = tmp_path_factory.mktemp("runs") / "run"
            assert train(made[recall], words(recall, demonstrations)) == 0
        return made[recall]

    return get


def words(recall, path, **changes):
    return tiny(recall, recall__demonstrations=path, **TASK | changes)


@pytest.mark.parametrize("recall", ["backtracking", "imitation", "self_imitation", "cloning"])
def test_they_are_learned_from_and_resumed_bitwise(runs, recall, demonstrations, tmp_path):
    whole = runs(recall)
    imitates = recall != "backtracking"
    assert ("recall/loss_imitation" in metrics(whole)[-1]) == imitates
    _, state = load(whole)
    kept = state["recall"]["trajectories"]["buffer"]["transforms"]
    (returns,) = [value["returns"] for value in kept.values() if "returns" in value]
    assert returns.tolist()[:3] == [1.0] * 3
    stopped_copy(whole, tmp_path / "again", 80)
    assert train(tmp_path / "again", [*words(recall, demonstrations), "resume=auto"]) == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


def test_cloning_keeps_the_agents_own_trajectories_out(runs):
    _, state = load(runs("cloning"))
    assert len(state["recall"]["trajectories"]["buffer"]["rows"]) == 18
    assert state["recall"]["schedule"]["frames"] == 160  # but counts their steps


def test_a_run_is_loaded_where_its_demonstrations_are_gone(runs, demonstrations):
    gone = demonstrations.with_name("gone")
    run = runs("imitation"), runs("cloning")
    demonstrations.rename(gone)
    try:
        for each in run:
            load_policy(each)
        assert load_backtracking_model(run[0]).observations.count > 160
    finally:
        gone.rename(demonstrations)


@pytest.mark.parametrize(
    ("recall", "message"),
    [
        ("none", "fills a store of trajectories, which recall.method=none does not have"),
        ("forward_dyna", "which recall.method=forward_dyna does not have"),
    ],
)
def test_groups_without_a_store_refuse_them(recall, message, demonstrations):
    with pytest.raises(ConfigError, match=message):
        configure(words(recall, demonstrations))


def test_cloning_asks_for_them():
    with pytest.raises(ConfigError, match=r"give recall\.demonstrations=PATH"):
        configure(tiny("cloning"))


def test_goals_refuse_them(demonstrations):
    with pytest.raises(ConfigError, match="goals of the Goal GAN"):
        goal_fixtures.configure(goal_fixtures.tiny(recall__demonstrations=demonstrations))


def test_what_does_not_fit_is_refused_before_the_first_step(demonstrations, tmp_path):
    for changes, message in (
        ({"env__name": "pendulum_swingup"}, "observation has the shape"),
        ({"recall__demonstrations": "nowhere"}, "nowhere does not exist"),
        ({"backtracking__return_threshold": 3.0}, r"lower .*backtracking\.return_threshold"),
    ):
        run_dir = tmp_path / str(len(list(tmp_path.iterdir())))
        given = {"recall__demonstrations": demonstrations} | changes
        with pytest.raises(ConfigError, match=message):
            train(run_dir, tiny("imitation", **TASK | given))
        assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize("recall", ["backtracking", "cloning"])
def test_on_policy_recipes_take_them(recall, demonstrations, tmp_path):
    words = on_policy_fixtures.tiny(
        "ppo", recall, env__name="point_free4", compile="false",
        recall__demonstrations=demonstrations,
    )  # fmt: skip
    config = on_policy_fixtures.configure("ppo", [*words, f"run_dir={tmp_path / 'run'}"])
    with process_state_kept():
        assert trpo_recall.train(config).status == 0
    assert "recall/loss_imitation" in metrics(tmp_path / "run")[-1]


def four_rooms(path, run_dir, recall="self_imitation"):
    config = str(RECIPES / "config" / "four_rooms")
    words = [
        f"recall={recall}", f"recall.demonstrations={path}", "env.size=9", "env.start=opposite",
        "seeds=[0,1]", "collector.total_frames=512", "logger.interval=256", f"run_dir={run_dir}",
    ]  # fmt: skip
    with initialize_config_dir(config_dir=config, version_base="1.3"):
        return validate(compose("a2c_recall", words), A2CRecallConfig)


def test_four_rooms_give_them_to_each_seed_and_check_each_step(tmp_path):
    layout = FourRoomsLayout(9)
    distance, cell, actions = layout.distances(), int(layout.starts[0]), []
    cells = [cell]
    while cell != layout.goal:
        action = int(distance[layout.next_cell[cell]].argmin())
        cell = int(layout.next_cell[cell, action])
        cells.append(cell)
        actions.append(action)
    done = (torch.arange(len(actions)) == len(actions) - 1).unsqueeze(-1)
    states = torch.tensor(cells)
    following = {"observation": states[1:], "reward": done.float(), "terminated": done, "done": done}  # noqa: E501  # fmt: skip
    data = TensorDict(
        {"observation": states[:-1], "action": torch.tensor(actions), "next": following},
        [len(actions)],
    )
    data.clone().memmap(tmp_path / "way")
    parts = a2c_recall.build(four_rooms(tmp_path / "way", tmp_path / "run"))
    successes = parts.recall.trajectories
    assert successes.count.tolist() == [1, 1]
    kept = successes.sample(1)[:, 0]
    assert kept["observation"][1][kept["mask"][1]].tolist() == cells[:-1]
    with process_state_kept():
        assert a2c_recall.train(four_rooms(tmp_path / "way", tmp_path / "run")).status == 0

    data["next", "observation"][2] += 9
    data.memmap(tmp_path / "jump")
    with pytest.raises(ConfigError, match="step 2 of episode 0 leads from cell"):
        a2c_recall.build(four_rooms(tmp_path / "jump", tmp_path / "run"))
