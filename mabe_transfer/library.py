"""Datasets by name: where they lie, and what world each is from.

A name such as `hopper-ice-backward-expert` stands for `<data>/hopper-ice-backward-expert.zarr`;
`<data>` is `$MABE_TRANSFER_DATA`, or `data` in the working directory. A path or a URL works too,
and so does data by others: `d4rl:hopper-medium-v2`, `minari:mujoco/hopper/medium-v0`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mabe_transfer import bridges, domains
from mabe_transfer.catalogue import recipes
from mabe_transfer.domains import Domain, from_facts
from mabe_transfer.entries import QUALITIES
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.store import Store, StoreSummary, list_stores, open_store

CONVERTED = "converted"
"""Where, below the data root, data by others lies after its conversion."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A stored dataset together with the domain it was collected in."""

    name: str
    store: Store
    domain: Domain

    @property
    def content(self) -> str:
        """The hash of everything in it, as it was written."""
        return str(self.store.attributes["content_hash"])


def data_root() -> Path:
    """Where datasets lie by name."""
    return Path(os.environ.get("MABE_TRANSFER_DATA", "data"))


def named_stores() -> list[StoreSummary]:
    """Every complete dataset in the data folder; what is converted goes by what it came from.

    Raises:
        UserError: Where they should lie is a file.
    """
    root = data_root()
    if root.is_file():
        raise UserError(f"{root} is a file, and datasets lie in a folder; see $MABE_TRANSFER_DATA.")
    return [one for one in list_stores(root) if CONVERTED not in one.path.relative_to(root).parts]


def called(path: Path) -> str:
    """What finds a dataset of the data folder: its name or, where none does, its path."""
    return path.stem if path == data_root() / f"{path.stem}.zarr" else str(path)


def location(name: str) -> str | Path:
    """Where a dataset of this name, path or URL lies.

    Raises:
        UserError: The name stands for data in another format.
    """
    if bridges.is_foreign(name):
        raise UserError(f"{name} is data by others; nothing is written under such a name.")
    if name.endswith(bridges.HDF5_SUFFIXES):
        raise UserError(
            f"{name} is an HDF5 file; bring it in with: mabe-transfer data import {name} "
            "--env DOMAIN --name NAME"
        )
    if "://" in name:
        return name
    if name.endswith(".zarr") or "/" in name or Path(name).is_dir():
        return Path(name)
    return data_root() / f"{name}.zarr"


def open_dataset(name: str) -> Dataset:
    """Open a dataset by name, path or URL; data in another format is converted at its first use.

    Raises:
        UserError: There is none; the sentence says how to collect it where the name tells.
    """
    if bridges.is_foreign(name):
        found, where = bridges.open_foreign(name, data_root() / CONVERTED)
        return Dataset(name=name, store=found, domain=where)
    place = location(name)
    if isinstance(place, Path) and not place.exists():
        raise _absent(name)
    store = open_store(place)
    resolved = store.attributes["behaviour"].get("domain")
    if resolved is None:  # others recorded the data and said only where
        domain = domains.domain(store.attributes["domain"])
    else:
        domain = from_facts(resolved, f"{place}: domain")
    return Dataset(name=name, store=store, domain=domain)


def _absent(name: str) -> UserError:
    if name in recipes():
        return UserError(
            f"There is no dataset {name!r} in {data_root()}/; collect it with: "
            f"mabe-transfer collect --recipe {name}"
        )
    stored = [called(summary.path) for summary in named_stores()]
    for quality in sorted(QUALITIES, key=len, reverse=True):
        if name.endswith(f"-{quality}"):
            try:
                env = domains.domain(name.removesuffix(f"-{quality}")).name
            except UserError as error:
                if stored:  # whose nearest name says more than the nearest world's
                    break
                return UserError(f"There is no dataset {name!r} in {data_root()}/. {error}")
            return UserError(
                f"There is no dataset {name!r} in {data_root()}/; collect it with: "
                f"mabe-transfer collect --env {env} --quality {quality}"
            )
    return unknown("dataset", name, stored)
