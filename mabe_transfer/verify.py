"""Checking a data set against what it claims: one finding a check, and no exception for bad data.

Everything is read block by block, so that a store need not fit into memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mabe_transfer.errors import UserError
from mabe_transfer.store import UNKNOWN_SEED, Store
from mabe_transfer.store.format import EPISODE_COLUMNS
from mabe_transfer.store.shards import read_arrays, unsound_row
from mabe_transfer.transitions import Episodes, Flags, Transitions, relabel

Replay = Callable[[Transitions], NDArray[Any]]

REPLAY_TOLERANCE = 1e-5  # relative to max(1, |value|): the store is float32
REWARD_TOLERANCE = 2.0**-22  # relative to the sum of the weighted terms' sizes: four roundings
CHECKS = ("checksums", "content hash", "finite", "episodes", "continuity", "rewards", "actions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name, one of `CHECKS` or "replay".
        passed: Whether the data is as it should be.
        detail: One sentence: what was seen, and where it is wrong.
    """

    check: str
    passed: bool
    detail: str


def verify(
    store: Store,
    *,
    replay: Replay | None = None,
    sample: int = 256,
    seed: int = 0,
) -> list[Finding]:
    """Check a finished store thoroughly.

    Args:
        store: As `open_store` gives it.
        replay: Simulates each of some rows again from its qpos, qvel and action, and returns the
            observations after the step, [n, O]; None to leave that out.
        sample: How many rows to replay.
        seed: Chooses them.

    Returns:
        One finding a check, in the order of `CHECKS`, then that of the replay. If a chunk does not
        decode, nothing else can be checked, and every finding says so.
    """
    first = _checksums(store)
    if not first.passed:
        left = [*CHECKS[1:], *(["replay"] if replay else [])]
        reason = "not checked, because a chunk does not decode"
        return [first, *(Finding(check=name, passed=False, detail=reason) for name in left)]
    with np.errstate(invalid="ignore", over="ignore"):  # numbers that are not finite are findings
        findings = [
            first,
            _content_hash(store),
            _finite(store),
            _episodes(store),
            _continuity(store),
            _rewards(store),
            _actions(store),
        ]
        return findings + ([_replay(store, replay, sample, seed)] if replay else [])


