"""HDF5 files by others: every documented variation, row by row, and what is not such a file."""

from __future__ import annotations

import json
import resource
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from mabe_transfer import bridges, domains, transfer
from mabe_transfer.acquire import Request, acquire
from mabe_transfer.algorithms import MABE
from mabe_transfer.bridges import convert, d4rl, own, survey
from mabe_transfer.bridges.export import to_d4rl
from mabe_transfer.errors import UserError
from mabe_transfer.library import data_root, location, named_stores, open_dataset
from mabe_transfer.replay import resimulate
from mabe_transfer.store import list_stores
from mabe_transfer.transitions import relabel
from mabe_transfer.verify import verify
from mabe_transfer.written import sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mabe_transfer.domains import Domain
    from mabe_transfer.store import Store

HOPPER = domains.domain("hopper-d4rl")
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """What happened in some made-up episodes, with nothing left out.

    `following` is the true next observation of each row, `last` marks the last row of an episode.
    """

    arrays: Arrays
    following: Any
    last: Any = field(repr=False)


def played(
    domain: Domain = HOPPER, lengths: tuple[int, ...] = (7, 5, 9, 4), seed: int = 0
) -> Played:
    """Random walks of a robot's state; episodes end in a fall and by the clock in turn."""
    rng = np.random.default_rng(seed)
    sizes = (len(domain.robot.observation) + 1) // 2, len(domain.robot.action)
    parts: dict[str, list[Any]] = {}
    for number, length in enumerate(lengths):
        qpos = 1.0 + rng.normal(0.0, 0.1, (length + 1, sizes[0])).cumsum(axis=0)
        qvel = rng.normal(0.0, 6.0, (length + 1, sizes[0]))
        actions = rng.uniform(-1.0, 1.0, (length, sizes[1]))
        fell = np.arange(length) == (length - 1 if number % 2 == 0 else -1)
        terms = domain.reward_terms(qpos[:-1, 0], qpos[1:, 0], actions, fell)
        rows = {
            "observations": domain.observe(qpos, qvel)[:-1],
            "next_observations": domain.observe(qpos, qvel)[1:],
            "actions": actions,
            "rewards": domain.reward(terms),
            "terminals": fell,
            "timeouts": (np.arange(length) == length - 1) & ~fell,
            "infos/qpos": qpos[:-1],
            "infos/qvel": qvel[:-1],
            "infos/action_log_probs": rng.normal(size=length),
        }
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    following = arrays["next_observations"].astype(np.float32)
    return Played(arrays, following, arrays["terminals"] | arrays["timeouts"])


POLICY_LAYERS = {"fc0": (8, 11), "fc1": (8, 8), "last_fc": (3, 8), "last_fc_log_std": (3, 8)}


def policy_arrays(seed: int = 0) -> Arrays:
    """The policy that D4RL's medium and expert files carry, with 8 units a layer."""
    rng = np.random.default_rng(seed)
    found: Arrays = {
        "metadata/policy/nonlinearity": np.bytes_("relu"),
        "metadata/policy/output_distribution": np.bytes_("tanh_gaussian"),
    }
    for layer, shape in POLICY_LAYERS.items():
        found[f"metadata/policy/{layer}/weight"] = rng.normal(0, 0.5, shape).astype(np.float32)
        found[f"metadata/policy/{layer}/bias"] = rng.normal(0, 0.5, shape[0]).astype(np.float32)
    return found


def without(arrays: Arrays, *names: str) -> Arrays:
    return {name: values for name, values in arrays.items() if name not in names}


def single(arrays: Arrays) -> Arrays:
    """Numbers as float32, as all D4RL files but the replay sets have them."""
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}


INFOS = ("infos/qpos", "infos/qvel", "infos/action_log_probs")
METADATA = {"metadata/algorithm": np.bytes_("SAC"), "metadata/iteration": np.int32(3)}
# Each documented variation of a file, made of what happened.
VARIATIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "v0": lambda a: single(without(a, "next_observations", *INFOS)),
    "v1": lambda a: single(a) | METADATA | policy_arrays(),
    "v2": lambda a: single(a) | METADATA | policy_arrays(),
    "replay": lambda a: a | METADATA,
    "random": single,
    "no timeouts": lambda a: single(without(a, "timeouts")),
    "neither": lambda a: single(without(a, "timeouts", "next_observations", *INFOS)),
    "cut end": lambda a: {name: values[:-2] for name, values in single(a).items()},
    "cut v0": lambda a: {name: values[:-2] for name, values in VARIATIONS["v0"](a).items()},
    "columns": lambda a: {k: v[:, None] if v.ndim == 1 else v for k, v in single(a).items()},
    "one array in double": lambda a: single(a) | {"next_observations": a["next_observations"]},
    "flags as numbers": lambda a: a | {"terminals": a["terminals"].astype(np.uint8)},
}


