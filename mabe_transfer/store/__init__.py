"""A data set at rest: a Zarr v3 group that is either complete or not there.

`StoreWriter` writes one and resumes after a kill, `open_store` reads one, `list_stores` finds them.
`format` says what a store holds, `places` where it lies, `shards` how its arrays are read.
"""

from mabe_transfer.store.format import FORMAT, UNKNOWN_SEED, VERSION, Layout
from mabe_transfer.store.reading import (
    Store,
    StoredEpisodes,
    StoreSummary,
    list_stores,
    open_store,
)
from mabe_transfer.store.whole import write_whole
from mabe_transfer.store.writing import StoreWriter

__all__ = [
    "FORMAT",
    "UNKNOWN_SEED",
    "VERSION",
    "Layout",
    "Store",
    "StoreSummary",
    "StoreWriter",
    "StoredEpisodes",
    "list_stores",
    "open_store",
    "write_whole",
]
