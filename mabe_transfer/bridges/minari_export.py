"""A data set of ours as one of Minari's, with T + 1 observations an episode."""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer.bridges.minari import FAILURES, OWN, VARIABLE, folder, library, line, root
from mabe_transfer.bridges.own import to_text
from mabe_transfer.errors import UserError
from mabe_transfer.progress import Work
from mabe_transfer.store import UNKNOWN_SEED
from mabe_transfer.store.format import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mabe_transfer.domains import Domain
    from mabe_transfer.store import Store


def to_minari(store: Store, domain: Domain, identity: str) -> Path:
    """Write a data set as one of Minari's, which `minari.load_dataset` opens.

    The simulator's states, the terms of the reward and our attributes travel along, in `infos` and
    in the metadata, so that importing it again loses nothing.

    Args:
        store: What to write.
        domain: Where it was recorded.
        identity: Of the new data set: `(namespace/)(env/)name-v0`.

    Returns:
        Its folder.

    Raises:
        UserError: There is one already, Minari refuses the name, or a row does not lead to the
            next one.
    """
    minari = library()
    from gymnasium import spaces
    from gymnasium.envs.registration import EnvSpec

    from mabe_transfer.envs import ANY_DOMAIN

    target = folder(identity)
    if target.exists():
        raise UserError(f"{target} exists already, and nothing is ever overwritten.")
    spec = EnvSpec(
        id=ANY_DOMAIN,
        entry_point="mabe_transfer.envs:by_name",
        max_episode_steps=domain.robot.max_episode_steps,
        kwargs={"name": domain.name},
    )
    layout, reference = store.layout, domain.reference
    scores = (
        {"ref_min_score": reference.random, "ref_max_score": reference.expert}
        if (reference)
        else {}
    )
    with _elsewhere() as written:
        try:
            made = minari.create_dataset_from_buffers(
                identity,
                _buffers(store),
                env=spec,
                observation_space=spaces.Box(
                    -np.inf, np.inf, (layout.observation_size,), np.float32
                ),
                action_space=spaces.Box(-1.0, 1.0, (layout.action_size,), np.float32),
                algorithm_name=str(store.attributes["quality"]),
                author="mabe-transfer",
                data_format="hdf5",
                **scores,
            )
            own = {name: store.attributes[name] for name in GIVEN}
            made.storage.update_metadata({OWN: to_text(layout, own)})
        except UserError:
            raise
        except FAILURES as error:
            raise UserError(
                f"Minari refuses {identity!r}, expected a name such as mine/hopper/random-v0: "
                f"{line(error)}."
            ) from None
        _move(written, target, identity)
    return target


def _move(written: Path, target: Path, identity: str) -> None:
    """Give a finished data set its place, with what Minari keeps of the namespaces above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for inner in written.rglob("namespace_metadata.json"):
        kept = target.parents[len(Path(identity).parts) - 1] / inner.relative_to(written)
        if not kept.exists():
            inner.rename(kept)
    (written / identity).rename(target)


def _buffers(store: Store) -> Iterator[Any]:
    """The episodes of a store as Minari takes them, one at a time."""
    from minari.data_collector import EpisodeBuffer

    episodes = store.episodes()
    data = store.load()
    with Work("Exporting", store.rows, "rows") as work:
        for start, length, seed in zip(episodes.start, episodes.length, episodes.seed, strict=True):
            rows = data.rows(slice(int(start), int(start + length)))
            if (rows.next_observations[:-1] != rows.observations[1:]).any():
                raise UserError(
                    f"{store.location}: a row of the episode from row {start:,} does not lead to "
                    "the next one, and Minari keeps one observation for both."
                )
            extra: dict[str, Any] = {"reward_terms": dict(rows.reward_terms)}
            extra |= {} if rows.qpos is None else {"qpos": rows.qpos}
            extra |= {} if rows.qvel is None else {"qvel": rows.qvel}
            yield EpisodeBuffer(
                seed=None if seed == UNKNOWN_SEED else int(seed),
                observations=np.concatenate((rows.observations, rows.next_observations[-1:])),
                actions=rows.actions,
                rewards=rows.rewards,
                terminations=rows.terminals,
                truncations=rows.timeouts,
                infos={OWN: extra},
            )
            work.advance(int(length))


@contextmanager
def _elsewhere() -> Iterator[Path]:
    """Let Minari write into a folder beside its own, so that nothing half-written is found there.

    Its advice on optional facts, such as a link to code, is not passed on.
    """
    kept = os.environ.get(VARIABLE)
    written = root().with_name(f"{root().name}.{os.getpid()}.partial")
    os.environ[VARIABLE] = str(written)
    try:
        written.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield written
    finally:
        if kept is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = kept
        shutil.rmtree(written, ignore_errors=True)
