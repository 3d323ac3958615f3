import pytest
import torch
from tensordict import TensorDict

from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.seeds import SeedStreams
from torchrl_recall.seeds.recent_successes import RecentSuccesses

SEEDS, ENVS = 2, 3


def steps(size=5, length=300, seeds=(0, 1)):
    env = FourRoomsEnv(
        size,
        start="uniform",
        max_steps=20,
        batch_size=[len(seeds), ENVS],
        streams=SeedStreams(seeds, stream="env"),
    )
    torch.manual_seed(0)
    return env.rollout(length, break_when_any_done=False)


def naive(data, seed, length):
    """The last steps of each success of a seed, as they came."""
    found = []
    for time in range(data.shape[2]):
        for env in range(data.shape[1]):
            row = data[seed, env]
            if row["next", "terminated"][time] and row["next", "reward"][time] > 0:
                first = max(time - int(row["elapsed_steps"][time]), time - length + 1)
                episode = row[first : time + 1]
                found.append(
                    list(
                        zip(
                            episode["observation"].tolist(),
                            episode["action"].tolist(),
                            episode["next", "observation"].tolist(),
                            strict=True,
                        )
                    )
                )
    return found


def kept(successes, seed):
    rows = []
    for row in successes._kept[seed]:
        mask = row["mask"]
        if mask.any():
            valid = row[mask]
            keys = ("observation", "action", ("next", "observation"))
            rows.append(list(zip(*[valid[key].tolist() for key in keys], strict=True)))
    return rows


def filled(data, *, num_trajectories, length, chunk=300):
    successes = RecentSuccesses(
        data.shape[0],
        ENVS,
        num_trajectories,
        length,
        num_states=25,
        streams=SeedStreams(range(data.shape[0])),
    )
    for part in data.split(chunk, dim=2):
        successes.extend(part)
    return successes


@pytest.mark.parametrize("length", [1, 4, 30])
@pytest.mark.parametrize("chunk", [300, 7, 1])
def test_it_keeps_the_tails_of_successes(length, chunk):
    data = steps()
    successes = filled(data, num_trajectories=1000, length=length, chunk=chunk)
    for seed in range(SEEDS):
        expected = naive(data, seed, length)
        assert len(expected) > 20
        assert int(successes.count[seed]) == len(expected)
        assert kept(successes, seed) == expected


@pytest.mark.parametrize("chunk", [300, 7])
def test_old_ones_give_way(chunk):
    data = steps()
    successes = filled(data, num_trajectories=5, length=6, chunk=chunk)
    for seed in range(SEEDS):
        expected = naive(data, seed, 6)[-5:]
        assert sorted(map(str, kept(successes, seed))) == sorted(map(str, expected))


def test_samples_are_kept_trajectories_of_their_seed():
    data = steps()
    successes = filled(data, num_trajectories=10, length=6)
    sample = successes.sample(200)
    assert sample.shape == (SEEDS, 200, 6)
    for seed in range(SEEDS):
        rows = {str(row) for row in kept(successes, seed)}
        drawn = set()
        for row in sample[seed]:
            valid = row[row["mask"]]
            keys = ("observation", "action", ("next", "observation"))
            drawn.add(str(list(zip(*[valid[key].tolist() for key in keys], strict=True))))
        assert drawn == rows


def test_transitions_come_from_kept_trajectories_uniformly():
    data = steps()
    successes = filled(data, num_trajectories=4, length=3)
    sample = successes.sample_transitions(4_000)
    assert sample.shape == (SEEDS, 4_000)
    assert sample["mask"].all()
    for seed in range(SEEDS):
        expected: dict = {}
        for row in kept(successes, seed):
            for step in row:
                expected[step] = expected.get(step, 0) + 1 / 4 / len(row)
        keys = ("observation", "action", ("next", "observation"))
        drawn: dict = {}
        for step in zip(*[sample[seed][key].tolist() for key in keys], strict=True):
            drawn[step] = drawn.get(step, 0) + 1 / 4_000
        assert drawn == pytest.approx(expected, abs=0.04)


def test_before_the_first_success_there_is_nothing():
    successes = RecentSuccesses(2, ENVS, 5, 4, num_states=121, streams=SeedStreams([0, 1]))
    assert not successes.seen.any()
    assert not successes.sample(3)["mask"].any()
    assert successes.sample_transitions(3).shape == (2, 3)


def test_a_time_out_is_no_success():
    data = steps(size=11, length=60)
    data["next", "terminated"].zero_()
    successes = RecentSuccesses(2, ENVS, 5, 4, num_states=121, streams=SeedStreams([0, 1]))
    successes.extend(data)
    assert not successes.seen.any()


def test_state_goes_on_in_the_middle_of_episodes():
    data = steps()
    whole = filled(data, num_trajectories=8, length=9, chunk=10)
    first = filled(data[..., :150], num_trajectories=8, length=9, chunk=10)
    second = RecentSuccesses(SEEDS, ENVS, 8, 9, num_states=25, streams=SeedStreams([0, 1]))
    second.load_state_dict(first.state_dict())
    for part in data[..., 150:].split(10, dim=2):
        second.extend(part)
    assert torch.equal(second.count, whole.count)
    assert torch.equal(second.visited, whole.visited)
    assert (second._kept == whole._kept).all()


