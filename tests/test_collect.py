"""Behaviour policies and the data they make: keyed by episode, whole, and the same after a stop."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mabe_transfer import behaviour, domains, weights
from mabe_transfer import collect as collecting
from mabe_transfer.batched import Simulation
from mabe_transfer.behaviour import Ladder, LadderPolicy, RandomPolicy, Rung, load_ladder
from mabe_transfer.collect import Share
from mabe_transfer.errors import Interrupted, UserError
from mabe_transfer.networks import Actor
from mabe_transfer.store import Store, StoreWriter
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.domains import Domain


def short(name: str) -> Domain:
    """A domain whose episodes end after 20 steps."""
    base = domains.domain(name)
    return replace(base, robot=replace(base.robot, max_episode_steps=20, references={}))


HOPPER = short("hopper")


@pytest.fixture(autouse=True)
def four_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four episodes and shards of fifty rows."""
    monkeypatch.setattr(collecting, "BLOCK", 4)
    small = functools.partial(StoreWriter.open, shard_rows=50)
    monkeypatch.setattr(StoreWriter, "open", small)


def random(count: int) -> Share:
    return Share(RandomPolicy(), count, "uniform actions")


class Still:
    """A policy that does nothing, by which its rows are known."""

    def act(self, observation: Any, noise: Any) -> Any:
        del observation
        return np.zeros(noise.shape, dtype=np.float32)


def collect(
    location: Path, *counts: int, seed: int = 7, domain: Domain = HOPPER, shares: Any = None
) -> Store:
    return collecting.collect(
        domain,
        shares or [random(count) for count in counts],
        seed=seed,
        location=location,
        facts={"quality": "random", "behaviour": {"policy": "random"}, "recipe": {}},
        title="Collecting",
    )


# -- episodes ------------------------------------------------------------------------------------


def test_collection_has_as_many_transitions_as_were_asked_for(tmp_path: Path) -> None:
    store = collect(tmp_path / "d.zarr", 130)
    assert store.rows == 130
    assert len(store.load()) == 130


def test_every_episode_is_whole_and_in_order(tmp_path: Path) -> None:
    store = collect(tmp_path / "d.zarr", 130)
    data, episodes = store.load(), store.episodes()
    assert int(episodes.length.sum()) == 130
    for start, length in zip(episodes.start, episodes.length, strict=True):
        one = data.rows(slice(int(start), int(start + length)))
        ends = one.terminals | one.timeouts
        assert ends.tolist() == [False] * (int(length) - 1) + [True]
        np.testing.assert_array_equal(one.observations[1:], one.next_observations[:-1])


def test_episode_starts_as_its_seed_says(tmp_path: Path) -> None:
    store = collect(tmp_path / "d.zarr", 130)
    data, episodes = store.load(), store.episodes()
    simulation = Simulation(HOPPER, len(episodes))
    simulation.seed(episodes.seed.tolist())
    first = simulation.observation.astype(np.float32)
    simulation.close()
    np.testing.assert_array_equal(data.observations[episodes.start], first)
    assert len(set(episodes.seed.tolist())) == len(episodes)


def test_episode_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    """A longer collection begins with the shorter one, but for where the latter was cut."""
    one = collect(tmp_path / "one.zarr", 90).load()
    two = collect(tmp_path / "two.zarr", 200).load().rows(slice(0, 90))
    for name, array in one.arrays().items():
        if name != "timeouts":
            np.testing.assert_array_equal(array, two.arrays()[name])
    np.testing.assert_array_equal(one.timeouts[:-1], two.timeouts[:-1])


def test_episode_of_a_network_does_not_depend_on_how_many_are_played_beside_it(
    tmp_path: Path,
) -> None:
    """Matrix products of another shape round differently, which a simulation then magnifies."""
    actor = Actor(Sizes(seeds=(0,), observation=11, action=3), (64, 64), "x")
    tensors = {n.removeprefix("body."): t[0].detach() for n, t in actor.state_dict().items()}
    policy = LadderPolicy(tensors)
    whole = collect(tmp_path / "whole.zarr", shares=[Share(policy, 160, "network")])
    starts = whole.episodes().start.tolist()
    expected = whole.load()
    for count in (starts[1], starts[5]):  # the last block plays one episode, perhaps
        part = collect(tmp_path / f"{count}.zarr", shares=[Share(policy, count, "network")])
        found = part.load()
        np.testing.assert_array_equal(found.actions, expected.actions[:count])
        np.testing.assert_array_equal(found.observations, expected.observations[:count])


