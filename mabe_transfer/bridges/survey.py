"""Which rows of a recording are whole, and where its episodes end.

A file by others may lack `timeouts` and `next_observations`, may be cut in mid-episode, and may
hold ends that no flag marks. What follows a row is known if the file says so, or if the next row
goes on from it; that of a robot's fall can be simulated. What is not known is dropped, and no two
episodes are ever joined.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mabe_transfer import physics
from mabe_transfer.bridges.falls import landings
from mabe_transfer.bridges.hdf5 import Column, Hdf5, blocks
from mabe_transfer.errors import UserError
from mabe_transfer.transitions import Doubles, Episodes, Flags, Integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mabe_transfer.domains import Domain

NORMAL_BOUND = 8.0  # deviations of reset noise; one in 10^15 lies beyond
REACH = 1.001  # of actions: what is beyond is no rounding
STATE_TOLERANCE = 1e-4  # relative to max(1, |value|): states and observations may be float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The arrays of a D4RL file, checked; None where the file has none.

    Observation, action and state have the robot's sizes, and all arrays as many rows.
    """

    observations: Column
    actions: Column
    rewards: Column
    terminals: Column
    timeouts: Column | None
    next_observations: Column | None
    qpos: Column | None
    qvel: Column | None

    @property
    def rows(self) -> int:
        """N, as the file has them."""
        return self.observations.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What of a recording is kept, and as what.

    Attributes:
        keep: Rows whose next observation is known, [N].
        terminals: As recorded, [N].
        timeouts: As recorded, and true on each row after which the recording of an episode ends
            without a flag or goes on with a row that is not kept, [N].
        states: Whether the recorded states are those of the observations.
        notes: What was found and done, in sentences.
        falls: Kept rows whose next observation nobody recorded and was simulated, [n].
        landings: Those next observations, [n, O].
    """

    keep: Flags
    terminals: Flags
    timeouts: Flags
    states: bool
    notes: tuple[str, ...]
    falls: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    landings: Doubles = field(default_factory=lambda: np.zeros((0, 0)))

    def simulated(self, start: int, stop: int) -> tuple[Integers, Doubles]:
        """The falls among rows [start, stop), counted from `start`, and what follows them."""
        first, last = np.searchsorted(self.falls, (start, stop))
        return self.falls[first:last] - start, self.landings[first:last]


def recording(file: Hdf5, observation: int, action: int, states: tuple[int, int]) -> Recording:
    """Find D4RL's arrays in a file.

    Args:
        file: Opened.
        observation: O.
        action: A.
        states: nq and nv; (0, 0) if states are not wanted.

    Raises:
        UserError: An array that must be there is not, or one has another type or shape.
    """
    first = file.column("observations", width=observation)
    n = first.rows
    qpos = file.optional("infos/qpos", n, states[0]) if states[0] else None
    qvel = file.optional("infos/qvel", n, states[1]) if states[1] else None
    return Recording(
        observations=first,
        actions=file.column("actions", n, action),
        rewards=file.column("rewards", n),
        terminals=file.column("terminals", n),
        timeouts=file.optional("timeouts", n),
        next_observations=file.optional("next_observations", n, observation),
        qpos=qpos if qvel else None,
        qvel=qvel if qpos else None,
    )


def survey(found: Recording, domain: Domain) -> Survey:
    """Read a recording once, check every number, and decide what of it is kept.

    With next observations, a row that does not lead to the next one ends its episode, and a flagged
    end that leads to the next row had its successor taken from another episode: it is dropped.
    Without them, the next row is the successor unless a flag, the robot's time limit (only where
    the file has no `timeouts`, as D4RL's loader counts) or a row in the robot's reset
    distribution stands between; the last row before is dropped, unless it is a fall that happens
    again in simulation.

    Raises:
        UserError: A number is not finite, a flag no flag, or nothing is left.
    """
    terminals = found.terminals.flags()
    flagged = found.timeouts.flags() if found.timeouts else np.zeros(found.rows, np.bool_)
    resets = _resets(domain) if found.next_observations is None else None
    breaks, worst, far = np.zeros(found.rows, np.bool_), 0.0, 0.0
    for start, stop in blocks(found.rows):
        after = min(stop + 1, found.rows)
        here = found.observations.read(start, after, np.float64)
        far = max(far, float(np.abs(found.actions.read(start, stop, np.float32)).max()))
        found.rewards.read(start, stop, np.float32)
        inside = slice(start, start + len(here) - 1)
        if found.next_observations is not None:
            ahead = found.next_observations.read(start, stop, np.float32)[: len(here) - 1]
            breaks[inside] = (ahead != here[1:].astype(np.float32)).any(axis=1)  # as both are kept
        elif resets is not None:
            breaks[inside] = (np.abs(here[1:] - resets[0]) <= resets[1]).all(axis=1)
        worst = max(worst, _misfit(found, domain, here[: stop - start], start, stop))
    states = found.qpos is not None and worst <= STATE_TOLERANCE
    notes = []
    if far > REACH:
        notes.append(f"actions reach {far:.3g}, and every world and policy here acts within -1..1")
    if found.qpos is not None and not states:
        notes.append(f"qpos and qvel are left out: they miss the observations by {worst:.1e}")
    if found.next_observations is not None:
        return _with_next(terminals, flagged, breaks, states, notes)
    if found.timeouts is None:
        breaks = _limited(terminals | breaks, domain.robot.max_episode_steps)
        limit = domain.robot.max_episode_steps
        notes.append(f"no timeouts are recorded; an episode is taken to end after {limit:,} rows")
    return _without_next(found, domain, terminals, flagged, breaks, states, notes)


def _with_next(
    terminals: Flags, flagged: Flags, breaks: Flags, states: bool, notes: list[str]
) -> Survey:
    ended = terminals | flagged
    cuts = breaks & ~ended
    joined = ended & ~breaks
    joined[-1] = False  # after the last row, nothing shows what follows
    if cuts.any():
        notes.append(f"{cuts.sum():,} ends of recordings had no flag, and are timeouts")
    return _kept(~joined, terminals, flagged | cuts, states, notes)


def _without_next(
    found: Recording,
    domain: Domain,
    terminals: Flags,
    flagged: Flags,
    breaks: Flags,
    states: bool,
    notes: list[str],
) -> Survey:
    cuts = breaks & ~terminals & ~flagged
    cuts[-1] = not (terminals[-1] | flagged[-1])
    notes.append("no next observations are recorded; they are those of the next row")
    keep = ~(terminals | flagged | cuts)
    falls = np.flatnonzero(terminals) if domain.robot.native else np.zeros(0, np.int64)
    after, fallen = landings(found.observations, found.actions, falls, domain)
    keep[falls[fallen]] = True
    if fallen.any():
        notes.append(f"falls whose next observation is simulated: {fallen.sum():,}")
    seen = _kept(keep, terminals, flagged | cuts, states, notes)
    return replace(seen, falls=falls[fallen], landings=after[fallen])


def _kept(keep: Flags, terminals: Flags, timeouts: Flags, states: bool, notes: list[str]) -> Survey:
    """Mark the last kept row of each episode whose end is dropped."""
    if not keep.any():
        raise UserError(
            f"Of {len(keep):,} rows none is whole: what follows each is neither recorded nor the "
            "next row."
        )
    ended = terminals | timeouts
    before = np.zeros_like(keep)
    before[:-1] = keep[:-1] & ~ended[:-1] & ~keep[1:]
    if not keep.all():
        notes.append(f"rows dropped, since what follows is not known: {(~keep).sum():,}")
        if fallen := int((terminals & ~keep).sum()):
            notes.append(f"terminal ones among the dropped, which a critic misses: {fallen:,}")
    return Survey(
        keep=keep,
        terminals=terminals,
        timeouts=timeouts | before,
        states=states,
        notes=tuple(notes),
    )


def _limited(ended: Flags, limit: int) -> Flags:
    """Add an end after each `limit` rows of an episode, [N]."""
    found = ended.copy()
    episodes = Episodes.between(ended)
    for start, length in zip(episodes.start, episodes.length, strict=True):
        found[start + limit - 1 : start + length : limit] = True
    return found


def _resets(domain: Domain) -> tuple[Doubles, Doubles] | None:
    """Where the robot's episodes begin: the middle and the half-width of its observations, [O]."""
    if not domain.robot.native:
        return None
    data = mujoco.MjData(physics.build_model(domain))
    zero = np.zeros_like(data.qvel)
    reset = domain.robot.reset
    speed = reset.velocity_uniform + NORMAL_BOUND * reset.velocity_normal
    width = np.concatenate((np.full(len(data.qpos) - 1, reset.position_uniform), zero + speed))
    return domain.observe(data.qpos.copy(), zero), width + 1e-6


def _misfit(
    found: Recording, domain: Domain, observations: NDArray[np.float64], start: int, stop: int
) -> float:
    """By how much recorded states miss the observations in a block, relative; 0 without any."""
    if found.qpos is None or found.qvel is None:
        return 0.0
    qpos = found.qpos.read(start, stop, np.float64)
    qvel = found.qvel.read(start, stop, np.float64)
    if not domain.robot.native:
        return 0.0
    off = np.abs(domain.observe(qpos, qvel) - observations) / np.maximum(1.0, np.abs(observations))
    return float(off.max())