@pytest.mark.parametrize(
    ("num_trajectories", "length", "num_states", "word"),
    [
        (0, 3, 5, "num_trajectories"),
        (3, 0, 5, "length"),
        (2.5, 3, 5, "num_trajectories"),
        (3, 3, 0, "num_states"),
    ],
)
def test_numbers_below_one_are_refused(num_trajectories, length, num_states, word):
    with pytest.raises(ValueError, match=f"{word} must be an integer of at least 1"):
        RecentSuccesses(
            1, 1, num_trajectories, length, num_states=num_states, streams=SeedStreams([0])
        )


def test_states_that_were_visited():
    data = steps(length=7)
    successes = filled(data, num_trajectories=8, length=9)
    for seed in range(SEEDS):
        visited = set(data[seed]["next", "observation"].flatten().tolist())
        assert set(successes.visited[seed].nonzero().flatten().tolist()) == visited


def test_frames_are_counted_for_each_seed():
    data = steps(length=7)
    successes = RecentSuccesses(SEEDS, ENVS, 8, 9, num_states=25, streams=SeedStreams([0, 1]))
    assert successes.extend(data) == 3 * 7


def test_pairs_are_whole_successes_seed_by_seed():
    data = steps()
    successes = filled(data, num_trajectories=10, length=6)
    successes.num_pairs = 4
    pairs = successes.pairs()
    assert pairs.shape == (SEEDS * 4, 6)
    keys = ("observation", "action", ("next", "observation"))
    for row, trajectory in enumerate(pairs):
        valid = trajectory[trajectory["mask"]]
        steps_of = list(zip(*[valid[key].tolist() for key in keys], strict=True))
        assert steps_of in kept(successes, row // 4)


def test_successes_stay_when_open_episodes_are_dropped():
    successes = filled(steps(length=3), num_trajectories=1, length=1)
    before = successes.count.clone()
    successes.drop_unfinished()
    assert torch.equal(successes.count, before)


def test_a_demonstration_longer_than_the_store_is_visited_as_a_whole():
    store = RecentSuccesses(1, ENVS, 4, 2, num_states=25, streams=SeedStreams([0]))
    path = torch.tensor([1, 2, 3])
    trajectory = TensorDict(
        {
            "observation": torch.tensor([0, 1, 2]),
            "action": torch.zeros(3, dtype=torch.long),
            "next": {"observation": path},
        },
        [3],
    )
    store.demonstrate([trajectory])
    assert store.visited[0].nonzero().flatten().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="has no step"):
        store.demonstrate([trajectory[:0]])


def demonstration(*cells: int) -> TensorDict:
    path = torch.tensor(cells)
    actions = torch.ones(len(cells) - 1, dtype=torch.long)
    data = {"observation": path[:-1], "action": actions, "next": {"observation": path[1:]}}
    return TensorDict(data, [len(cells) - 1])


def test_a_state_is_no_view_of_the_store():
    def make():
        return RecentSuccesses(1, 1, 2, 2, num_states=9, streams=SeedStreams([0]))

    store, one, two = make(), make(), make()
    store.demonstrate([demonstration(1, 2, 3)])
    state = store.state_dict()
    store.demonstrate([demonstration(5, 6, 7), demonstration(6, 7, 8)])
    assert state["kept"]["observation"].tolist() == [[[1, 2], [0, 0]]]
    one.load_state_dict(state)
    two.load_state_dict(state)
    one.demonstrate([demonstration(5, 6, 7), demonstration(6, 7, 8)])
    assert two.sample(1)["observation"].tolist() == [[[1, 2]]]


def test_each_seed_gets_a_demonstration_after_its_own_successes():
    store = RecentSuccesses(2, 1, 3, 2, num_states=25, streams=SeedStreams([0, 1]))
    done = torch.zeros(2, 1, 2, 1, dtype=torch.bool)
    done[0, 0, 1] = True  # of the first seed alone
    ones = torch.ones(2, 1, 2, dtype=torch.long)
    following = {"observation": ones, "reward": done.float(), "terminated": done}
    data = {
        "observation": ones, "action": ones, "next": following,
        "elapsed_steps": torch.arange(2).expand(2, 1, 2),
    }  # fmt: skip
    store.extend(TensorDict(data, [2, 1, 2]))
    store.demonstrate([demonstration(5, 6, 7)])
    assert store.count.tolist() == [2, 1]
    drawn = store.sample(20)
    assert (drawn["observation"][1] == torch.tensor([5, 6])).all()
    assert drawn["mask"].all()
    assert {tuple(row) for row in drawn["observation"][0].tolist()} == {(1, 1), (5, 6)}


@pytest.mark.parametrize("name", ["num_seeds", "num_envs", "num_pairs"])
def test_sizes_below_one_are_refused(name):
    numbers = {"num_seeds": 1, "num_envs": 1, "num_trajectories": 1, "length": 2, "num_states": 9}
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        RecentSuccesses(**numbers | {name: 0}, streams=SeedStreams([0]))
