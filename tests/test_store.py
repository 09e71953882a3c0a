"""Stores: what is written is read back, a kill leaves something to resume, and damage is named.

Run as a script, this file is the driver of the kills: see `kill_and_resume`.
"""

import hashlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from mabe_transfer.errors import UserError
from mabe_transfer.store import (
    UNKNOWN_SEED,
    Layout,
    Store,
    StoreWriter,
    list_stores,
    open_store,
)
from mabe_transfer.store.partial import Partial
from mabe_transfer.store.places import Folder
from mabe_transfer.store.shards import pieces
from mabe_transfer.transitions import Transitions

LENGTHS = (5, 9, 1, 6)  # rows an episode; the last one is open
SHARD = 8  # rows: two whole shards and one of five rows
SEEDS = np.array([11, 12, UNKNOWN_SEED, 14], np.int64)
ATTRIBUTES: dict[str, Any] = {
    "domain": "hopper-ice",
    "quality": "medium",
    "terms": {"control": -0.1, "forward": 1.0},
    "behaviour": {"policy": "abc"},
    "recipe": {"transitions": 21},
    "seed": 0,
    "versions": {"mujoco": "3.17.0"},
}

Damage = Callable[[Path], object]


def example(**changes: Any) -> Transitions:
    """Four episodes. No chunk of timeouts but one is anything but False."""
    rng = np.random.default_rng(0)
    n = sum(LENGTHS)
    fields: dict[str, Any] = {
        "observations": rng.standard_normal((n, 2)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "next_observations": rng.standard_normal((n, 2)).astype(np.float32),
        "terminals": np.isin(np.arange(n), [4, 14]),
        "timeouts": np.isin(np.arange(n), [13]),
        "qpos": rng.standard_normal((n, 3)),
        "qvel": rng.standard_normal((n, 2)),
        "reward_terms": {name: np.ones(n, np.float32) for name in ("control", "forward")},
    }
    return Transitions(**fields | changes)


def bare() -> Transitions:
    """The same without states and terms."""
    return example(qpos=None, qvel=None, reward_terms={})


def attributes_of(data: Transitions, **changes: Any) -> dict[str, Any]:
    terms = {name: ATTRIBUTES["terms"][name] for name in data.reward_terms}
    return ATTRIBUTES | {"terms": terms} | changes


def begin(location: str | Path, data: Transitions, **changes: Any) -> StoreWriter:
    attributes = attributes_of(data, **changes)
    return StoreWriter.open(location, Layout.of(data), attributes, shard_rows=SHARD)


def write(location: str | Path, data: Transitions) -> Store:
    with begin(location, data) as writer:
        writer.append(data, SEEDS)
        return writer.finish()


def assert_same(one: Transitions, other: Transitions) -> None:
    assert one.arrays().keys() == other.arrays().keys()
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name], strict=True)


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a store, but for when it was written."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        if path == folder / "zarr.json":
            group = json.loads(raw)
            group["attributes"].pop("created")
            raw = json.dumps(group, sort_keys=True).encode()
        files[str(path.relative_to(folder))] = hashlib.sha256(raw).hexdigest()
    return files


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and waiting for the disk takes most of the time of a small store."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store, not to be changed."""
    return Path(write(tmp_path_factory.mktemp("written") / "store", example()).location)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A finished store to damage."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


# --- what is written is read back ---------------------------------------------------------------


def test_what_is_written_is_read_back(written: Path) -> None:
    assert_same(open_store(written).load(), example())