def write(path: Path, arrays: Arrays) -> Path:
    """Write a file as D4RL does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            packed = {"compression": "gzip"} if np.ndim(values) else {}
            file.create_dataset(name, data=values, **packed)
    return path


def take_in(path: Path, env: str | None = "hopper-d4rl", name: str = "") -> Store:
    domain = domains.domain(env) if env else None
    return bridges.bring_in(str(path), domain, data_root(), name=name)


def source_rows(store: Store, what: Played) -> Any:
    """Which row of the file each row of a store was."""
    original = what.arrays["observations"].astype(np.float32)
    return np.array([np.flatnonzero((original == o).all(1))[0] for o in store.load().observations])


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_variation_keeps_whole_rows_and_joins_no_episodes(
    variation: str, tmp_path: Path
) -> None:
    lengths = (1000, 3, 5) if variation == "neither" else (7, 5, 9, 4)
    what = played(lengths=lengths)
    if variation == "neither":  # the limit ends the first, a fall the second
        what.arrays["terminals"][:] = False
        what.arrays["terminals"][1002] = True
    store = take_in(write(tmp_path / "a.hdf5", VARIATIONS[variation](what.arrays)))
    found, rows = store.load(), source_rows(store, what)
    complete = "next_observations" in VARIATIONS[variation](what.arrays)
    known = ~found.terminals | complete  # what follows a fall was simulated otherwise
    assert (found.next_observations == what.following[rows])[known].all()
    # Where an episode ends in the store it ends in the file, or the row after it was dropped.
    for end in rows[found.terminals | found.timeouts]:
        assert what.last[end] or end + 1 not in rows
    # Rows of one episode of the store are neighbours in one episode of the file.
    inside = ~(found.terminals | found.timeouts)[:-1]
    assert (np.diff(rows)[inside] == 1).all()
    assert not what.last[rows[:-1][inside]].any()
    cut = 2 if variation.startswith("cut") else 0
    dropped = 0 if complete else len(lengths) - int(found.terminals.sum())
    assert found.terminals.sum() > 0
    assert store.rows == sum(lengths) - cut - dropped
    findings = verify(store)
    assert [one for one in findings if not one.passed] == []
    assert store.layout.nq == (6 if "infos/qpos" in VARIATIONS[variation](what.arrays) else 0)


def six_rows() -> Arrays:
    """Rows 0-2 end in a fall, rows 3-4 by the clock, row 5 is cut off; observation i holds i."""
    height = np.arange(6, dtype=np.float32)
    following = np.array([1, 2, 70, 4, 71, 72], np.float32)
    return {
        "observations": np.repeat(height[:, None], 11, axis=1),
        "next_observations": np.repeat(following[:, None], 11, axis=1),
        "actions": np.array(
            [[0, 0, 0], [1, 0, 0], [1, 1, 1], [2, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32
        ),
        "rewards": np.array([3.0, 1.999, 0.997, 0.5, 1.0, 0.0], np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 0], np.bool_),
        "timeouts": np.array([0, 0, 0, 0, 1, 0], np.bool_),
    }


def test_six_rows_with_next_observations_by_hand(tmp_path: Path) -> None:
    found = take_in(write(tmp_path / "six.hdf5", six_rows())).load()
    assert found.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.next_observations[:, 0].tolist() == [1, 2, 70, 4, 71, 72]
    assert found.terminals.tolist() == [False, False, True, False, False, False]
    assert found.timeouts.tolist() == [False, False, False, False, True, False]
    # reward = forward + 1 - 0.001 |clip(a)|^2, the bonus also in the falling row 2
    assert found.reward_terms["healthy"].tolist() == [1, 1, 1, 1, 1, 1]
    assert found.reward_terms["control"] == pytest.approx([0, 0.001, 0.003, 0.001, 0, 0])
    forward = [2.0, 1.0, 0.0, -0.499, 0.0, -1.0]
    assert found.reward_terms["forward"] == pytest.approx(forward, abs=1e-7)
    assert found.episodes().length.tolist() == [3, 2, 1]


def test_six_rows_without_next_observations_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "six.hdf5", without(six_rows(), "next_observations"))
    store = take_in(path)
    found = store.load()
    assert found.observations[:, 0].tolist() == [0, 1, 2, 3]
    assert found.next_observations[:, 0].tolist() == [1, 2, pytest.approx(2.0, abs=0.1), 4]
    assert found.terminals.tolist() == [False, False, True, False]
    assert found.timeouts.tolist() == [False, False, False, True]
    assert found.rewards.tolist() == [3.0, np.float32(1.999), np.float32(0.997), 0.5]
    notes = store.attributes["behaviour"]["notes"]
    assert "rows dropped, since what follows is not known: 2" in notes
    assert "falls whose next observation is simulated: 1" in notes
    assert "actions reach 2, and every world and policy here acts within -1..1" in notes


def test_terminal_row_that_is_no_fall_in_simulation_is_dropped(tmp_path: Path) -> None:
    arrays = without(six_rows(), "next_observations")
    arrays["observations"][2] = [1.2, 0.1, *[0.0] * 9]  # upright and at rest
    store = take_in(write(tmp_path / "six.hdf5", arrays))
    assert store.load().observations[:, 0].tolist() == [0, 1, 3]
    notes = store.attributes["behaviour"]["notes"]
    assert "terminal ones among the dropped, which a critic misses: 1" in notes


@pytest.mark.parametrize(("name", "unclipped"), [("hopper-d4rl", 50), ("walker2d-d4rl", 3)])
def test_what_follows_a_fall_is_what_followed_it(name: str, unclipped: int, tmp_path: Path) -> None:
    """Real falls under random actions, written as D4RL's v0 has them."""
    domain = domains.domain(name)
    made = acquire(Request(domain=domain, quality="random", transitions=3_000)).load()
    arrays = {
        "observations": made.observations,
        "actions": made.actions,
        "rewards": made.rewards,
        "terminals": made.terminals,
    }
    found = take_in(write(tmp_path / "a.hdf5", arrays), name).load()
    wanted = made.next_observations[made.terminals]
    assert len(wanted) > 100
    assert found.terminals.sum() >= 0.99 * len(wanted)
    clip = domain.robot.velocity_clip
    inside = (np.abs(made.observations[made.terminals]) < clip).all(1)
    seen = {tuple(o): n for o, n in zip(found.observations, found.next_observations, strict=True)}
    off = [
        np.abs(seen[tuple(o)] - n).max()
        for o, n in zip(made.observations[made.terminals][inside], wanted[inside], strict=True)
        if tuple(o) in seen
    ]
    assert len(off) >= unclipped
    assert np.median(off) < 1e-4


