"""Minari's data sets: by name, out and back, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from mabe_transfer import bridges, domains
from mabe_transfer.acquire import Request, acquire
from mabe_transfer.bridges.minari_export import to_minari
from mabe_transfer.errors import UserError
from mabe_transfer.library import data_root, open_dataset
from mabe_transfer.store import Layout, Store, StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

minari = pytest.importorskip("minari")
ADVICE = pytest.mark.filterwarnings("ignore:(`|.*out of date)")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's own folder of data sets, empty."""
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def collected(name: str) -> Store:
    return acquire(Request(domain=domains.domain(name), quality="random", transitions=150))


@pytest.mark.parametrize("name", ["hopper-friction=0.5-backward", "halfcheetah-d4rl"])
def test_round_trip_through_minari_loses_nothing(name: str, root: Path) -> None:
    store = collected(name)
    to_minari(store, domains.domain(name), "mine/random-v0")
    back = open_dataset("minari:mine/random-v0")
    assert back.domain == domains.domain(name)
    assert back.content == store.attributes["content_hash"]
    for key in ("domain", "quality", "terms", "behaviour", "recipe", "seed", "versions"):
        assert back.store.attributes[key] == store.attributes[key]
    assert list(root.parent.glob("*.partial")) == []


def test_minari_opens_an_export_with_one_more_observation_than_steps() -> None:
    store = collected("hopper")
    to_minari(store, domains.domain("hopper"), "mine/random-v0")
    rows, episodes = store.load(), store.episodes()
    found = minari.load_dataset("mine/random-v0")
    assert (found.total_episodes, found.total_steps) == (len(episodes), 150)
    for episode, start, length in zip(found, episodes.start, episodes.length, strict=True):
        steps = slice(start, start + length)
        assert len(episode.observations) == length + 1
        assert (episode.observations[1:] == rows.next_observations[steps]).all()
        assert (episode.terminations == rows.terminals[steps]).all()
        assert (episode.truncations == rows.timeouts[steps]).all()
    env = found.recover_environment()
    assert env.observation_space.shape == (11,)
    env.close()


def by_others(spec: Any, identity: str, steps: int = 4, **changes: Any) -> None:
    """A data set that somebody recorded with Minari: a fall, and an episode cut without a flag."""
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            **{
                "observations": rng.normal(size=(steps + 1, 11)),
                "actions": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
                "rewards": [1.0, 2.0, 3.0, 4.0],
                "terminations": [False, False, False, fell],
                "truncations": [False] * 4,
            }
            | changes
        )
        for fell in (False, True)
    ]
    minari.create_dataset_from_buffers(
        identity, buffers, env=spec, algorithm_name="SAC",
        observation_space=spaces.Box(-np.inf, np.inf, (11,), np.float64),
        action_space=spaces.Box(-1, 1, (3,), np.float32),
    )  # fmt: skip


@ADVICE
def test_data_of_gymnasiums_hopper_is_of_the_domain_hopper() -> None:
    by_others(gymnasium.spec("Hopper-v5"), "mujoco/hopper/medium-v0")
    dataset = open_dataset("minari:mujoco/hopper/medium-v0")
    found = dataset.store.load()
    assert dataset.domain.name == "hopper"
    assert dataset.store.attributes["quality"] == "SAC"
    assert found.terminals.tolist() == [False] * 7 + [True]
    assert found.timeouts.tolist() == [False] * 3 + [True] + [False] * 4
    cost = 1e-3 * np.square(found.actions).sum(axis=1)
    healthy = np.array([1, 1, 1, 1, 1, 1, 1, 0])  # v5 pays no bonus for the falling step
    assert found.reward_terms["forward"] == pytest.approx(found.rewards - healthy + cost, abs=1e-6)


@ADVICE
def test_data_of_an_environment_that_is_no_domain_needs_one_named() -> None:
    by_others(gymnasium.spec("Hopper-v4"), "mine/old-v0")
    with pytest.raises(UserError, match="Hopper-v4, which is no domain here; say where"):
        open_dataset("minari:mine/old-v0")
    store = bridges.bring_in("minari:mine/old-v0", domains.domain("hopper-d4rl"), data_root())
    assert store.attributes["domain"] == "hopper-d4rl"
    assert open_dataset("mine-old-v0").store.rows == 8
    with pytest.raises(UserError, match="expected numbers of shape"):
        bridges.bring_in(
            "minari:mine/old-v0", domains.domain("walker2d"), data_root(), name="wrong"
        )


@ADVICE
def test_number_that_is_not_finite_is_refused() -> None:
    spec = gymnasium.spec("Hopper-v5")
    by_others(spec, "mine/nan-v0", rewards=[1.0, np.nan, 1.0, 1.0])
    with pytest.raises(UserError, match="rewards is not finite at row 1"):
        open_dataset("minari:mine/nan-v0")


def test_absent_set_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match="get it with: minari download mujoco/hopper/medium-v0"):
        open_dataset("minari:mujoco/hopper/medium-v0")
    with pytest.raises(UserError, match="no name of a Minari data set"):
        open_dataset("minari:../../etc")


def test_export_never_overwrites_and_keeps_minaris_refusals(root: Path) -> None:
    store = collected("hopper")
    to_minari(store, domains.domain("hopper"), "mine/random-v0")
    with pytest.raises(UserError, match="exists already"):
        to_minari(store, domains.domain("hopper"), "mine/random-v0")
    with pytest.raises(UserError, match="Minari refuses 'no name at all!'"):
        to_minari(store, domains.domain("hopper"), "no name at all!")
    assert sorted(p.name for p in root.iterdir()) == ["mine"]


def test_row_that_does_not_lead_to_the_next_cannot_be_exported(tmp_path: Path) -> None:
    store = collected("hopper")
    rows = store.load()
    rows.next_observations[0] += 1.0
    given = {key: store.attributes[key] for key in
             ("domain", "quality", "terms", "behaviour", "recipe", "seed", "versions")}  # fmt: skip
    with StoreWriter.open(tmp_path / "torn.zarr", Layout.of(rows), given) as writer:
        writer.append(rows, store.episodes().seed)
        torn = writer.finish()
    with pytest.raises(UserError, match="from row 0 does not lead to the next one"):
        to_minari(torn, domains.domain("hopper"), "mine/torn-v0")