def test_collections_of_different_seeds_share_no_episode(tmp_path: Path) -> None:
    seeds = [collect(tmp_path / f"{s}.zarr", 90, seed=s).episodes().seed.tolist() for s in (0, 1)]
    assert not set(seeds[0]) & set(seeds[1])


def test_actions_of_two_episodes_differ(tmp_path: Path) -> None:
    store = collect(tmp_path / "d.zarr", 100)
    first = store.load().actions[store.episodes().start]
    assert len(np.unique(first, axis=0)) == len(first)


def test_cut_last_episode_ends_as_by_the_clock(tmp_path: Path) -> None:
    whole = collect(tmp_path / "whole.zarr", 200).load()
    inside = int(np.flatnonzero(~(whole.terminals | whole.timeouts))[30]) + 1
    data = collect(tmp_path / "cut.zarr", inside).load()
    assert bool(data.timeouts[-1])
    assert not bool(data.terminals[-1])


def test_last_episode_that_ends_at_the_count_keeps_its_own_end(tmp_path: Path) -> None:
    whole = collect(tmp_path / "whole.zarr", 400).load()
    fall = int(np.flatnonzero(whole.terminals)[0])
    data = collect(tmp_path / "cut.zarr", fall + 1).load()
    assert bool(data.terminals[-1])
    assert not bool(data.timeouts[-1])


def test_clock_is_a_timeout_and_no_terminal(tmp_path: Path) -> None:
    store = collect(tmp_path / "d.zarr", 80, domain=short("halfcheetah"))
    data = store.load()
    assert store.episodes().length.tolist() == [20] * 4
    assert not data.terminals.any()
    assert np.flatnonzero(data.timeouts).tolist() == [19, 39, 59, 79]


def test_shares_follow_each_other_with_episodes_of_their_own(tmp_path: Path) -> None:
    shares = [random(70), Share(Still(), 50, "nothing"), random(30)]
    store = collect(tmp_path / "d.zarr", shares=shares)
    data, episodes = store.load(), store.episodes()
    still = (data.actions == 0.0).all(axis=1)
    assert still.tolist() == [False] * 70 + [True] * 50 + [False] * 30
    assert {0, 70, 120} <= set(episodes.start.tolist())
    assert len(set(episodes.seed.tolist())) == len(episodes)


def test_store_says_where_it_is_from(tmp_path: Path) -> None:
    attributes = collect(tmp_path / "d.zarr", 60).attributes
    assert attributes["domain"] == "hopper"
    assert attributes["seed"] == 7
    assert attributes["terms"] == {"control": -1.0, "forward": 1.0, "healthy": 1.0}
    assert attributes["behaviour"]["domain"]["robot"]["max_episode_steps"] == 20


# -- going on ------------------------------------------------------------------------------------


def same(one: Store, other: Store) -> bool:
    ignored = {"created"}
    left, right = (
        {name: value for name, value in store.attributes.items() if name not in ignored}
        for store in (one, other)
    )
    return left == right  # with the hash of the content


@pytest.mark.parametrize(("blocks", "how"), [(1, "error"), (2, "ctrl-c"), (4, "error")])
def test_interrupted_collection_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, how: str
) -> None:
    expected = collect(tmp_path / "whole.zarr", 130, 120)
    play, played = collecting._play, [0]

    def failing(*given: Any) -> Any:
        played[0] += 1
        if played[0] == blocks:
            if how == "error":
                raise RuntimeError("the power is gone")
            os.kill(os.getpid(), signal.SIGINT)
        return play(*given)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_play", failing)
        with pytest.raises(RuntimeError if how == "error" else Interrupted):
            collect(tmp_path / "broken.zarr", 130, 120)
    assert not (tmp_path / "broken.zarr").exists()
    assert same(collect(tmp_path / "broken.zarr", 130, 120), expected)