def test_end_that_no_flag_marks_is_a_timeout(tmp_path: Path) -> None:
    arrays = six_rows()
    arrays["timeouts"][:] = False  # row 4 does not lead to row 5, and nothing says why
    found = take_in(write(tmp_path / "a.hdf5", arrays)).load()
    assert found.timeouts.tolist() == [False, False, False, False, True, False]


def test_successor_taken_from_the_next_episode_is_dropped(tmp_path: Path) -> None:
    arrays = six_rows()
    arrays["next_observations"] = np.concatenate(
        (arrays["observations"][1:], arrays["observations"][-1:])
    )  # what D4RL's own loader makes of it
    found = take_in(write(tmp_path / "a.hdf5", arrays)).load()
    assert found.observations[:, 0].tolist() == [0, 1, 3, 5]
    assert found.timeouts.tolist() == [False, True, True, False]


def test_reset_that_no_flag_marks_ends_an_episode_without_next_observations(
    tmp_path: Path,
) -> None:
    arrays = without(six_rows(), "next_observations", "timeouts")
    standing = np.array([1.25, *[0.0] * 10], np.float32)
    arrays["observations"][4] = standing + 0.004  # within the hopper's reset noise of 0.005
    found = take_in(write(tmp_path / "a.hdf5", arrays)).load()
    assert found.observations[:, 1].tolist() == [0, 1, 2, pytest.approx(0.004)]  # 3 is the last
    assert found.terminals.tolist() == [False, False, True, False]
    assert found.timeouts.tolist() == [False, False, False, True]