def _checksums(store: Store) -> Finding:
    bad, chunks = [], 0
    for array in store.arrays.values():
        chunks += -(-array.shape[0] // array.chunk_rows)
        for start in range(0, array.shape[0], array.shard_rows):
            try:
                array.read(start, min(start + array.shard_rows, array.shape[0]), finite=False)
            except UserError as error:
                bad.append(str(error))
    good = f"all {chunks:,} chunks of {len(store.arrays)} arrays match their CRC32C"
    return _finding("checksums", bad, good)


def _content_hash(store: Store) -> Finding:
    recorded, found = store.attributes["content_hash"], store.content_hash()
    bad = [] if recorded == found else [f"recorded is {recorded}, but the arrays give {found}"]
    return _finding("content hash", bad, f"the arrays give the recorded {found[:16]}…")


def _finite(store: Store) -> Finding:
    bad = []
    for name, array in store.arrays.items():
        for start in range(0, array.shape[0], array.shard_rows):
            stop = min(start + array.shard_rows, array.shape[0])
            row = unsound_row(array.read(start, stop, finite=False))
            if row is not None:
                bad.append(f"{name} is not finite at row {start + row:,}")
                break
    return _finding("finite", bad, "every number is finite")


def _episodes(store: Store) -> Finding:
    start, length, returns, seeds = (store.arrays[n].read(finite=False) for n in EPISODE_COLUMNS)
    ends = _ends(store)
    true = Episodes.between(ends)
    bad = []
    for name, recorded, found in (
        ("start", start, true.start),
        ("length", length, true.length),
    ):
        if len(recorded) != len(found):
            bad.append(f"{len(recorded):,} are recorded, but the flags end {len(found):,}")
        elif (wrong := np.flatnonzero(recorded != found)).size:
            episode = int(wrong[0])
            bad.append(
                f"episode {episode:,} has {name} {recorded[episode]:,}, "
                f"but the flags say {found[episode]:,}"
            )
    rewards = store.arrays["rewards"].read(finite=False)
    if not bad and not np.allclose(returns, true.sums(rewards), rtol=1e-5, atol=1e-5):
        bad.append("a recorded return is not the sum of the episode's rewards")
    unknown = int((seeds == UNKNOWN_SEED).sum())
    if (seeds < UNKNOWN_SEED).any():
        bad.append(f"a seed is {seeds.min()}")
    known = f"{unknown:,} of them without a known seed" if unknown else "each with its seed"
    tail = "" if ends[-1] else ", the last one open"
    return _finding("episodes", bad, f"{len(start):,} episodes tile the rows{tail}, {known}")


def _continuity(store: Store) -> Finding:
    """Within an episode each row leads to the next one; across an end, none does."""
    ends, torn, crossing = _ends(store), [], []
    for start, stop in _blocks(store):
        more = min(stop + 1, store.rows)
        before = store.arrays["observations"].read(start, more, finite=False)[1:]
        after = store.arrays["next_observations"].read(start, start + len(before), finite=False)
        joined = (before == after).all(axis=1)
        end = ends[start : start + len(before)]
        torn += (start + np.flatnonzero(~joined & ~end)).tolist()
        crossing += (start + np.flatnonzero(joined & end)).tolist()
    bad = []
    if torn:
        bad.append(
            f"next_observations is not the observation of the next row in {len(torn):,} rows "
            f"within episodes, the first is {torn[0]:,}"
        )
    if crossing:
        bad.append(
            f"a transition crosses into the next episode in {len(crossing):,} rows, "
            f"the first is {crossing[0]:,}"
        )
    return _finding("continuity", bad, "each row leads to the next, and none out of its episode")


def _rewards(store: Store) -> Finding:
    weights: dict[str, float] = store.attributes["terms"]
    if not store.layout.terms:
        good = "no reward terms are stored, so there is nothing to compare"
        return _finding("rewards", [], good)
    worst, at = 0.0, 0
    for start, stop in _blocks(store):
        rows = _rows(store, start, stop)
        try:
            found = relabel(rows, weights).rewards
        except UserError as error:
            return _finding("rewards", [str(error)], "")
        size = sum(abs(weights[k]) * np.abs(rows.reward_terms[k]) for k in weights)
        off = np.abs(found.astype(np.float64) - rows.rewards) / np.maximum(1e-3, size)
        row = int(np.argmax(off := np.nan_to_num(off, nan=np.inf)))
        if off[row] > worst:
            worst, at = float(off[row]), start + row
    seen = f"differ from the weighted sum of their terms by {worst:.1e} of its size (row {at:,})"
    bad = [] if worst <= REWARD_TOLERANCE else [f"rewards {seen}, allowed {REWARD_TOLERANCE:.1e}"]
    return _finding("rewards", bad, f"at worst, they {seen}; float32 allows {REWARD_TOLERANCE:.1e}")


def _actions(store: Store) -> Finding:
    for start, stop in _blocks(store):
        actions = store.arrays["actions"].read(start, stop, finite=False)
        outside = np.flatnonzero(~(np.abs(actions) <= 1).all(axis=1))
        if outside.size:
            row = int(outside[0])
            bad = f"row {start + row:,} holds {actions[row].tolist()}, outside [-1, 1]"
            return _finding("actions", [bad], "")
    return _finding("actions", [], "every action lies within [-1, 1]")


def _replay(store: Store, replay: Replay, sample: int, seed: int) -> Finding:
    if not (store.layout.nq and store.layout.nv):
        return _finding("replay", ["the store holds no qpos and qvel to replay from"], "")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(store.rows, min(sample, store.rows), replace=False))
    rows = Transitions.concatenate(
        [
            _rows(store, start, stop).rows(inside - start)
            for start, stop in _blocks(store)
            if (inside := chosen[(chosen >= start) & (chosen < stop)]).size
        ]
    )
    try:
        found = np.asarray(replay(rows), np.float64)
    except Exception as error:  # the simulator may refuse a damaged state in its own way
        return _finding("replay", [f"the simulator refuses the rows: {error}"], "")
    if found.shape != rows.next_observations.shape:
        bad = f"the replay gives {list(found.shape)}, expected {list(rows.next_observations.shape)}"
        return _finding("replay", [bad], "")
    size = np.maximum(1, np.abs(rows.next_observations))
    difference = (np.abs(found - rows.next_observations) / size).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
    seen = f"{len(rows):,} rows, the worst (row {chosen[worst]:,}) off by {difference[worst]:.1e}"
    bad_rows = int((~(difference <= REPLAY_TOLERANCE)).sum())
    wrong = [f"{bad_rows:,} of {seen}, allowed {REPLAY_TOLERANCE:.0e}"] if bad_rows else []
    return _finding("replay", wrong, f"replayed {seen}, allowed {REPLAY_TOLERANCE:.0e}")


def _finding(check: str, bad: list[str], good: str) -> Finding:
    """Report the first thing that is bad and how many more there are, or what is good."""
    if not bad:
        return Finding(check=check, passed=True, detail=good)
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return Finding(check=check, passed=False, detail=bad[0].rstrip(".") + more)


def _blocks(store: Store) -> Iterator[tuple[int, int]]:
    """Cut the rows by whole shards: (first row, row after the last)."""
    step = store.arrays["observations"].shard_rows
    for start in range(0, store.rows, step):
        yield start, min(start + step, store.rows)


def _rows(store: Store, start: int, stop: int) -> Transitions:
    """Read rows as they are, whether or not they are finite."""
    arrays = {name: store.arrays[name] for name in store.layout.columns()}
    return Transitions.of_arrays(read_arrays(arrays, start, stop, finite=False))


def _ends(store: Store) -> Flags:
    arrays = {name: store.arrays[name] for name in ("terminals", "timeouts")}
    flags = read_arrays(arrays, 0, store.rows, finite=False)
    return np.asarray(flags["terminals"] | flags["timeouts"], bool)