def test_collection_goes_on_from_its_last_whole_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, played = collecting._play, []

    def counted(simulation: Any, policy: Any, seed: int, share: int, episodes: range) -> Any:
        played.append(episodes.start)
        if played.count(8) == 1 and episodes.start == 8:
            raise RuntimeError("the power is gone")
        return play(simulation, policy, seed, share, episodes)

    monkeypatch.setattr(collecting, "_play", counted)
    with pytest.raises(RuntimeError):
        collect(tmp_path / "d.zarr", 200)
    collect(tmp_path / "d.zarr", 200)
    assert played[:4] == [0, 4, 8, 4]  # the first block was safe when the second filled a shard


def test_finished_store_is_not_overwritten(tmp_path: Path) -> None:
    collect(tmp_path / "d.zarr", 60)
    with pytest.raises(UserError, match="exists already, and nothing is ever overwritten"):
        collect(tmp_path / "d.zarr", 60)


def test_collection_begun_with_another_seed_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_play", None)
        with pytest.raises(TypeError):
            collect(tmp_path / "d.zarr", 60)
    with pytest.raises(UserError, match=r"was begun with seed = 7, and now it is 8"):
        collect(tmp_path / "d.zarr", 60, seed=8)


# -- behaviour policies --------------------------------------------------------------------------


def ladder(*means: float) -> Ladder:
    """A ladder of random policies with these returns."""
    rungs = tuple(
        Rung(env_steps=100 * (k + 1), mean=mean, std=1.0, episodes=2)
        for k, mean in enumerate(means)
    )
    actor = Actor(Sizes(seeds=tuple(range(len(means))), observation=11, action=3), (8, 8), "x")
    tensors = {n.removeprefix("body."): t.detach() for n, t in actor.state_dict().items()}
    return Ladder(HOPPER, rungs, tensors, {"algorithm": "sac"})


@pytest.mark.parametrize(
    ("means", "medium", "expert"),
    [
        # a third of the way from 10 to 310 is 110
        ((10.0, 60.0, 120.0, 90.0, 310.0, 300.0), 2, 4),
        ((10.0, 60.0, 150.0, 109.0, 310.0), 3, 4),
        # a rung that comes after the expert is no medium policy on the way to it
        ((10.0, 310.0, 110.0), 0, 1),
        # the worst is not always the first: from -20 to 100 it is 20
        ((25.0, -20.0, 100.0), 0, 2),
        ((5.0,), 0, 0),
    ],
)
def test_medium_is_a_third_of_the_way_to_the_expert(
    means: tuple[float, ...], medium: int, expert: int
) -> None:
    found = ladder(*means)
    assert (found.medium, found.expert) == (medium, expert)


def test_thinned_ladder_keeps_worst_medium_and_expert_with_their_policies() -> None:
    whole = ladder(25.0, 30.0, -20.0, 22.0, 40.0, 35.0, 60.0, 100.0, 90.0, 80.0)
    found = whole.thinned(6)  # others at 100, 316 (nearest: 300) and 1,000 steps
    assert [rung.mean for rung in found.rungs] == [25.0, -20.0, 22.0, 100.0, 80.0]
    assert [rung.env_steps for rung in found.rungs] == [100, 300, 400, 800, 1000]
    assert (found.medium_rung, found.expert) == (whole.medium_rung, 3)
    for name, tensor in whole.tensors.items():
        assert torch.equal(found.tensors[name], tensor[[0, 2, 3, 7, 9]])
    rising = ladder(*(float(k) for k in range(64)))  # 100 to 6,400 steps, times 2.83 each
    assert [r.env_steps for r in rising.thinned(8).rungs] == [100, 300, 800, 2200, 2300, 6400]
    assert ladder(1.0, 2.0).thinned(8).rungs == ladder(1.0, 2.0).rungs


