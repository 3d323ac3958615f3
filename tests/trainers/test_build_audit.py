"""Audit of runs: the same bits with and without, rows of the log, and tasks that cannot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import four_rooms_fixtures
import goal_fixtures
import on_policy_fixtures
import pytest
import recipe_fixtures
import torch
from recipe_fixtures import process_state_kept
from tensordict import TensorDict
from trained_fixtures import KINDS

from torchrl_recall.trainers.build_audit import build_audit
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


def sac(run_dir: Path, audit, **changes) -> None:
    changes = {"env__name": "Hopper-v5", "recall__audit": audit} | changes
    assert recipe_fixtures.train(run_dir, recipe_fixtures.tiny("imitation", **changes)) == 0


def trpo(run_dir: Path, audit) -> None:
    words = on_policy_fixtures.tiny("trpo", compile="false", recall__audit=audit)
    assert on_policy_fixtures.train("trpo", run_dir, words) == 0


def dqn(run_dir: Path, audit) -> None:
    recipe, configure = KINDS["dqn"]
    config = configure(f"run_dir='{run_dir}'")
    config.recall.audit = audit
    with process_state_kept():
        recipe.train(config)


def goals(run_dir: Path, audit) -> None:
    assert goal_fixtures.train(run_dir, goal_fixtures.tiny(recall__audit=audit)) == 0


def four_rooms(run_dir: Path, audit) -> None:
    words = four_rooms_fixtures.tiny("backtracking", recall__audit=audit)
    assert four_rooms_fixtures.train(run_dir, words) == 0


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("recipe", [sac, trpo, dqn, goals, four_rooms])
def test_an_audit_moves_no_bit(recipe, tmp_path):
    found = {}
    for audit in ("auto", 0):
        recipe(tmp_path / str(audit), audit)
        found[audit] = json.loads((tmp_path / str(audit) / "summary.json").read_text())
    weights = {summary["weights_sha256"] for summary in found.values()}
    assert len(weights) == 1
    last = rows(tmp_path / "auto")[-1]
    assert 0 <= float(last["traces/impossible_1"]) <= 1
    assert {f"traces/{x}_5" for x in ("landing_error", "displacement")} <= set(last)
    without = rows(tmp_path / "0")
    assert not any(key.startswith("traces/") for key in without[-1])
    for audited, bare in zip(rows(tmp_path / "auto"), without, strict=True):
        same = [key for key in bare if key != "wall_seconds"]
        assert [audited[key] for key in same] == [bare[key] for key in same]


def test_a_task_that_cannot_be_audited_is_named(tmp_path, capsys):
    sac(tmp_path / "auto", "auto", env__name="Reacher-v5", collector__total_frames=80)
    assert "traces are not audited: Reacher-v5 cannot be put" in capsys.readouterr().out
    assert not any(key.startswith("traces/") for key in rows(tmp_path / "auto")[-1])
    with pytest.raises(ConfigError, match=r"recall.audit=8: Reacher-v5 .* Or leave it auto"):
        sac(tmp_path / "eight", 8, env__name="Reacher-v5")


class Recorder:
    """A simulator of one's own, which remembers where it was put."""

    def is_valid(self, states):
        self.states = states
        return torch.ones(len(states), dtype=torch.bool)

    def replay(self, states, actions):
        return states.unsqueeze(1).expand(-1, actions.shape[1], -1)

    def coordinates(self, states):
        return states


@pytest.mark.parametrize(("audit", "rows"), [("auto", range(0, 64, 2)), (3, [0, 22, 44])])
def test_few_traces_of_many_are_spread_over_their_end_states(audit, rows):
    recall = on_policy_fixtures.parts().recall
    task = Recorder()
    found = build_audit(audit, recall, task)
    assert found() == {}  # nothing has been generated yet
    states = torch.arange(64.0).expand(11, 1, 64).T
    recall.newest.replace(
        TensorDict(
            {"observation": states, "action": states, "next": {"observation": states}}, [64, 1]
        )
    )
    assert found()["traces/landing_error_1"] == 0
    assert task.states[:, 0].tolist() == list(rows)
