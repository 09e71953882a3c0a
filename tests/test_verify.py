"""Verification: sound data passes every check, and each kind of damage fails the one it should."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from mabe_transfer.store import UNKNOWN_SEED, Layout, Store, StoreWriter, open_store
from mabe_transfer.transitions import Transitions
from mabe_transfer.verify import CHECKS, Finding, verify

WEIGHTS = {"forward": 1.0, "healthy": 1.0, "control": -0.1}
LENGTHS = (5, 9, 1, 6)  # rows an episode; the shards of 8 rows cut two of them


def sound(**changes: Any) -> Transitions:
    """Four episodes of a random walk; the last one is open."""
    rng = np.random.default_rng(0)
    walks = [rng.standard_normal((length + 1, 2)).astype(np.float32) for length in LENGTHS]
    n = sum(LENGTHS)
    terms = {name: rng.standard_normal(n).astype(np.float32) for name in WEIGHTS}
    total = sum(WEIGHTS[name] * terms[name].astype(np.float64) for name in WEIGHTS)
    observations = np.concatenate([walk[:-1] for walk in walks])
    fields: dict[str, Any] = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        "rewards": np.asarray(total, np.float32),
        "next_observations": np.concatenate([walk[1:] for walk in walks]),
        "terminals": np.isin(np.arange(n), [4, 14]),
        "timeouts": np.isin(np.arange(n), [13]),
        "qpos": observations.astype(np.float64),
        "qvel": np.zeros((n, 1)),
        "reward_terms": terms,
    }
    return Transitions(**fields | changes)


def write(path: Path, data: Transitions) -> Store:
    attributes: dict[str, Any] = {
        "domain": "hopper",
        "quality": "medium",
        "terms": {name: WEIGHTS[name] for name in data.reward_terms},
        "behaviour": {},
        "recipe": {},
        "seed": 0,
        "versions": {},
    }
    with StoreWriter.open(path, Layout.of(data), attributes, shard_rows=8) as writer:
        writer.append(data, np.arange(len(data.episodes()), dtype=np.int64))
        return writer.finish()


def check(store: Store, name: str, **options: Any) -> Finding:
    findings = {f.check: f for f in verify(store, **options)}
    return findings[name]


def edit(store: Store, name: str, row: int, value: Any) -> Store:
    """Change a stored number through Zarr, checksum and all."""
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store.location, path=name, mode="r+")
    array[row] = value
    return open_store(store.location)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("written") / "sound", sound()).location)


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Store:
    shutil.copytree(written, tmp_path / "sound")
    return open_store(tmp_path / "sound")


def step_again(rows: Transitions) -> NDArray[Any]:
    """A simulator that knows the walk: it finds the row by its state."""
    data = sound()
    assert rows.qpos is not None
    row = [int(np.flatnonzero((data.observations == q).all(axis=1))[0]) for q in rows.qpos]
    return data.next_observations[row].astype(np.float64)


def test_sound_store_passes_every_check_in_order(store: Store) -> None:
    findings = verify(store, replay=step_again)
    assert [f.check for f in findings] == [*CHECKS, "replay"]
    assert [f.detail for f in findings if not f.passed] == []
    assert findings[0].detail == "all 37 chunks of 15 arrays match their CRC32C"


def test_replay_is_left_out_without_a_simulator(store: Store) -> None:
    assert [f.check for f in verify(store)] == list(CHECKS)


def test_damaged_chunk_fails_and_leaves_the_rest_unchecked(store: Store) -> None:
    chunk = Path(store.location, "actions", "c", "1", "0")
    raw = bytearray(chunk.read_bytes())
    raw[3] ^= 1
    chunk.write_bytes(raw)
    first, *rest = verify(store)
    assert not first.passed
    assert "chunk 1 of actions (rows 8 to 15) is corrupted" in first.detail
    assert {f.detail for f in rest} == {"not checked, because a chunk does not decode"}
    assert not any(f.passed for f in rest)


def test_every_damaged_chunk_is_counted(store: Store) -> None:
    Path(store.location, "actions", "c", "1", "0").unlink()
    Path(store.location, "rewards", "c", "2").unlink()
    assert check(store, "checksums").detail.endswith("is missing (and 1 more)")


def test_changed_number_fails_the_content_hash(store: Store) -> None:
    changed = edit(store, "qvel", 3, 1.0)
    assert check(changed, "checksums").passed
    assert "but the arrays give" in check(changed, "content hash").detail


def test_number_that_is_not_finite_is_found_with_its_row(store: Store) -> None:
    finding = check(edit(store, "qpos", 11, np.nan), "finite")
    assert finding == Finding(check="finite", passed=False, detail="qpos is not finite at row 11")


@pytest.mark.parametrize(
    "name",
    ["observations", "next_observations", "rewards", "reward_terms/forward", "episodes/return"],
)
def test_number_that_is_not_finite_is_never_an_exception(store: Store, name: str) -> None:
    broken = edit(store, name, 2, np.inf)
    findings = verify(broken, replay=lambda rows: rows.next_observations)
    assert not all(f.passed for f in findings)


def test_episode_that_the_flags_do_not_end_is_found(store: Store) -> None:
    finding = check(edit(store, "terminals", 4, False), "episodes")
    assert finding.detail.startswith("4 are recorded, but the flags end 3")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("start", 6, "episode 1 has start 6, but the flags say 5"),
        ("length", 8, "episode 1 has length 8, but the flags say 9"),
        ("return", 1e6, "a recorded return is not the sum of the episode's rewards"),
        ("seed", -7, "a seed is -7"),
    ],
)
def test_wrong_record_of_an_episode_is_found(
    store: Store, name: str, value: float, message: str
) -> None:
    finding = check(edit(store, f"episodes/{name}", 1, value), "episodes")
    assert not finding.passed
    assert finding.detail == message


def test_unknown_seeds_are_told_but_are_no_fault(store: Store) -> None:
    finding = check(edit(store, "episodes/seed", 1, UNKNOWN_SEED), "episodes")
    assert finding.passed
    assert finding.detail == (
        "4 episodes tile the rows, the last one open, 1 of them without a known seed"
    )


@pytest.mark.parametrize("row", [1, 7, 18])
def test_row_that_does_not_lead_to_the_next_is_found(store: Store, row: int) -> None:
    finding = check(edit(store, "next_observations", row, [9.0, 9.0]), "continuity")
    assert finding.detail.endswith(f"in 1 rows within episodes, the first is {row}")


@pytest.mark.parametrize("row", [4, 13])
def test_transition_that_crosses_into_the_next_episode_is_found(tmp_path: Path, row: int) -> None:
    data = sound()
    crossed = data.next_observations.copy()
    crossed[row] = data.observations[row + 1]
    finding = check(write(tmp_path / "crossed", sound(next_observations=crossed)), "continuity")
    assert finding.detail.endswith(f"in 1 rows, the first is {row}")


def test_reward_that_is_not_the_weighted_sum_of_its_terms_is_found(store: Store) -> None:
    reward = float(sound().rewards[17])
    finding = check(edit(store, "rewards", 17, reward + 1e-3), "rewards")
    assert not finding.passed
    assert "row 17" in finding.detail


def test_weights_of_another_task_fail_the_rewards(store: Store) -> None:
    store.attributes["terms"] = WEIGHTS | {"forward": -1.0}
    assert [f.check for f in verify(store) if not f.passed] == ["rewards"]


def test_weights_with_an_unknown_term_fail_the_rewards(store: Store) -> None:
    store.attributes["terms"] = {"forwad": 1.0}
    finding = check(store, "rewards")
    assert "Did you mean 'forward'" in finding.detail


def test_rewards_without_terms_have_nothing_to_compare(tmp_path: Path) -> None:
    store = write(tmp_path / "bare", sound(reward_terms={}))
    assert check(store, "rewards").detail.startswith("no reward terms are stored")


@pytest.mark.parametrize("value", [1.0001, -2.0, np.nan])
def test_action_outside_its_range_is_found(store: Store, value: float) -> None:
    finding = check(edit(store, "actions", 19, value), "actions")
    assert finding.detail.startswith("row 19 holds [")


def test_replay_that_differs_is_found_with_its_worst_row(store: Store) -> None:
    def drifted(rows: Transitions) -> NDArray[Any]:
        again = step_again(rows)
        again[12] += 0.5
        return again

    finding = check(store, "replay", replay=drifted)
    assert not finding.passed
    assert finding.detail.startswith("1 of 21 rows, the worst (row 12) off by 5.0e-01")


def test_replay_within_float32_passes(store: Store) -> None:
    assert check(store, "replay", replay=lambda rows: step_again(rows) + 1e-6).passed


def test_replay_takes_a_sample_of_the_rows_by_seed(store: Store) -> None:
    seen: list[list[list[float]]] = []

    def watched(rows: Transitions) -> NDArray[Any]:
        seen.append(rows.observations.tolist())
        return step_again(rows)

    for seed in (1, 1, 2):
        assert check(store, "replay", replay=watched, sample=5, seed=seed).passed
    assert len(seen[0]) == 5
    assert seen[0] == seen[1] != seen[2]


def test_replay_without_states_fails(tmp_path: Path) -> None:
    store = write(tmp_path / "stateless", sound(qpos=None, qvel=None))
    assert check(store, "replay", replay=step_again).detail.startswith("the store holds no qpos")


def test_simulator_that_refuses_is_a_finding(store: Store) -> None:
    def refusing(rows: Transitions) -> NDArray[Any]:
        raise RuntimeError(f"unstable at {len(rows)} rows")

    finding = check(store, "replay", replay=refusing)
    assert finding.detail == "the simulator refuses the rows: unstable at 21 rows"


def test_replay_of_another_shape_is_a_finding(store: Store) -> None:
    finding = check(store, "replay", replay=lambda rows: np.zeros((len(rows), 3)))
    assert finding.detail == "the replay gives [21, 3], expected [21, 2]"
