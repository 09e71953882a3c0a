"""Writing what is in memory whole, at a place where an interrupted writing may have begun."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mabe_transfer.store.format import UNKNOWN_SEED, Layout
from mabe_transfer.store.places import Location
from mabe_transfer.store.reading import Store
from mabe_transfer.store.writing import StoreWriter
from mabe_transfer.transitions import Transitions


def write_whole(
    location: Location, transitions: Transitions, attributes: Mapping[str, Any]
) -> Store:
    """Write all rows of a data set, or those that an interrupted writing of it lacks.

    The seeds of its episodes are not known. Arguments and errors are `StoreWriter.open`'s.
    """
    begins = np.concatenate(([True], (transitions.terminals | transitions.timeouts)[:-1]))
    with StoreWriter.open(location, Layout.of(transitions), attributes) as writer:
        left = slice(writer.resumed_rows, None)
        seeds = np.full(int(begins[left].sum()), UNKNOWN_SEED, dtype=np.int64)
        writer.append(transitions.rows(left), seeds)
        return writer.finish()
