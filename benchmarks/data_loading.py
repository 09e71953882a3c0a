"""How fast training data gets into memory: our store, gzip HDF5 as D4RL has it, and Minari.

The same transitions, as many as asked for and shaped like a hopper's, are written three times. Then
each is read into five flat float32 or bool arrays (observations, actions, rewards, next
observations, terminals), in turn, and the median of the rounds counts. All files are in the page
cache; what is measured is decoding and copying, checksums and checks included where a format has
them.

    python benchmarks/data_loading.py [--rows 1000000] [--rounds 5] [--json FILE]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rounds import Comparison, machine

from mabe_transfer import runs
from mabe_transfer.store import Layout, StoreWriter, open_store
from mabe_transfer.transitions import Transitions

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminals")
POSITIONS, VELOCITIES, ACTIONS = 5, 6, 3
CONTROL_PERIOD_S = 0.008
EPISODE_ROWS = 1000  # at most; a hopper that falls has fewer
TARGETS = {"hdf5": 3.0, "minari": 6.0}

Fields = dict[str, NDArray[Any]]


def hopper_like(rows: int) -> Transitions:
    """Episodes of a random walk: velocities that decay, positions that integrate them.

    Args:
        rows: How many transitions.
    """
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    while (left := rows - sum(lengths)) > 0:
        lengths.append(min(left, int(rng.integers(100, EPISODE_ROWS + 1))))
    episodes = len(lengths)
    velocity = np.zeros((EPISODE_ROWS + 1, episodes, VELOCITIES))
    for t in range(EPISODE_ROWS):
        noise = rng.standard_normal((episodes, VELOCITIES))
        velocity[t + 1] = 0.95 * velocity[t] + 0.5 * noise
    position = np.cumsum(velocity[..., :POSITIONS] * CONTROL_PERIOD_S, axis=0)
    states = np.concatenate([position, velocity], axis=2, dtype=np.float32)
    kept = np.arange(EPISODE_ROWS)[None, :] < np.array(lengths)[:, None]
    observations = states[:-1].swapaxes(0, 1)[kept]
    next_observations = states[1:].swapaxes(0, 1)[kept]
    actions = np.tanh(observations[:, -ACTIONS:] + rng.standard_normal((rows, ACTIONS)))
    last = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[last] = np.array(lengths) < EPISODE_ROWS
    timeouts[last] = ~terminals[last]
    cost = 1e-3 * np.square(actions).sum(axis=1)
    return Transitions(
        observations=observations,
        actions=actions.astype(np.float32),
        rewards=(1 + observations[:, POSITIONS] - cost).astype(np.float32),
        next_observations=next_observations,
        terminals=terminals,
        timeouts=timeouts,
    )


def write_store(data: Transitions, folder: Path) -> Callable[[], Fields]:
    """Write our store; give what loads it."""
    path = folder / "store"
    attributes: dict[str, Any] = {
        "domain": "hopper",
        "quality": "random-walk",
        "terms": {},
        "behaviour": {},
        "recipe": {},
        "seed": 0,
        "versions": {},
    }
    with StoreWriter.open(path, Layout.of(data), attributes) as writer:
        writer.append(data, np.arange(len(data.episodes()), dtype=np.int64))
        writer.finish()

    def load() -> Fields:
        rows = open_store(path).load(states=False, terms=False)
        return {name: getattr(rows, name) for name in FIELDS}

    return load


def write_hdf5(data: Transitions, folder: Path) -> Callable[[], Fields]:
    """Write one HDF5 file with gzip, as D4RL does; give what loads it."""
    import h5py

    path = folder / "d4rl.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in data.arrays().items():
            file.create_dataset(name, data=array, compression="gzip")

    def load() -> Fields:
        with h5py.File(path, "r") as file:
            return {name: file[name][()] for name in FIELDS}

    return load


def write_minari(data: Transitions, folder: Path) -> Callable[[], Fields]:
    """Write a Minari data set through Minari; give what loads it."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    episodes = data.episodes()
    buffers = []
    for i, (start, length) in enumerate(zip(episodes.start, episodes.length, strict=True)):
        rows = data.rows(slice(int(start), int(start + length)))
        observations = np.concatenate([rows.observations, rows.next_observations[-1:]])
        buffers.append(
            EpisodeBuffer(
                id=i,
                seed=i,
                observations=observations,
                actions=rows.actions,
                rewards=rows.rewards,
                terminations=rows.terminals,
                truncations=rows.timeouts,
            )
        )
    width = data.observations.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an author and the like
        minari.create_dataset_from_buffers(
            "hopper/random-walk-v0",
            buffers,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32),
            action_space=gymnasium.spaces.Box(-1, 1, (ACTIONS,), np.float32),
            data_format="hdf5",
        )

    def load() -> Fields:
        found = list(minari.load_dataset("hopper/random-walk-v0").iterate_episodes())
        return {
            "observations": np.concatenate([e.observations[:-1] for e in found]),
            "actions": np.concatenate([e.actions for e in found]),
            "rewards": np.concatenate([e.rewards for e in found]),
            "next_observations": np.concatenate([e.observations[1:] for e in found]),
            "terminals": np.concatenate([e.terminations for e in found]),
        }

    return load


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Write everything once and read it in alternation.

    Returns:
        Per format its size (MB), its times (s) and their median, and the ratios to our store.
    """
    data = hopper_like(rows)
    writers = {"store": write_store, "hdf5": write_hdf5, "minari": write_minari}
    result: dict[str, Any] = {"rows": rows, "formats": {}}
    with tempfile.TemporaryDirectory() as name:
        loaders = {}
        for kind, write in writers.items():
            (folder := Path(name, kind)).mkdir()
            start = time.perf_counter()
            try:
                loaders[kind] = write(data, folder)
            except ImportError as error:
                print(f"{kind} is left out: pip install 'mabe-transfer[bench]' ({error}).")
                continue
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            took = time.perf_counter() - start
            result["formats"][kind] = {"write_s": took, "size_mb": size / 1e6, "load_s": []}
            for field, found in loaders[kind]().items():  # warms up, and compares fairly
                np.testing.assert_array_equal(found, getattr(data, field), strict=True)
        for _ in range(rounds):
            for kind, load in loaders.items():
                start = time.perf_counter()
                load()
                result["formats"][kind]["load_s"].append(time.perf_counter() - start)
    medians = {k: statistics.median(v["load_s"]) for k, v in result["formats"].items()}
    result["median_s"] = medians
    result["ratio"] = {k: medians[k] / medians["store"] for k in medians if k != "store"}
    return result


def compared(formats: dict[str, Any]) -> list[Comparison]:
    """The rows of the table that `report.py` prints."""
    return [
        Comparison(
            key="loading",
            against=against,
            unit="s",
            ours=tuple(formats["store"]["load_s"]),
            theirs=tuple(formats[kind]["load_s"]) if kind in formats else (),
            less_is_better=True,
            skipped="" if kind in formats else f"{against} is not installed",
        )
        for kind, against in (("hdf5", "gzip HDF5"), ("minari", "Minari"))
    ]


def main() -> None:
    """Measure, print a table and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is read")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    result = measure(arguments.rows, arguments.rounds)
    result |= {"script": "data_loading", "rounds": arguments.rounds, **machine()}
    result["transitions"] = result.pop("rows")
    result["rows"] = [row.to_json() for row in compared(result["formats"])]
    print(f"{'':8}{'load, s':>10}{'worst, s':>10}{'size, MB':>10}{'ratio':>8}{'wanted':>8}")
    for kind, seen in result["formats"].items():
        ratio = f"{result['ratio'][kind]:.1f}" if kind in result["ratio"] else ""
        wanted = f"{TARGETS[kind]:.0f}" if kind in TARGETS else ""
        median, worst = result["median_s"][kind], max(seen["load_s"])
        print(f"{kind:8}{median:10.3f}{worst:10.3f}{seen['size_mb']:10.1f}{ratio:>8}{wanted:>8}")
    if arguments.json:
        runs.write_json(arguments.json, result)
    slow = [kind for kind, ratio in result["ratio"].items() if ratio < TARGETS[kind]]
    if slow:
        sys.exit(f"The store is less far ahead of {' and '.join(slow)} than wanted.")


if __name__ == "__main__":
    main()
