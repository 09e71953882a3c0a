"""A data set of ours as an HDF5 file with D4RL's keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from mabe_transfer.bridges import own
from mabe_transfer.errors import UserError
from mabe_transfer.progress import Work
from mabe_transfer.store.format import GIVEN

if TYPE_CHECKING:
    from mabe_transfer.store import Store

CHUNK_ROWS = 4_096
# Where each array of ours stands in a D4RL file; a term of the reward under `infos/` as well.
KEYS = {"qpos": "infos/qpos", "qvel": "infos/qvel"}


def to_d4rl(store: Store, out: Path) -> Path:
    """Write an HDF5 file that D4RL's loader accepts, and that loses nothing.

    Terms of the reward, the episodes' seeds and our attributes travel along as `infos/reward_terms`
    and `metadata`, which D4RL's loader carries but does not use.

    Args:
        store: What to write.
        out: The file.

    Raises:
        UserError: The file exists, or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already, and nothing is ever overwritten.")
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            _fill(file, store)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}).") from None
    finally:
        partial.unlink(missing_ok=True)
    return out


def _fill(file: h5py.File, store: Store) -> None:
    arrays = {}
    for name, column in store.layout.columns().items():
        width = () if column.width is None else (column.width,)
        key = f"infos/{name}" if name.startswith("reward_terms/") else KEYS.get(name, name)
        arrays[name] = file.create_dataset(
            key,
            shape=(store.rows, *width),
            dtype=column.dtype,
            chunks=(min(CHUNK_ROWS, store.rows), *width),
            compression="gzip",
        )
    with Work(f"Exporting {Path(store.location).stem}", store.rows, "rows") as work:
        done = 0
        for block in store.stream():
            for name, values in block.arrays().items():
                arrays[name][done : done + len(block)] = values
            done += len(block)
            work.advance(len(block))
    given = {name: store.attributes[name] for name in GIVEN}
    file[own.OWN] = np.bytes_(own.to_text(store.layout, given))
    file[own.SEEDS] = store.episodes().seed