def test_attributes_are_read_back(written: Path) -> None:
    store = open_store(written)
    assert {name: store.attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert store.attributes["format"] == "mabe-transfer/transitions"
    assert store.attributes["version"] == 1
    assert store.attributes["rows"] == store.rows == 21
    assert store.attributes["complete"] is True
    assert store.layout == Layout.of(example())


def test_episodes_are_read_back(written: Path) -> None:
    episodes = open_store(written).episodes()
    assert episodes.start.tolist() == [0, 5, 14, 15]
    assert episodes.length.tolist() == [5, 9, 1, 6]
    assert episodes.returns.tolist() == [10.0, 81.0, 14.0, 105.0]
    assert episodes.seed.tolist() == [11, 12, -1, 14]


def test_store_needs_neither_states_nor_terms(tmp_path: Path) -> None:
    store = write(tmp_path / "bare", bare())
    assert store.layout == Layout(observation_size=2, action_size=1)
    assert_same(store.load(), bare())


def test_states_and_terms_can_stay_on_disk(written: Path) -> None:
    assert_same(open_store(written).load(states=False, terms=False), bare())


def test_all_that_is_called_complete_would_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: dict[str, bytes] = {}
    settle, complete = Folder.settle, Partial.complete

    def noted(self: Folder, keys: Iterable[str]) -> None:
        known = list(keys)
        settle(self, known)
        safe.update({key: (self.path / key).read_bytes() for key in known})

    def checked(self: Partial, *given: Any) -> None:
        assert isinstance(self.place, Folder)
        inside = {
            str(path.relative_to(self.place.path)): path.read_bytes()
            for path in self.place.path.rglob("*/*")
            if path.is_file() and b'"node_type": "group"' not in path.read_bytes()  # nobody's
        }
        assert inside == safe
        complete(self, *given)

    monkeypatch.setattr(Folder, "settle", noted)
    monkeypatch.setattr(Partial, "complete", checked)
    write(tmp_path / "store", example())
    assert "episodes/seed/c/0" in safe


@pytest.mark.parametrize("limit", [0, 1, 7, 8, 9, 21, 100])
def test_limit_takes_the_first_rows(written: Path, limit: int) -> None:
    assert_same(open_store(written).load(limit), example().rows(slice(limit)))


@pytest.mark.parametrize(
    ("rows", "expected"), [(None, [8, 8, 5]), (1, [8, 8, 5]), (9, [16, 5]), (99, [21])]
)
def test_stream_gives_whole_shards_that_tile_the_rows(
    written: Path, rows: int | None, expected: list[int]
) -> None:
    blocks = list(open_store(written).stream(rows))
    assert [len(block) for block in blocks] == expected
    assert_same(Transitions.concatenate(blocks), example())


def test_any_zarr_reads_the_store(written: Path) -> None:
    for name, array in example().arrays().items():
        found = zarr.open_array(written, path=name, mode="r")[...]
        np.testing.assert_array_equal(found, array, strict=True)


def test_every_array_is_sharded_compressed_and_checksummed(written: Path) -> None:
    group = zarr.open_group(written, mode="r", use_consolidated=False)
    arrays = [a for _, a in group.members(max_depth=None) if isinstance(a, zarr.Array)]
    assert len(arrays) == 14
    for array in arrays:
        assert array.shards is not None
        names = [type(codec).__name__ for codec in array.compressors]
        assert names == ["ZstdCodec", "Crc32cCodec"]


def test_metadata_is_not_consolidated(written: Path) -> None:
    assert "consolidated_metadata" not in json.loads((written / "zarr.json").read_text())


def test_chunks_of_zeros_are_stored_too(written: Path) -> None:
    assert sorted(p.name for p in (written / "timeouts" / "c").iterdir()) == ["0", "1", "2"]


def test_content_hash_is_over_names_types_shapes_and_bytes(written: Path) -> None:
    arrays = example().arrays() | {
        "episodes/start": np.array([0, 5, 14, 15], np.int64),
        "episodes/length": np.array([5, 9, 1, 6], np.int64),
        "episodes/return": np.array([10, 81, 14, 105], np.float32),
        "episodes/seed": SEEDS,
    }
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode() + array.tobytes())
    store = open_store(written)
    assert store.attributes["content_hash"] == digest.hexdigest()
    assert store.content_hash() == digest.hexdigest()


# --- appending ----------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_pieces_tile_the_rows_and_cross_no_shard(rows: int, before: int, shard: int) -> None:
    cut = list(pieces(rows, before, shard))
    assert [i for piece in cut for i in range(piece.start, piece.stop)] == list(range(rows))
    for piece in cut:
        assert (before + piece.start) // shard == (before + piece.stop - 1) // shard


