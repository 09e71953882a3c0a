"""The bridges to data that others recorded: D4RL's HDF5 files, plain HDF5, and Minari.

`open_foreign` opens a data set by a name with a scheme. `survey` decides which rows of a recording
are whole, `terms` splits its rewards, `convert` writes it as a data set of our own, `export` gives
one of ours to others (`own` is what it carries beside), and `download` fetches D4RL's files.
`hdf5` reads files that it cannot trust.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mabe_transfer import domains
from mabe_transfer.bridges import convert, d4rl, download, export, minari, minari_export
from mabe_transfer.errors import UserError
from mabe_transfer.written import sha256

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain
    from mabe_transfer.store import Store

__all__ = [
    "HDF5_SUFFIXES",
    "SCHEMES",
    "bring_in",
    "d4rl",
    "download",
    "export",
    "is_foreign",
    "minari",
    "minari_export",
    "open_foreign",
]

SCHEMES = (d4rl.SCHEME, minari.SCHEME)
HDF5_SUFFIXES = (".hdf5", ".h5")


def is_foreign(name: str) -> bool:
    """Whether a name stands for data in another format, such as `d4rl:hopper-medium-v2`."""
    return name.startswith(SCHEMES)


def open_foreign(name: str, cache: Path) -> tuple[Store, Domain]:
    """Open data in another format, converted at its first use.

    Args:
        name: With one of `SCHEMES`.
        cache: Folder of converted data.

    Raises:
        UserError: There is no such data.
    """
    if name.startswith(d4rl.SCHEME):
        return d4rl.open_named(name, cache)
    return minari.open_named(name, cache)


def bring_in(
    source: str, domain: Domain | None, root: Path, *, name: str = "", quality: str = "recorded"
) -> Store:
    """Convert data by others to a data set under a name of its own.

    Args:
        source: Path of an HDF5 file with D4RL's keys, or `minari:<id>`.
        domain: Where it was recorded; None where the data says so itself.
        root: Where data sets lie.
        name: Of the data set; that of the file, or Minari's id with hyphens, if empty.
        quality: Of the behaviour.

    Raises:
        UserError: The data does not say where it was recorded and neither does the caller, it is
            not as it should be, or there is a data set of that name.
    """
    if "/" in name or name in (".", ".."):
        raise UserError(f"--name {name} must be a plain name; data sets lie in {root}/.")
    if source.startswith(minari.SCHEME):
        identity = source.removeprefix(minari.SCHEME)
        out = root / f"{name or identity.replace('/', '-')}.zarr"
        return minari.of_minari(identity, domain or minari.domain_named(identity), out)
    if source.startswith(d4rl.SCHEME):
        raise UserError(f"{source} needs no import: its name stands wherever a dataset's does.")
    path = Path(source)
    own = convert.read_own(path)
    if domain is None:
        if own is None:
            raise UserError(f"{path} does not say where it was recorded: name the domain by --env.")
        domain = domains.domain(str(own["attributes"].get("domain")))
    facts = {"format": "hdf5", "file": path.name, "sha256": sha256(path)}
    origin = convert.Origin(title=path.name, quality=quality, facts=facts)
    return convert.of_hdf5(path, domain, origin, root / f"{name or path.stem}.zarr")