def test_ladder_file_holds_the_ladder_in_half_precision(tmp_path: Path) -> None:
    before = ladder(1.0, 2.0, 3.0)
    before.save(tmp_path / "l.safetensors")
    after = load_ladder(tmp_path / "l.safetensors")
    assert (after.domain, after.rungs) == (before.domain, before.rungs)
    assert after.provenance == before.provenance
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name], tensor.half())


def test_ladder_that_was_read_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    ladder(1.0, 2.0).save(tmp_path / "one.safetensors")
    load_ladder(tmp_path / "one.safetensors").save(tmp_path / "two.safetensors")
    one, two = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two
    assert behaviour.digest(load_ladder(tmp_path / "one.safetensors")) == behaviour.digest(
        ladder(1.0, 2.0)
    )


def test_half_precision_hardly_changes_what_a_policy_does(tmp_path: Path) -> None:
    before = ladder(1.0, 2.0)
    before.save(tmp_path / "l.safetensors")
    generator = np.random.default_rng(0)
    observation, noise = generator.standard_normal((50, 11)), generator.standard_normal((50, 3))
    one, two = (
        found.policy(1).act(observation, noise)
        for found in (before, load_ladder(tmp_path / "l.safetensors"))
    )
    np.testing.assert_allclose(one, two, atol=5e-3)


def test_policy_of_a_rung_is_the_actor_it_was_taken_from() -> None:
    actor = Actor(Sizes(seeds=(0, 1, 2), observation=11, action=3), (8, 8), "x")
    tensors = {n.removeprefix("body."): t[1] for n, t in actor.state_dict().items()}
    observation = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = actor.distribution(observation.expand(3, 5, 11))
        found = LadderPolicy(tensors).distribution(observation)
    torch.testing.assert_close(found.mean, expected.mean[1])
    torch.testing.assert_close(found.log_std, expected.log_std[1])


def test_random_policy_is_uniform() -> None:
    noise = np.random.default_rng(0).standard_normal((20_000, 3))
    action = RandomPolicy().act(np.zeros((20_000, 11)), noise)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1.0
    counts, _ = np.histogram(action, bins=10, range=(-1.0, 1.0))
    assert np.abs(counts / 6_000.0 - 1.0).max() < 0.06  # five deviations of a count of 6,000


# -- files that are no ladder --------------------------------------------------------------------


def test_missing_ladder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load_ladder(tmp_path / "l.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"\xff" * 64])
def test_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "l.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"l.safetensors: is no safetensors file of mabe-transfer"):
        load_ladder(path)


def test_pickled_policy_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    torch.save({"weights.0": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is no safetensors file of mabe-transfer"):
        load_ladder(path)


def test_ladder_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.safetensors"
    ladder(1.0, 2.0).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="is no safetensors file of mabe-transfer"):
        load_ladder(path)


def test_safetensors_file_of_others_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "l.safetensors"
    save_file({"weights.0": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is no safetensors file of mabe-transfer"):
        load_ladder(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "policies"}, "expected a ladder of behaviour policies, found policies"),
        ({}, "expected a ladder of behaviour policies, found other tensors"),
        ({"kind": "behaviour ladder"}, "its facts lack rungs, domain, provenance"),
        (
            {"kind": "behaviour ladder", "rungs": [{}], "domain": {}, "provenance": {}},
            "rungs: missing env_steps, mean, std, episodes",
        ),
    ],
)
def test_file_with_other_facts_is_refused(
    tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    path = tmp_path / "l.safetensors"
    weights.save(path, {"weights.0": torch.zeros(2)}, facts)
    with pytest.raises(UserError, match=message):
        load_ladder(path)


def test_weights_are_replaced_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, {"a": torch.zeros(2)}, {"n": 1})

    def failing(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match=r"w.safetensors cannot be written \(the disk is full"):
        weights.save(path, {"a": torch.ones(2)}, {"n": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    tensors, facts = weights.load(path)
    assert tensors["a"].tolist() == [0.0, 0.0]
    assert facts == {"n": 1}