@pytest.mark.parametrize("step", [1, 8, 13])
def test_append_in_pieces_equals_append_in_one_go(written: Path, tmp_path: Path, step: int) -> None:
    data = example()
    ends = data.terminals | data.timeouts
    begins = np.concatenate([[True], ends[:-1]])
    seeds = np.repeat(SEEDS, LENGTHS)
    with begin(tmp_path / "pieces", data) as writer:
        for start in range(0, len(data), step):
            rows = slice(start, start + step)
            writer.append(data.rows(rows), seeds[rows][begins[rows]])
        writer.finish()
    assert contents(tmp_path / "pieces") == contents(written)


def test_shards_do_not_change_the_content_hash(written: Path, tmp_path: Path) -> None:
    data = example()
    with StoreWriter.open(tmp_path / "big", Layout.of(data), attributes_of(data)) as writer:
        writer.append(data, SEEDS)
        store = writer.finish()
    assert store.content_hash() == open_store(written).content_hash()


def test_appended_rows_are_copied(tmp_path: Path) -> None:
    data = bare()
    buffer = data.rows(np.arange(len(data)))
    with begin(tmp_path / "copied", data) as writer:
        writer.append(buffer, SEEDS)
        buffer.observations[:] = 0
        assert_same(writer.finish().load(), data)


def test_rows_count_what_was_accepted(tmp_path: Path) -> None:
    with begin(tmp_path / "counted", bare()) as writer:
        writer.append(bare().rows(slice(0)), SEEDS[:0])
        assert writer.rows == 0
        writer.append(bare().rows(slice(5)), SEEDS[:1])
        assert (writer.rows, writer.resumed_rows, writer.cursor) == (5, 0, None)


@pytest.mark.parametrize("seeds", [SEEDS[:3], SEEDS.astype(np.int32), SEEDS[:, None]])
def test_seeds_that_do_not_fit_the_episodes_are_refused(tmp_path: Path, seeds: Any) -> None:
    with (
        begin(tmp_path / "seeds", bare()) as writer,
        pytest.raises(
            ValueError, match=r"4 episodes begin in these rows, so seeds must be int64 \[4\]"
        ),
    ):
        writer.append(bare(), seeds)


def test_rows_of_another_layout_are_refused(tmp_path: Path) -> None:
    with (
        begin(tmp_path / "layout", bare()) as writer,
        pytest.raises(ValueError, match=r"These rows have Layout\(.*nq=3"),
    ):
        writer.append(example(), SEEDS)


def test_number_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    rewards = example().rewards.copy()
    rewards[6] = np.inf
    with (
        begin(tmp_path / "finite", bare()) as writer,
        pytest.raises(UserError, match=r"finite: rewards is not finite at row 6\."),
    ):
        writer.append(bare().with_rewards(rewards), SEEDS)


def test_cursor_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with (
        begin(tmp_path / "cursor", bare()) as writer,
        pytest.raises(UserError, match="not plain JSON"),
    ):
        writer.append(bare(), SEEDS, cursor=object())


def test_store_without_rows_is_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "empty", bare()) as writer, pytest.raises(UserError, match="no rows"):
        writer.finish()


@pytest.mark.parametrize("rows", [0, 65_537, 100_000])
def test_shard_that_is_no_whole_number_of_chunks_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="shard_rows must be"):
        StoreWriter.open(tmp_path / "s", Layout.of(bare()), attributes_of(bare()), shard_rows=rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "0"}, "seed: expected int, got '0'"),
        ({"terms": {"control": "much", "forward": 1}}, "terms.control: expected float"),
        ({"versions": ["3.17"]}, "versions: expected a table"),
        ({"quality": None}, "quality: expected str"),
        ({"colour": "red"}, "no attribute of a data set 'colour'"),
        ({"behaviour": {"policy": np.zeros(2)}}, "not plain JSON"),
        ({"recipe": {"noise": np.nan}}, "not plain JSON"),
        ({"terms": {"forward": 1.0}}, "the layout holds"),
    ],
)
def test_attribute_that_readers_would_refuse_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        begin(tmp_path / "attributes", example(), **changes)
    assert list(tmp_path.iterdir()) == []


def test_missing_attribute_is_named(tmp_path: Path) -> None:
    attributes = attributes_of(bare())
    del attributes["recipe"]
    with pytest.raises(UserError, match="the attribute 'recipe' is missing"):
        StoreWriter.open(tmp_path / "attributes", Layout.of(bare()), attributes)


