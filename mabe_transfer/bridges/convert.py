"""From a D4RL file to a data set of our own, block by block and resumable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mabe_transfer import __version__, physics
from mabe_transfer.bridges import terms
from mabe_transfer.bridges.hdf5 import Hdf5, blocks
from mabe_transfer.bridges.own import OWN, SEEDS, facts_of, layout_of
from mabe_transfer.bridges.survey import Recording, Survey, recording, survey
from mabe_transfer.config import Json
from mabe_transfer.domains import Domain, to_facts
from mabe_transfer.errors import UserError
from mabe_transfer.progress import Work, notice
from mabe_transfer.store import UNKNOWN_SEED, Layout, Store, StoreWriter
from mabe_transfer.store.writing import CHUNK_ROWS, SHARD_ROWS
from mabe_transfer.transitions import Doubles, Flags, Floats, Integers, Transitions
from mabe_transfer.worlds import sizes

if TYPE_CHECKING:
    from pathlib import Path

RULES = 2
"""Of this conversion; a cached result of other rules is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is said of data that others recorded.

    Attributes:
        title: For people: "D4RL hopper-medium-v2".
        quality: Of the behaviour.
        facts: Plain JSON: the file's hash and so on.
    """

    title: str
    quality: str
    facts: Json


def given(domain: Domain, origin: Origin, names: tuple[str, ...], notes: tuple[str, ...]) -> Json:
    """The attributes of a converted data set, see `store.format.GIVEN`."""
    return {
        "domain": domain.name,
        "quality": origin.quality,
        "terms": {name: domain.weights[name] for name in names},
        "seed": None,
        "versions": {"mabe-transfer": __version__, "h5py": h5py.__version__},
        "recipe": {},
        "behaviour": {
            "policy": origin.title,
            "domain": to_facts(domain),
            "shares": [origin.title],
            "source": {**origin.facts, "rules": RULES},
            "notes": list(notes),
        },
    }


def of_hdf5(path: Path, domain: Domain, origin: Origin, out: Path) -> Store:
    """Convert an HDF5 file with D4RL's keys.

    Args:
        path: The file.
        domain: Where it was recorded.
        origin: What is said of it.
        out: The store to write.

    Raises:
        UserError: The file is not such a file, a number in it is not finite, or `out` exists.
    """
    with Hdf5(path) as file:
        if file.text(OWN) is not None:
            return _own(file, domain, out)
        observation, action = sizes(domain)
        found = recording(file, observation, action, _states(domain))
        seen = survey(found, domain)
        layout = Layout(
            observation_size=observation,
            action_size=action,
            nq=_states(domain)[0] if seen.states else 0,
            nv=_states(domain)[1] if seen.states else 0,
            terms=terms.names(domain),
        )
        attributes = given(domain, origin, layout.terms, seen.notes)
        for note in seen.notes:
            notice(f"{origin.title}: {note}.")
        return _write(found, domain, seen, layout, attributes, out)


def read_own(path: Path) -> Json | None:
    """The attributes that an export of ours carries; None for a file by others.

    Raises:
        UserError: They are damaged.
    """
    with Hdf5(path) as file:
        text = file.text(OWN)
        return None if text is None else facts_of(text, f"{path}: {OWN}")


def _own(file: Hdf5, domain: Domain, out: Path) -> Store:
    """Take an export of ours back, number by number."""
    facts = facts_of(file.text(OWN) or "", f"{file.name}: {OWN}")
    layout = layout_of(facts, f"{file.name}: {OWN}")
    if facts["attributes"].get("domain") != domain.name:
        raise UserError(
            f"{file.name} was exported from {facts['attributes'].get('domain')}, not {domain.name}."
        )
    states = (layout.nq, layout.nv) if layout.nq and layout.nv else (0, 0)
    found = recording(file, layout.observation_size, layout.action_size, states)
    if found.timeouts is None or found.next_observations is None or bool(found.qpos) != any(states):
        raise UserError(f"{file.name} was exported by mabe-transfer and has lost arrays since.")
    seen = Survey(
        keep=np.ones(found.rows, np.bool_),
        terminals=found.terminals.flags(),
        timeouts=found.timeouts.flags(),
        states=bool(found.qpos),
        notes=(),
    )
    return _write(found, domain, seen, layout, facts["attributes"], out, own=file)


def _write(
    found: Recording,
    domain: Domain,
    seen: Survey,
    layout: Layout,
    attributes: Json,
    out: Path,
    own: Hdf5 | None = None,
) -> Store:
    begun = begins(seen.keep, seen.terminals | seen.timeouts)
    seeds = _seeds(own, int(begun.sum()))
    before = np.concatenate(([0], np.cumsum(begun)))
    strange: list[Floats] = []
    rows = int(seen.keep.sum())
    with StoreWriter.open(out, layout, attributes, shard_rows=shards(rows)) as writer:
        begun_with = writer.cursor or {"row": 0, "size": found.rows}
        if begun_with["size"] != found.rows:
            raise UserError(f"{out} was begun with another file: delete {out}.partial first.")
        first = int(begun_with["row"])
        with Work(f"Converting {out.stem}", found.rows, "rows", done=first) as work:
            for start, stop in blocks(found.rows, first):
                keep = seen.keep[start:stop]
                block = _rows(found, domain, seen, layout, start, stop, own)
                if own is None and "forward" in block.reward_terms:
                    odd = terms.strangeness(domain, block)
                    strange.append(odd[:: max(1, len(odd) // 1000)].astype(np.float32))
                if keep.any():
                    writer.append(
                        block,
                        seeds[before[start] : before[stop]],
                        cursor={"row": stop, "size": found.rows},
                    )
                work.advance(stop - start)
        store = writer.finish()
    if strange and (off := float(np.median(np.concatenate(strange)))) > terms.SPEED_TOLERANCE_M_S:
        notice(
            f"The rewards do not look like those of {domain.name}: the forward term is off the "
            f"observed velocity by {off:.2f} m/s in the median. Is the domain right?"
        )
    return store


def shards(rows: int) -> int:
    """Rows a shard of a store whose length is known: one shard for a short one."""
    return rows if rows < CHUNK_ROWS else SHARD_ROWS


def begins(keep: Flags, ended: Flags) -> Flags:
    """Which rows are the first kept ones of their episodes, [N]."""
    kept = np.flatnonzero(keep)
    first = np.zeros_like(keep)
    if len(kept):
        first[kept[0]] = True
        first[kept[1:]] = ended[kept[:-1]]
    return first


def _seeds(own: Hdf5 | None, episodes: int) -> Integers:
    found = own.optional(SEEDS, episodes) if own is not None else None
    if found is None:
        return np.full(episodes, UNKNOWN_SEED, np.int64)
    return found.read(0, episodes, np.int64).astype(np.int64)


def _rows(
    found: Recording,
    domain: Domain,
    seen: Survey,
    layout: Layout,
    start: int,
    stop: int,
    own: Hdf5 | None,
) -> Transitions:
    """The kept rows of a block."""
    keep, after = seen.keep[start:stop], min(stop + 1, found.rows)
    observations = found.observations.read(start, after, np.float32)
    count = stop - start
    if found.next_observations is not None:
        following = found.next_observations.read(start, stop, np.float32)
    else:
        following = observations[1:]
        if len(following) < count:  # the last row of the file, which is not kept
            following = np.concatenate((following, observations[-1:]))
        falls, landings = seen.simulated(start, stop)
        following = following.copy()  # the next rows themselves stay as they are
        following[falls] = landings
    actions = found.actions.read(start, stop, np.float32)
    rewards = found.rewards.read(start, stop, np.float64)
    terminals = seen.terminals[start:stop]
    states: dict[str, Doubles] = {}
    if seen.states and found.qpos is not None and found.qvel is not None:
        states = {
            "qpos": found.qpos.read(start, stop, np.float64),
            "qvel": found.qvel.read(start, stop, np.float64),
        }
    if own is not None:
        of_reward = {
            name: own.column(f"infos/reward_terms/{name}", found.rows).read(start, stop, np.float32)
            for name in layout.terms
        }
    else:
        moved = _displacement(found, seen, start, stop) if states else None
        of_reward = terms.of_rewards(domain, actions, rewards, terminals, moved)
    block = Transitions(
        observations=observations[:count],
        actions=actions,
        rewards=rewards.astype(np.float32),
        next_observations=following,
        terminals=terminals,
        timeouts=seen.timeouts[start:stop],
        reward_terms=of_reward,
        **states,
    )
    return block.rows(keep)


def _displacement(found: Recording, seen: Survey, start: int, stop: int) -> Doubles | None:
    """How far each step went by float64 positions, m; NaN at ends and where they are coarser."""
    if found.qpos is None or not found.qpos.exact:
        return None  # of a float32 position 10 m away, the reward would keep 1e-4 m/s
    x: Any = found.qpos.read(start, min(stop + 1, found.rows), np.float64)[:, 0]
    moved: Doubles = np.full(stop - start, np.nan)
    moved[: len(x) - 1] = np.diff(x)
    moved[(seen.terminals | seen.timeouts)[start:stop]] = np.nan
    return moved


def _states(domain: Domain) -> tuple[int, int]:
    if not domain.robot.native:
        return 0, 0
    model = physics.build_model(domain)
    return model.nq, model.nv
