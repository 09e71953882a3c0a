"""What follows a fall that nobody recorded: one step of simulation.

Files without next observations end each episode with a row whose successor is unknown. A fall is
such a row, and a critic that never sees one does not learn that falling ends everything. Its
successor needs no record: the observation is the state, but for the place on the track, on which
nothing depends, and for velocities beyond the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer.bridges.hdf5 import blocks
from mabe_transfer.worlds import sizes, world

if TYPE_CHECKING:
    from mabe_transfer.batched import Step
    from mabe_transfer.bridges.hdf5 import Column
    from mabe_transfer.domains import Domain
    from mabe_transfer.transitions import Doubles, Flags, Floats, Integers
    from mabe_transfer.worlds import World

COPIES = 256  # simulated together


def landings(
    observations: Column, actions: Column, rows: Integers, domain: Domain
) -> tuple[Doubles, Flags]:
    """Simulate one control step from some rows of a recording.

    Args:
        observations: Of the recording, [N, O].
        actions: Likewise, [N, A].
        rows: Which, in rising order, [n].
        domain: Of a native robot, where it was recorded.

    Returns:
        The next observations, [n, O], and whether the robot has fallen there or may have, since a
        velocity was clipped, [n].
    """
    after = np.empty((len(rows), sizes(domain)[0]))
    fallen = np.zeros(len(rows), np.bool_)
    if not len(rows):
        return after, fallen
    simulation = world(domain, min(COPIES, len(rows)))
    nq, clip = simulation.nq, domain.robot.velocity_clip
    for start, stop in blocks(observations.rows):
        first, last = np.searchsorted(rows, (start, stop))
        seen = observations.read(start, stop, np.float64)[rows[first:last] - start]
        acted = actions.read(start, stop, np.float32)[rows[first:last] - start]
        for some in range(0, last - first, simulation.size):
            part = slice(some, some + simulation.size)
            step = _step(simulation, seen[part], acted[part])
            there = slice(first + some, first + some + len(step.terminated))
            after[there] = step.next_observation
            fallen[there] = step.terminated | (np.abs(seen[part, nq - 1 :]) >= clip).any(1)
    simulation.close()
    return after, fallen


def _step(simulation: World, observations: Doubles, actions: Floats) -> Step:
    """One control step from observations [n, O], at most as many as there are copies."""
    count = len(observations)
    qpos = np.zeros((simulation.size, simulation.nq))
    qvel = np.zeros((simulation.size, simulation.nv))
    qpos[:count, 1:], qvel[:count] = np.split(observations, [simulation.nq - 1], axis=1)
    simulation.set_state(qpos, qvel)
    return simulation.step(actions, np.arange(count))