@pytest.mark.parametrize("name", ["../secret", "", "a b"])
def test_reward_term_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="A reward term cannot be called"):
        Layout(observation_size=1, action_size=1, terms=(name,))


def test_full_disk_says_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with begin(tmp_path / "full", bare()) as writer:
        writer.append(bare().rows(slice(5)), SEEDS[:1])
        writer.append(bare().rows(slice(5, 16)), SEEDS[1:])
        monkeypatch.setattr(zarr.Array, "__setitem__", full)
        with pytest.raises(UserError, match="No space left on device; 16 rows are safe"):
            writer.finish()


# --- never half a store -------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A store of which 14 rows are safe, since the third append filled the first shard only."""
    with begin(tmp_path / "store", bare()) as writer:
        writer.append(bare().rows(slice(5)), SEEDS[:1], cursor={"next": 1})
        writer.append(bare().rows(slice(5, 14)), SEEDS[1:2], cursor={"next": 2})
        writer.append(bare().rows(slice(14, 16)), SEEDS[2:], cursor=[3, "x"])
        writer.append(bare().rows(slice(16, 20)), SEEDS[:0], cursor="lost")
    return tmp_path / "store"


def test_interrupted_writing_resumes_from_its_last_whole_shard(interrupted: Path) -> None:
    with begin(interrupted, bare()) as writer:
        assert writer.resumed_rows == writer.rows == 16
        assert writer.cursor == [3, "x"]
        writer.append(bare().rows(slice(16, 21)), SEEDS[:0])
        assert_same(writer.finish().load(), bare())


def test_rows_of_an_append_that_crosses_a_shard_come_again(tmp_path: Path) -> None:
    with begin(tmp_path / "store", bare()) as writer:
        writer.append(bare().rows(slice(5)), SEEDS[:1], cursor="first")
        writer.append(bare().rows(slice(5, 14)), SEEDS[1:2], cursor="second")
    with begin(tmp_path / "store", bare()) as writer:
        assert (writer.resumed_rows, writer.cursor) == (5, "first")
        writer.append(bare().rows(slice(5, 21)), SEEDS[1:])
        assert_same(writer.finish().load(), bare())


def test_unfinished_store_is_not_there(interrupted: Path) -> None:
    assert not interrupted.exists()
    assert list_stores(interrupted.parent) == []


def test_opening_an_unfinished_store_says_where_it_resumes(interrupted: Path) -> None:
    with pytest.raises(
        UserError, match=r"store is still being written: 16 rows are safe in .*partial"
    ):
        open_store(interrupted)
    with pytest.raises(UserError, match="partial is still being written: 16 rows are safe"):
        open_store(interrupted.with_name("store.partial"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "begun with seed = 0, and now it is 1"),
        ({"versions": {"mujoco": "3.18"}}, "begun with versions.mujoco = '3.17.0', and now"),
        ({"recipe": {"transitions": 21, "x": 1}}, "begun with recipe.x = None, and now it is 1"),
    ],
)
def test_resuming_with_other_attributes_names_the_key(
    interrupted: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        begin(interrupted, bare(), **changes)


def test_resuming_with_another_layout_names_the_key(interrupted: Path) -> None:
    layout = Layout(observation_size=3, action_size=1)
    with pytest.raises(
        UserError, match=r"begun with layout\.observation_size = 2, and now it is 3"
    ):
        StoreWriter.open(interrupted, layout, attributes_of(bare()), shard_rows=SHARD)


def test_resuming_with_another_shard_names_the_key(interrupted: Path) -> None:
    with pytest.raises(UserError, match="begun with shard_rows = 8, and now it is 16"):
        StoreWriter.open(interrupted, Layout.of(bare()), attributes_of(bare()), shard_rows=16)


def test_finished_store_is_never_overwritten(written: Path) -> None:
    before = contents(written)
    with pytest.raises(UserError, match="exists already, and nothing is ever overwritten"):
        begin(written, example())
    assert contents(written) == before
    assert not written.with_name("store.partial").exists()


def test_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        begin(tmp_path / "mine", bare())


def test_partial_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "store.partial", attributes={"mine": True})
    with pytest.raises(UserError, match="not a data set of this project"):
        begin(tmp_path / "store", bare())