def test_states_of_other_rows_are_left_out(tmp_path: Path) -> None:
    arrays = VARIATIONS["v1"](played().arrays)
    arrays["infos/qpos"] = np.roll(arrays["infos/qpos"], 1, axis=0)
    store = take_in(write(tmp_path / "a.hdf5", arrays))
    assert (store.layout.nq, store.layout.nv) == (0, 0)
    assert any("qpos and qvel are left out" in n for n in store.attributes["behaviour"]["notes"])


def test_float64_positions_give_the_forward_term_where_the_step_is_known(tmp_path: Path) -> None:
    what = played()
    store = take_in(write(tmp_path / "a.hdf5", VARIATIONS["replay"](what.arrays)))
    x = what.arrays["infos/qpos"][:, 0]
    moved = (np.append(x[1:], np.nan) - x) / 0.008
    known = ~what.last
    assert (store.load().reward_terms["forward"] == moved.astype(np.float32))[known].all()


def test_blocks_do_not_change_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variation in ("v0", "replay"):
        path = write(tmp_path / f"{variation}.hdf5", VARIATIONS[variation](played().arrays))
        whole = take_in(path, name=f"{variation}-whole")
        with monkeypatch.context() as patch:
            patch.setattr("mabe_transfer.bridges.hdf5.BLOCK_ROWS", 3)
            pieces = take_in(path, name=f"{variation}-pieces")
        assert pieces.attributes["content_hash"] == whole.attributes["content_hash"]


def test_backward_rewards_follow_from_recorded_ones(tmp_path: Path) -> None:
    what = played()
    store = take_in(write(tmp_path / "a.hdf5", VARIATIONS["v2"](what.arrays)))
    cost = 1e-3 * (what.arrays["actions"] ** 2).sum(axis=1)
    backward = -what.arrays["rewards"] + 2.0 - 2.0 * cost  # algorithms.md 5.6
    weights = domains.domain("hopper-d4rl-backward").weights
    found = relabel(store.load(), weights).rewards
    assert found == pytest.approx(backward, rel=1e-5, abs=1e-5)


def collected() -> Store:
    """A store with everything in it: terms, states, seeds, and a last episode left open."""
    from mabe_transfer.acquire import Request, acquire

    domain = domains.domain("hopper-friction=0.5-backward")
    return acquire(Request(domain=domain, quality="random", transitions=120, out="mine.zarr"))


def test_round_trip_through_hdf5_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = collected()
    path = to_d4rl(store, tmp_path / "out" / "mine.hdf5")
    back = take_in(path, env=None, name="back")
    assert back.attributes["content_hash"] == store.attributes["content_hash"]
    for key in ("domain", "quality", "terms", "behaviour", "recipe", "seed", "versions"):
        assert back.attributes[key] == store.attributes[key]
    with pytest.raises(UserError, match="exists already"):
        to_d4rl(store, path)
    with pytest.raises(UserError, match="was exported from"):
        take_in(path, env="walker2d", name="wrong")


def test_export_has_the_keys_and_types_of_d4rl(tmp_path: Path) -> None:
    store = take_in(write(tmp_path / "a.hdf5", VARIATIONS["replay"](played().arrays)))
    with h5py.File(to_d4rl(store, tmp_path / "mine.hdf5")) as file:
        forms = {k: (file[k].dtype.name, file[k].shape) for k in D4RL_FORMS}
        assert forms == D4RL_FORMS
        assert all(file[k].compression == "gzip" for k in D4RL_FORMS)
        # as D4RL's loader does: every data set is read into memory by its key
        keys: list[str] = []
        file.visititems(lambda k, v: keys.append(k) if isinstance(v, h5py.Dataset) else None)
        assert all(file[k].shape == () or file[k][:] is not None for k in keys)


