"""Where transitions come from: a behaviour policy in a domain, episode by episode.

Episode k of a collection depends on the collection's seed and k alone: it has its own reset stream
and its own action noise. Episodes run in blocks side by side and are written in their order, so an
interrupted collection goes on from its last whole shard with the same numbers.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer import runs
from mabe_transfer.behaviour import Policy
from mabe_transfer.config import Json
from mabe_transfer.domains import to_facts
from mabe_transfer.errors import Interrupted
from mabe_transfer.progress import Work
from mabe_transfer.store import Layout, Store, StoreWriter
from mabe_transfer.threads import one_thread
from mabe_transfer.transitions import Transitions
from mabe_transfer.worlds import World, world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mabe_transfer.domains import Domain

BLOCK = 64
"""Episodes run side by side; part of what a collection's numbers depend on."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a dataset: so many transitions of one policy."""

    policy: Policy
    transitions: int
    label: str


def collect(
    domain: Domain,
    shares: list[Share],
    *,
    seed: int,
    location: str | Path,
    facts: Json,
    title: str,
) -> Store:
    """Write a dataset of whole episodes, the last of each share cut at its count.

    Args:
        domain: Where the policies act.
        shares: Whose behaviour, and how much of each, in order.
        seed: Of the collection.
        location: Path or URL of the store.
        facts: Provenance to write beside the data: `quality`, `behaviour`, `recipe`.
        title: Of the progress bar.

    Raises:
        UserError: The location holds something else.
        Interrupted: The user asked to stop; the same command goes on.
    """
    simulation = world(domain, BLOCK)
    layout = Layout(
        observation_size=simulation.observation_size,
        action_size=simulation.action_size,
        nq=simulation.nq,
        nv=simulation.nv,
        terms=tuple(sorted(domain.weights)),
    )
    attributes = {
        "domain": domain.name,
        "terms": domain.weights,
        "seed": seed,
        "versions": runs.versions(),
        **facts,
        "behaviour": {**facts["behaviour"], "domain": to_facts(domain)},
    }
    total = sum(share.transitions for share in shares)
    writer = StoreWriter.open(location, layout, attributes)
    with writer, closing(simulation), one_thread(), runs.interruptible() as stop:
        with Work(title, total, "transitions", done=writer.resumed_rows) as work:
            for block in _blocks(simulation, shares, seed, writer.cursor):
                writer.append(block.rows, block.seeds, cursor=block.cursor)
                work.advance(len(block.rows))
                if stop.asked:
                    raise Interrupted(
                        f"Stopped at {work.done:,} of {total:,} transitions; the same command goes "
                        "on from the last whole shard."
                    )
        return writer.finish()


@dataclass(frozen=True, slots=True)
class Block:
    """Whole episodes in their order, and where the next block begins."""

    rows: Transitions
    seeds: np.ndarray[Any, np.dtype[np.int64]]
    cursor: Json


def _blocks(
    simulation: World, shares: list[Share], seed: int, cursor: Json | None
) -> Iterator[Block]:
    """Blocks of episodes from where `cursor` says, until every share is full."""
    first = cursor or {"share": 0, "episode": 0, "rows": 0}
    for index, share in enumerate(shares):
        if index < first["share"]:
            continue
        here = index == first["share"]
        episode, rows = (first["episode"], first["rows"]) if here else (0, 0)
        while rows < share.transitions:
            room = share.transitions - rows
            length = rows / episode if episode else simulation.domain.robot.max_episode_steps
            count = min(simulation.size, math.ceil(room / length))
            played = _play(simulation, share.policy, seed, index, range(episode, episode + count))
            kept, seeds = _cut(played, room)
            rows += len(kept)
            episode += count
            after = {"share": index, "episode": episode, "rows": rows}
            yield Block(kept, seeds, after)


def _play(
    simulation: World, policy: Policy, seed: int, share: int, episodes: range
) -> list[tuple[int, Transitions]]:
    """Run one block of episodes to their ends; gives each with its seed."""
    size, horizon = len(episodes), simulation.domain.robot.max_episode_steps
    keys = [_key(seed, share, episode) for episode in episodes]
    simulation.seed(keys + [0] * (simulation.size - size))  # copies beyond the block stand still
    draws = [np.random.default_rng((key, 1)) for key in keys]
    # The policy acts in every copy, so that its products have one shape and round in one way.
    noise = np.zeros((simulation.size, horizon, simulation.action_size))
    for own, draw in zip(noise, draws, strict=False):
        own[:] = draw.standard_normal(own.shape)
    alive, steps, who = np.arange(size), [], []
    while len(alive):
        clock = int(simulation.elapsed[alive[0]])
        action = policy.act(simulation.observation, noise[:, clock])
        steps.append(simulation.step(action[alive], alive))
        who.append(alive)
        alive = alive[~(steps[-1].terminated | steps[-1].truncated)]
    order = np.argsort(np.concatenate(who), kind="stable")

    def column(name: str, dtype: type) -> np.ndarray[Any, Any]:
        return np.concatenate([getattr(step, name) for step in steps])[order].astype(dtype)

    terminals = column("terminated", np.bool_)
    terms = {
        name: np.concatenate([step.terms[name] for step in steps])[order].astype(np.float32)
        for name in simulation.domain.weights
    }
    rows = Transitions(
        observations=column("observation", np.float32),
        actions=column("action", np.float32),
        rewards=column("reward", np.float32),
        next_observations=column("next_observation", np.float32),
        terminals=terminals,
        timeouts=column("truncated", np.bool_) & ~terminals,
        qpos=column("qpos", np.float64),
        qvel=column("qvel", np.float64),
        reward_terms=terms,
    )
    lengths = np.bincount(np.concatenate(who), minlength=size)
    ends = np.cumsum(lengths)
    return [
        (key, rows.rows(slice(end - length, end)))
        for key, length, end in zip(keys, lengths, ends, strict=True)
    ]


def _cut(
    played: list[tuple[int, Transitions]], room: int
) -> tuple[Transitions, np.ndarray[Any, np.dtype[np.int64]]]:
    """As many whole episodes as there is room for; the last one is cut, as by the clock."""
    kept: list[Transitions] = []
    seeds: list[int] = []
    for key, episode in played:
        if room <= 0:
            break
        part = episode.rows(slice(0, room))
        if len(part) < len(episode):
            part.timeouts[-1] = True
        kept.append(part)
        seeds.append(key)
        room -= len(part)
    return Transitions.concatenate(kept), np.array(seeds, dtype=np.int64)


def _key(seed: int, share: int, episode: int) -> int:
    """The seed of one episode, a non-negative 32-bit number."""
    return int(np.random.SeedSequence((seed, share, episode)).generate_state(1)[0])