def test_second_writer_is_kept_out(tmp_path: Path) -> None:
    with (
        begin(tmp_path / "store", bare()),
        pytest.raises(UserError, match="is being written by another process"),
    ):
        begin(tmp_path / "store", bare())
    begin(tmp_path / "store", bare()).close()


def test_store_that_lacks_only_its_name_gets_it(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "store.partial")
    with pytest.raises(UserError, match="exists already"):
        begin(tmp_path / "store", example())
    assert contents(tmp_path / "store") == contents(written)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/store cannot be written: Not a directory"):
        begin(tmp_path / "file" / "store", bare())


def collect(path: Path) -> None:
    """What a collector does: whole episodes, and the number of the last one as its cursor."""
    data = bare()
    episodes = data.episodes()
    with begin(path, data) as writer:
        first = 0 if writer.cursor is None else writer.cursor + 1
        for i in range(first, len(episodes)):
            start = int(episodes.start[i])
            rows = data.rows(slice(start, start + int(episodes.length[i])))
            writer.append(rows, SEEDS[i : i + 1], cursor=i)
        writer.finish()


def die_at(root: Path, moment: int) -> list[int]:
    """Exit, without any cleaning up, before some change to the disk below `root`; count them."""
    count, lock = [0], threading.Lock()  # Zarr writes from several threads

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changing = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            changing = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if changing and str(arguments[0]).startswith(str(root)):
            with lock:
                if count[0] == moment:
                    os._exit(9)
                count[0] += 1

    sys.addaudithook(watch)
    return count


def in_a_child(path: Path, moment: int) -> int:
    """Collect in a process that dies at that moment; give what it exits with."""
    if (child := os.fork()) == 0:
        count = die_at(path.parent, moment)
        try:
            collect(path)
        except UserError as error:
            os._exit(0 if "exists already" in str(error) else 1)
        path.with_suffix(".count").write_text(str(count[0]))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_and_resume(root: Path, every: int) -> None:
    """Kill a collection at every so manieth change to the disk, twice, and let a third end it."""
    os.fsync = lambda handle: None  # type: ignore[assignment]
    assert in_a_child(root / "whole", sys.maxsize) == 0
    moments = int((root / "whole.count").read_text())
    for moment in range(0, moments, every):
        path = root / f"killed{moment}"
        codes = [
            in_a_child(path, moment),
            in_a_child(path, moment // 2 + 1),
            in_a_child(path, sys.maxsize),
        ]
        assert codes[0] == 9, codes
        assert codes[-1] == 0, codes


def assert_kills_leave_no_trace(root: Path, every: int) -> None:
    command = [sys.executable, __file__, str(root), str(every)]
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=900)
    whole = contents(root / "whole")
    killed = sorted(path for path in root.glob("killed*") if path.is_dir())
    assert len(killed) > 4
    assert [path.name for path in killed if contents(path) != whole] == []


def test_collection_killed_at_some_moments_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    assert_kills_leave_no_trace(tmp_path, 41)


@pytest.mark.slow
def test_collection_killed_at_any_moment_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    assert_kills_leave_no_trace(tmp_path, 1)


# --- damage is named ----------------------------------------------------------------------------


def attribute(name: str, value: Any) -> Damage:
    def damage(path: Path) -> None:
        group = json.loads((path / "zarr.json").read_text())
        group["attributes"][name] = value
        (path / "zarr.json").write_text(json.dumps(group))

    return damage


def metadata(array: str, name: str, value: Any) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads((path / array / "zarr.json").read_text())
        content[name] = value
        (path / array / "zarr.json").write_text(json.dumps(content))

    return damage


def number(array: str, row: int, value: float) -> Damage:
    def damage(path: Path) -> None:
        zarr.open_array(path, path=array, mode="r+")[row] = value

    return damage


def flip(array: str, byte: int) -> Damage:
    def damage(path: Path) -> None:
        raw = bytearray((path / array).read_bytes())
        raw[byte] ^= 0x10
        (path / array).write_bytes(raw)

    return damage


def cut(file: str, size: int) -> Damage:
    return lambda path: os.truncate(path / file, size)


def remove(name: str) -> Damage:
    return lambda path: shutil.rmtree(path / name)