D4RL_FORMS = {
    "observations": ("float32", (25, 11)),
    "actions": ("float32", (25, 3)),
    "rewards": ("float32", (25,)),
    "terminals": ("bool", (25,)),
    "timeouts": ("bool", (25,)),
    "next_observations": ("float32", (25, 11)),
    "infos/qpos": ("float64", (25, 6)),
    "infos/qvel": ("float64", (25, 6)),
}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small files under the names of D4RL's, and a list of their hashes."""
    folder = tmp_path / "datasets"
    listed: dict[str, d4rl.Listed] = {}
    for version, variation in (("v0", "v0"), ("v2", "v2")):
        for quality in ("medium", "medium-replay"):
            name = f"hopper-{quality}-{version}"
            path = folder / d4rl.parse(name).file
            write(path, VARIATIONS[variation](played(seed=len(listed)).arrays))
            listed[name] = d4rl.Listed(
                path=f"gym_mujoco/{path.name}", bytes=path.stat().st_size, sha256=sha256(path)
            )
    monkeypatch.setattr(d4rl, "files", lambda: listed)
    monkeypatch.setenv(d4rl.VARIABLE, str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def test_catalogue_names_each_file_as_d4rl_does() -> None:
    names = d4rl.files()
    assert len(names) == 51  # 3 robots x (5 of v0, 6 of v1 and of v2)
    assert d4rl.parse("d4rl:hopper-medium-replay-v0").file == "hopper_mixed.hdf5"
    assert d4rl.parse("d4rl:walker2d-medium-replay-v0").file == "walker_mixed.hdf5"
    assert d4rl.parse("d4rl:walker2d-medium-expert-v2").file == "walker2d_medium_expert-v2.hdf5"
    assert d4rl.parse("d4rl:halfcheetah-full-replay-v1").listed.path == (
        "gym_mujoco_v1/halfcheetah_full_replay-v1.hdf5"
    )
    assert len({row.sha256 for row in names.values()}) == len(names)


def test_name_of_d4rl_opens_its_file_converted_once(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_dataset("d4rl:hopper-medium-v2")
    assert first.domain == HOPPER
    assert first.store.attributes["quality"] == "medium"
    assert first.store.attributes["behaviour"]["source"]["release"] == "v2"
    assert "Converting" in capsys.readouterr().err
    assert named_stores() == []  # it goes by its own name
    again = open_dataset("d4rl:hopper-medium-v2")
    assert again.store.location == first.store.location
    assert "Converting" not in capsys.readouterr().err


def test_releases_are_different_datasets(release: Path) -> None:
    old, new = (open_dataset(f"d4rl:hopper-medium-replay-{v}") for v in ("v0", "v2"))
    assert old.content != new.content
    assert old.store.location != new.store.location
    assert "v0" in old.store.location
    assert (old.store.layout.nq, new.store.layout.nq) == (0, 6)


def test_names_of_d4rl_stand_where_a_training_takes_datasets(release: Path) -> None:
    names = "d4rl:hopper-medium-v2", "d4rl:hopper-medium-replay-v2"
    found = transfer.sources(MABE, *names, None)
    assert found.target == HOPPER
    assert [found.real.name, found.prior.name if found.prior else ""] == list(names)
    backward = transfer.sources(MABE, *names, "hopper-d4rl-backward")
    rows = backward.data(found.real, torch.device("cpu")).rows
    assert (rows[:, 14].numpy() != found.real.store.load().rewards).all()


def test_another_file_under_the_name_of_d4rl_is_refused(release: Path) -> None:
    path = release / "hopper_medium-v2.hdf5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="its download was cut short"):
        open_dataset("d4rl:hopper-medium-v2")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="its SHA-256 is"):
        open_dataset("d4rl:hopper-medium-v2")
    assert list_stores(data_root()) == []


def test_absent_file_of_d4rl_says_how_to_get_it(release: Path) -> None:
    (release / "hopper_mixed.hdf5").unlink()
    with pytest.raises(UserError, match=r"no hopper_mixed\.hdf5 in .*data download d4rl:hopper"):
        open_dataset("d4rl:hopper-medium-replay-v0")


def test_unknown_name_of_d4rl_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match="Did you mean 'hopper-medium-v2'"):
        open_dataset("d4rl:hoper-medium-v2")


def test_path_of_an_hdf5_file_says_how_to_bring_it_in() -> None:
    with pytest.raises(UserError, match=r"data import mine\.hdf5 --env DOMAIN"):
        open_dataset("mine.hdf5")
    with pytest.raises(UserError, match="nothing is written under such a name"):
        location("d4rl:hopper-medium-v2")


