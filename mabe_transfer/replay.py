"""Simulate stored rows again: does this engine still give what was recorded?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer.errors import UserError
from mabe_transfer.worlds import world

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabe_transfer.domains import Domain
    from mabe_transfer.transitions import Transitions

Floats = np.ndarray[Any, np.dtype[np.float64]]


def resimulate(domain: Domain) -> Callable[[Transitions], Floats]:
    """Give what replays rows in a domain: one control step from each stored state.

    Args:
        domain: Where the rows were collected.

    Returns:
        A function from rows with `qpos` and `qvel` to next observations, [n, O].
    """

    def replay(rows: Transitions) -> Floats:
        if rows.qpos is None or rows.qvel is None:
            raise UserError("These rows hold no qpos and qvel, so they cannot be simulated again.")
        simulation = world(domain, len(rows))
        simulation.set_state(rows.qpos, rows.qvel)
        after = simulation.step(rows.actions).next_observation
        simulation.close()
        return after

    return replay