def replace_by_objects(array: str) -> Damage:
    def damage(path: Path) -> None:
        shutil.rmtree(path / array)
        other = zarr.create_array(path, name=array, shape=(21, 1), dtype=str)
        other[...] = "__reduce__"

    return damage


def replace_by_gzip(array: str) -> Damage:
    def damage(path: Path) -> None:
        shutil.rmtree(path / array)
        zarr.create_array(path, name=array, data=np.zeros(21, np.float32), chunks=(8,))

    return damage


def shard_of(chunk: bytes) -> Damage:
    """Put a chunk with a right checksum, and an index with a right one, where rewards begin."""

    def damage(path: Path) -> None:
        stored = chunk + struct.pack("<I", google_crc32c.value(chunk))
        index = struct.pack("<QQ", 0, len(stored))
        end = struct.pack("<I", google_crc32c.value(index))
        (path / "rewards" / "c" / "0").write_bytes(stored + index + end)

    return damage


DAMAGES: list[tuple[Damage, str]] = [
    (shutil.rmtree, r"There is no data set .*copy\."),
    (lambda path: (path / "zarr.json").unlink(), r"is not a data set: it holds no Zarr v3 group\."),
    (lambda path: (path / "zarr.json").rename(path / ".zgroup"), "is a Zarr v2 group"),
    (cut("zarr.json", 100), "zarr.json is not JSON, so its writing was cut short"),
    (attribute("format", "other"), "is a Zarr group, but not a data set of this project"),
    (attribute("version", 2), "has format version 2, but this release reads version 1"),
    (attribute("complete", False), "is still being written: 21 rows are safe"),
    (attribute("rows", "many"), "rows: expected int, got 'many'"),
    (attribute("terms", [1]), r"terms: expected a table, got \[1\]"),
    (attribute("versions", {"mujoco": 3}), "versions.mujoco: expected str, got 3"),
    (attribute("layout", {"action_size": 1}), "layout: missing observation_size"),
    (remove("qpos"), "lacks the array 'qpos'"),
    (remove("reward_terms/forward"), "lacks the array 'reward_terms/forward'"),
    (remove("episodes/seed"), "lacks the array 'episodes/seed'"),
    (metadata("observations", "shape", [21, 3]), "observations is not encoded as the format says"),
    (
        metadata("observations", "shape", [20, 2]),
        r"observations has shape \[20, 2\], expected \[21, 2\]",
    ),
    (metadata("rewards", "shape", [22]), r"rewards has shape \[22\], expected \[21\]"),
    (metadata("episodes/seed", "shape", [3]), r"episodes/seed has shape \[3\], expected \[4\]"),
    (attribute("rows", 20), r"observations has shape \[21, 2\], expected \[20, 2\]"),
    (metadata("actions", "data_type", "float64"), "actions has data type 'float64', not 'float32'"),
    (replace_by_objects("actions"), "actions has data type 'string', not 'float32'"),
    (replace_by_gzip("rewards"), "rewards is not encoded as the format says"),
    (metadata("rewards", "codecs", []), "rewards is not encoded as the format says"),
    (metadata("rewards", "chunk_grid", None), "rewards is not encoded as the format says"),
    (flip("observations/c/1/0", 3), r"chunk 1 of observations \(rows 8 to 15\) is corrupted"),
    (flip("qvel/c/2/0", 9), r"chunk 2 of qvel \(rows 16 to 20\) is corrupted"),
    (flip("rewards/c/0", -6), r"shard 0 of rewards \(rows 0 to 7\) is corrupted: its index"),
    (cut("rewards/c/0", 10), "shard 0 of rewards .* is corrupted: its index"),
    (cut("rewards/c/0", 0), "shard 0 of rewards .* is corrupted: its index"),
    (
        lambda path: (path / "timeouts/c/1").unlink(),
        r"shard 1 of timeouts \(rows 8 to 15\) is missing",
    ),
    (shard_of(b"no zstandard frame"), "chunk 0 of rewards .* is corrupted: it does not decode"),
    (
        shard_of(zarr.codecs.ZstdCodec()._zstd_codec.encode(b"short")),
        "rewards is not finite at row 6",
    ),
    (number("next_observations", 17, np.nan), "next_observations is not finite at row 17"),
    (number("qpos", 3, -np.inf), "qpos is not finite at row 3"),
    (number("reward_terms/control", 20, np.inf), "reward_terms/control is not finite at row 20"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_named_in_one_sentence(copy: Path, damage: Damage, message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        open_store(copy).load()
    assert "\n" not in str(caught.value)


def test_damage_to_what_is_not_read_does_not_matter(copy: Path) -> None:
    flip("qpos/c/1/0", 3)(copy)
    assert_same(open_store(copy).load(states=False, terms=False), bare())


def test_attributes_that_others_added_do_not_matter(copy: Path) -> None:
    attribute("note", "mine")(copy)
    assert open_store(copy).attributes["note"] == "mine"


# --- lists --------------------------------------------------------------------------------------


def test_list_finds_finished_stores_below_a_folder(copy: Path) -> None:
    root = copy.parent
    shutil.copytree(copy, root / "deep" / "er")
    (found, other) = list_stores(root)
    assert (found.path, other.path) == (copy, root / "deep" / "er")
    assert (found.rows, found.domain, found.quality, found.seed) == (21, "hopper-ice", "medium", 0)
    assert found.content_hash == open_store(copy).attributes["content_hash"]


@pytest.mark.parametrize(
    "damage",
    [
        attribute("complete", False),
        attribute("version", 2),
        attribute("rows", None),
        lambda path: path.rename(path.with_name("copy.partial")),
        lambda path: (path / "zarr.json").write_text("{"),
    ],
)
def test_list_leaves_out_what_is_no_finished_store(copy: Path, damage: Damage) -> None:
    damage(copy)
    assert list_stores(copy.parent) == []


def test_working_folder_can_be_named_by_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\. is not a data set"):
        open_store(".")
    with pytest.raises(UserError, match=r"\. exists already"):
        begin(".", bare())


def test_list_of_no_folder_is_empty(tmp_path: Path) -> None:
    assert list_stores(tmp_path / "nowhere") == []


# --- object stores ------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    pytest.importorskip("obstore")
    return f"{request.param}://{tmp_path}/bucket"


def test_object_store_gives_back_what_was_written(url: str) -> None:
    write(url, example())
    assert_same(open_store(url).load(), example())


def test_object_store_holds_the_same_as_a_folder(written: Path, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    write(f"file://{tmp_path}/bucket", example())
    assert contents(tmp_path / "bucket") == contents(written)


def test_object_store_resumes_and_is_complete_only_at_the_end(url: str) -> None:
    with begin(url, bare()) as writer:
        writer.append(bare().rows(slice(14)), SEEDS[:2], cursor=1)
        writer.append(bare().rows(slice(14, 16)), SEEDS[2:], cursor=2)
    with pytest.raises(UserError, match="is still being written: 16 rows are safe"):
        open_store(url)
    with begin(url, bare()) as writer:
        assert (writer.resumed_rows, writer.cursor) == (16, 2)
        writer.append(bare().rows(slice(16, 21)), SEEDS[:0])
        assert_same(writer.finish().load(), bare())
    with pytest.raises(UserError, match="exists already"):
        begin(url, bare())


def test_object_store_without_a_data_set_says_so(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(UserError, match=r"^memory://nothing is not a data set"):
        open_store("memory://nothing")
    with pytest.raises(UserError, match=r"nothing cannot be used: .*") as caught:
        open_store(f"file://{tmp_path}/nothing")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def website(written: Path) -> Iterator[str]:
    """A web server that serves a store."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = partial(Quiet, directory=str(written.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/store"
        server.shutdown()


def test_store_on_a_website_can_be_read(website: str) -> None:
    pytest.importorskip("obstore")
    assert_same(open_store(website).load(), example())


def test_website_cannot_be_written() -> None:
    with pytest.raises(UserError, match="http://localhost/x can only be read"):
        begin("http://localhost/x", bare())


def test_url_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UserError, match=r"needs: pip install 'mabe-transfer\[cloud\]'"):
        open_store("s3://bucket/store")


def test_unknown_kind_of_url_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no kind of object store 's4'.*Did you mean 's3'"):
        open_store("s4://bucket/store")


if __name__ == "__main__":
    kill_and_resume(Path(sys.argv[1]), int(sys.argv[2]))