def test_import_without_a_domain_asks_for_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", VARIATIONS["v2"](played().arrays))
    with pytest.raises(UserError, match="name the domain by --env"):
        take_in(path, env=None)
    with pytest.raises(UserError, match=r"observations has shape \[25, 11\], expected \[N, 17\]"):
        take_in(path, env="walker2d")


@pytest.mark.parametrize("exact", [False, True])
def test_rewards_of_another_rule_are_noticed(
    exact: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where displacements are known exactly, from which the forward term is taken."""
    arrays = played().arrays if exact else single(without(played().arrays, *INFOS))
    arrays["observations"][:, 5], arrays["next_observations"][:, 5] = -3.0, -3.0  # m/s
    if exact:  # what the states say is the backward run itself
        arrays["infos/qvel"][:, 0] = -3.0
        arrays["infos/qpos"][:, 0] = -3.0 * 0.008 * np.arange(len(arrays["infos/qpos"]))
    arrays["rewards"][:] = 1.0 + 3.0  # as of 3 m/s forward, while the robot ran backward
    found = take_in(write(tmp_path / "a.hdf5", arrays))
    assert bool(found.layout.nq) == exact
    assert "do not look like those of hopper-d4rl" in " ".join(capsys.readouterr().err.split())


# Malformed files: each kind of damage, done to a sound file at a place that a seed chooses.

KEYS = ("observations", "actions", "rewards", "terminals", "next_observations", "timeouts",
        "infos/qpos", "infos/qvel")  # fmt: skip


def replace_array(path: Path, key: str, **options: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        file.create_dataset(key, **options)


def truncated(path: Path, rng: np.random.Generator) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(rng.integers(0, len(whole)))])


def no_hdf5(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(0, 5000))))


def strings(path: Path, rng: np.random.Generator) -> None:
    replace_array(path, str(rng.choice(KEYS)), data=np.full(25, b"x"))


def objects(path: Path, rng: np.random.Generator) -> None:
    kind = h5py.vlen_dtype(np.float32) if rng.random() < 0.5 else h5py.string_dtype()
    replace_array(path, str(rng.choice(KEYS)), shape=(25,), dtype=kind)


def references(path: Path, rng: np.random.Generator) -> None:
    replace_array(path, str(rng.choice(KEYS)), shape=(25,), dtype=h5py.ref_dtype)


def compounds(path: Path, rng: np.random.Generator) -> None:
    kind = np.dtype([("a", "f4"), ("b", "V8")])
    replace_array(path, str(rng.choice(KEYS)), data=np.zeros(25, kind))


def complex_numbers(path: Path, rng: np.random.Generator) -> None:
    replace_array(path, "observations", data=np.zeros((25, 11), np.complex64))


def not_finite(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice([k for k in KEYS if k not in ("terminals", "timeouts")]))
    with h5py.File(path, "r+") as file:
        values = file[key][...]
        values.reshape(-1)[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf])
        file[key][...] = values


def too_large_for_float32(path: Path, rng: np.random.Generator) -> None:
    replace_array(path, "rewards", data=np.full(25, 1e300 * rng.uniform(0.1, 1.0)))


def no_flags(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice(["terminals", "timeouts"]))
    replace_array(path, key, data=rng.integers(2, 9, 25) * rng.choice([1.0, -1.0, np.nan]))


def missing(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        del file[str(rng.choice(KEYS[:4]))]


def wrong_length(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice(KEYS))
    with h5py.File(path) as file:
        values = file[key][...]
    cut = int(rng.integers(0, len(values)))
    replace_array(path, key, data=values[:cut] if rng.random() < 0.5 else np.repeat(values, 2, 0))


def wrong_axes(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice(KEYS))
    shape = tuple(int(n) for n in rng.integers(2, 5, int(rng.integers(3, 6))))
    replace_array(path, key, data=np.zeros(shape if rng.random() < 0.7 else (25, 2)))


def wrong_width(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice([k for k in KEYS if k not in ("rewards", "terminals", "timeouts")]))
    replace_array(path, key, data=np.zeros((25, int(rng.integers(12, 30)))))


def scalar(path: Path, rng: np.random.Generator) -> None:
    kind = int(rng.integers(0, 3))
    data: Any = (1.0, h5py.Empty("f"), np.zeros((0, 11)))[kind]
    replace_array(path, str(rng.choice(KEYS)), data=data)


def huge_never_written(path: Path, rng: np.random.Generator) -> None:
    rows = int(10 ** rng.uniform(5.5, 12))
    chunks = (4096, 11) if rng.random() < 0.5 else None
    replace_array(path, "observations", shape=(rows, 11), dtype="f4", chunks=chunks)


def huge_chunk(path: Path, rng: np.random.Generator) -> None:
    rows = int(rng.integers(20_000_000, 80_000_000))
    replace_array(
        path, "observations", shape=(rows, 11), dtype="f4", chunks=(rows, 11), compression="gzip"
    )


def group_instead(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        key = str(rng.choice(KEYS[:4]))
        del file[key]
        node = file.create_group(key)
        for _ in range(int(rng.integers(1, 300))):
            node = node.create_group("g")


def groups_within_groups(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "w") as file:
        for _ in range(int(rng.integers(1, 60))):
            file.create_group("/".join(str(n) for n in rng.integers(0, 9, 20)))


def linked_elsewhere(path: Path, rng: np.random.Generator) -> None:
    key = str(rng.choice(KEYS[:4]))
    with h5py.File(path, "r+") as file:
        del file[key]
        kind = int(rng.integers(0, 3))
        if kind == 0:
            file[key] = h5py.ExternalLink("/etc/hostname", "/x")
        elif kind == 1:
            file[key] = h5py.SoftLink(f"/{key}")  # to itself
        else:
            layout = h5py.VirtualLayout((25, 11), "f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "x", (25, 11))
            file.create_virtual_dataset("observations" if key == "observations" else key, layout)


def kept_elsewhere(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        del file["observations"]
        size = 25 * 11 * 4
        file.create_dataset(
            "observations", (25, 11), "f4", external=[("/proc/self/environ", 0, size)]
        )


def array_above(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        del file["infos"]
        file["infos"] = np.zeros(3)


LAYOUT = {"observation_size": 11, "action_size": 3}
GIVEN: dict[str, Any] = {
    "domain": "hopper-d4rl",
    "quality": "x",
    "terms": {},
    "behaviour": {},
    "recipe": {},
    "seed": None,
    "versions": {},
}
DAMAGED: tuple[Any, ...] = (
    [], {"layout": 3}, {"attributes": 3, "layout": LAYOUT}, {"attributes": {}, "layout": LAYOUT},
    {"attributes": {"domain": "hopper-d4rl"}, "layout": LAYOUT},
    {"attributes": GIVEN | {"domain": 4}, "layout": LAYOUT},
    {"attributes": GIVEN, "layout": 7},
    {"attributes": GIVEN, "layout": LAYOUT | {"observation_size": 1e9}},
    {"attributes": GIVEN, "layout": LAYOUT | {"observation_size": 99_999}},
    {"attributes": GIVEN, "layout": LAYOUT | {"terms": ["../x"]}},
    {"attributes": GIVEN, "layout": LAYOUT | {"terms": ["absent"]}},
    {"attributes": GIVEN, "layout": LAYOUT | {"nq": 6}},
    {"attributes": GIVEN, "layout": LAYOUT | {"nq": 5, "nv": 6}},
)  # fmt: skip


def damaged_export(path: Path, rng: np.random.Generator) -> None:
    texts = ("", "{", "\xff", "[" * 100_000, *map(json.dumps, DAMAGED))
    with h5py.File(path, "r+") as file:
        file[own.OWN] = np.bytes_(texts[int(rng.integers(len(texts)))].encode("latin-1"))


DAMAGE: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    truncated, no_hdf5, strings, objects, references, compounds, complex_numbers, not_finite,
    too_large_for_float32, no_flags, missing, wrong_length, wrong_axes, wrong_width, scalar,
    huge_never_written, huge_chunk, group_instead, groups_within_groups, linked_elsewhere,
    kept_elsewhere, array_above, damaged_export,
)  # fmt: skip


def expect_refusal(damage: Callable[..., None], seed: int, path: Path) -> None:
    """Damage a sound file and bring it in: a sentence that names the file, and nothing left."""
    write(path, VARIATIONS["v2"](played().arrays))
    damage(path, np.random.default_rng(seed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=path.name) as refusal:
        take_in(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: 1 GiB
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
    assert list_stores(data_root()) == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_malformed_file_ends_in_its_sentence(damage: Callable[..., None], tmp_path: Path) -> None:
    for seed in range(3):
        expect_refusal(damage, seed, tmp_path / f"bad{seed}.hdf5")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_thousand_malformed_files_end_in_their_sentences(
    damage: Callable[..., None], tmp_path: Path
) -> None:
    for seed in range(3, 3 + 44):  # 23 kinds x 44 = 1,012
        expect_refusal(damage, seed, tmp_path / f"bad{seed}.hdf5")


@pytest.mark.slow
def test_flipped_bytes_give_rows_or_a_sentence(tmp_path: Path) -> None:
    sound = write(tmp_path / "sound.hdf5", VARIATIONS["v2"](played().arrays)).read_bytes()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        bad = bytearray(sound)
        for at in rng.integers(0, len(bad), int(rng.integers(1, 20))):
            bad[at] ^= int(rng.integers(1, 256))
        path = tmp_path / f"flipped{seed}.hdf5"
        path.write_bytes(bad)
        with suppress(UserError):  # its sentence; whatever else it raises fails the test
            take_in(path)


@pytest.mark.parametrize(
    ("robot", "largest"), [("hopper", 2e-6), ("walker2d", 1e-4), ("halfcheetah", 1e-3)]
)
def test_recordings_by_others_come_in_relabel_and_replay(
    robot: str, largest: float, shared_data: Path, tmp_path: Path
) -> None:
    with np.load(shared_data / f"public_{robot}.npz") as file:
        wanted = file["legacy_engine"] & file["replay_exact"] & (file["source"] == 0)
        rows: Arrays = {name: file[name][:6000] for name in KEYS[:5]}
        ends = np.flatnonzero(np.diff(file["episode"][:6000]))
        wanted = wanted[:6000]
    domain = domains.domain(f"{robot}-d4rl")
    rows["timeouts"] = np.zeros(6000, np.bool_)
    rows["timeouts"][ends] = ~rows["terminals"][ends].astype(np.bool_)
    # Some recorders took the first observation of the next episode for an end's successor.
    joined = np.zeros(6000, np.bool_)
    joined[ends] = (rows["next_observations"][ends] == rows["observations"][ends + 1]).all(1)
    # The state is the observation with x, which follows from the rewards.
    healthy = domain.robot.reward.healthy_bonus
    cost = domain.robot.reward.control_cost * np.square(np.clip(rows["actions"], -1, 1)).sum(1)
    x = np.append(0.0, np.cumsum(rows["rewards"].astype(np.float64) - healthy + cost)[:-1])
    state = rows["observations"].astype(np.float64)
    middle = (state.shape[1] + 1) // 2
    rows["infos/qpos"] = np.column_stack(
        (domain.robot.control_timestep_s * x, state[:, : middle - 1])
    )
    rows["infos/qvel"] = state[:, middle - 1 :]
    store = take_in(write(tmp_path / "public.hdf5", rows), env=domain.name)
    found = store.load()
    assert store.rows == 6000 - joined.sum()
    findings = verify(store)
    assert [one for one in findings if not one.passed] == []
    backward = domain.with_task(domains.domain(f"{robot}-backward").task)
    expected = -found.rewards + 2.0 * healthy - 2.0 * found.reward_terms["control"]
    relabelled = relabel(found, backward.weights).rewards
    assert relabelled == pytest.approx(expected, rel=1e-4, abs=1e-4)
    kept = wanted[~joined] & ~found.timeouts & ~found.terminals
    chosen = np.flatnonzero(kept)[::15]
    replayed = resimulate(domain)(found.rows(chosen))
    off = np.abs(replayed - found.next_observations[chosen]).max(axis=1)
    assert np.median(off) < 1e-6
    assert off.max() < largest


def test_step_counter_ends_each_long_episode() -> None:
    ended = np.zeros(10, np.bool_)
    ended[[1, 9]] = True
    found = survey._limited(ended, 3)
    assert np.flatnonzero(found).tolist() == [1, 4, 7, 9]


def test_first_kept_rows_begin_episodes() -> None:
    keep = np.array([0, 1, 1, 0, 1, 1], np.bool_)
    ended = np.array([1, 0, 1, 1, 0, 1], np.bool_)
    assert convert.begins(keep, ended).tolist() == [False, True, False, False, True, False]
