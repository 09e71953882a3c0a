"""Minari's data sets by name: `minari:mujoco/hopper/medium-v0`.

Minari keeps an episode of T steps as T + 1 observations, with terminations and truncations apart;
here each step is a row with its own next observation. Needs `pip install 'mabe-transfer[minari]'`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mabe_transfer import domains
from mabe_transfer.bridges import convert, terms
from mabe_transfer.bridges.own import facts_of, layout_of
from mabe_transfer.config import fingerprint
from mabe_transfer.domains import Domain, to_facts
from mabe_transfer.envs import ANY_DOMAIN
from mabe_transfer.errors import UserError
from mabe_transfer.progress import Work
from mabe_transfer.store import UNKNOWN_SEED, Layout, Store, StoreWriter, open_store
from mabe_transfer.transitions import Transitions
from mabe_transfer.worlds import sizes
from mabe_transfer.written import sha256

SCHEME = "minari:"
VARIABLE = "MINARI_DATASETS_PATH"  # Minari's own
OWN = "mabe_transfer"
# Gymnasium's environments that are, reward rules included, a domain of ours.
DOMAINS = {
    "Hopper-v5": "hopper",
    "Walker2d-v5": "walker2d",
    "HalfCheetah-v5": "halfcheetah",
    "HalfCheetah-v4": "halfcheetah",
}
# Arguments of an environment that change nothing in what is recorded.
HARMLESS = frozenset({"render_mode", "width", "height", "camera_id", "camera_name", "name"})
FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError)


def library() -> Any:
    """The minari package.

    Raises:
        UserError: It is not installed.
    """
    try:
        import minari
    except ImportError:
        raise UserError("Data sets of Minari need: pip install 'mabe-transfer[minari]'.") from None
    return minari


def open_named(name: str, cache: Path) -> tuple[Store, Domain]:
    """Open a data set of Minari, converted at its first use.

    Args:
        name: `minari:mujoco/hopper/medium-v0`; it must have been downloaded by Minari.
        cache: Folder of converted data.

    Raises:
        UserError: It is not here, not readable, or from an environment that is no domain.
    """
    identity = name.removeprefix(SCHEME)
    data = _load(identity)
    domain = domain_of(data, identity)
    hashes = {path.name: sha256(path) for path in _files(data)}
    key = fingerprint({"files": hashes, "rules": convert.RULES, "domain": to_facts(domain)})
    out = cache / f"minari-{identity.replace('/', '-')}-{key}.zarr"
    if not out.exists():
        of_minari(identity, domain, out)
    return open_store(out), domain


def of_minari(identity: str, domain: Domain, out: Path) -> Store:
    """Convert a data set of Minari.

    Args:
        identity: Without the scheme.
        domain: Where it was recorded.
        out: The store to write.

    Raises:
        UserError: An episode has other shapes than the domain's, or a number is not finite.
    """
    data = _load(identity)
    where = f"{SCHEME}{identity}"
    attributes, layout = _given(data, domain, where)
    total = int(data.total_steps)
    with StoreWriter.open(
        out, layout, attributes, shard_rows=convert.shards(max(1, total))
    ) as writer:
        done = int(writer.cursor or 0)
        with Work(f"Converting {where}", total, "rows", done=writer.resumed_rows) as work:
            last = int(data.total_episodes) - 1
            for number in range(done, last + 1):
                rows, seed = _episode(data, number, domain, layout, where)
                if number < last and not (rows.terminals[-1] or rows.timeouts[-1]):
                    rows.timeouts[-1] = True  # the recording ended here
                begun = 1 + int((rows.terminals | rows.timeouts)[:-1].sum())
                seeds = np.full(begun, UNKNOWN_SEED, np.int64)
                seeds[0] = seed
                writer.append(rows, seeds, cursor=number + 1)
                work.advance(len(rows))
        return writer.finish()


def domain_named(identity: str) -> Domain:
    """The domain of a data set by its name; see `domain_of`."""
    return domain_of(_load(identity), identity)


def domain_of(data: Any, identity: str) -> Domain:
    """The domain of the environment that a data set names.

    Raises:
        UserError: It names none, or one that is no domain.
    """
    spec = data.env_spec
    where = f"{SCHEME}{identity}"
    hint = f"say where it was recorded: mabe-transfer data import {where} --env DOMAIN --name NAME"
    if spec is None:
        raise UserError(f"{where} names no environment; {hint}")
    odd = sorted(set(spec.kwargs) - HARMLESS)
    if spec.id == ANY_DOMAIN and not odd:
        return domains.domain(str(spec.kwargs.get("name")))
    if spec.id not in DOMAINS or odd:
        made = f"{spec.id}{' with ' + ', '.join(odd) if odd else ''}"
        raise UserError(f"{where} was recorded in {made}, which is no domain here; {hint}")
    return domains.domain(DOMAINS[spec.id])


def _load(identity: str) -> Any:
    minari = library()
    if not folder(identity).exists():
        raise UserError(
            f"There is no {identity} in {root()}/; get it with: minari download {identity}"
        )
    try:
        return minari.load_dataset(identity)
    except FAILURES as error:
        raise UserError(f"Minari cannot open {identity!r}: {line(error)}.") from None


def root() -> Path:
    """Where Minari keeps its data sets."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".minari" / "datasets"


def folder(identity: str) -> Path:
    """Where Minari keeps a data set.

    Raises:
        UserError: It is no name that Minari could have given.
    """
    if Path(identity).is_absolute() or ".." in Path(identity).parts or not identity:
        raise UserError(f"{identity!r} is no name of a Minari data set.")
    return root() / identity


def _files(data: Any) -> list[Path]:
    return sorted(path for path in Path(data.storage.data_path).rglob("*") if path.is_file())


def _given(data: Any, domain: Domain, where: str) -> tuple[dict[str, Any], Layout]:
    """Attributes and layout: those of our own export, or what is known of data by others."""
    own = data.storage.metadata.get(OWN)
    if own is not None:
        facts = facts_of(str(own), where)
        if facts["attributes"].get("domain") == domain.name:
            return facts["attributes"], layout_of(facts, where)
    names = terms.names(domain)
    origin = convert.Origin(
        title=f"Minari {where.removeprefix(SCHEME)}",
        quality=str(data.storage.metadata.get("algorithm_name") or "recorded"),
        facts={"format": "minari", "name": where.removeprefix(SCHEME)},
    )
    observation, action = sizes(domain)
    layout = Layout(observation_size=observation, action_size=action, terms=names)
    return convert.given(domain, origin, names, ()), layout


def _episode(
    data: Any, number: int, domain: Domain, layout: Layout, where: str
) -> tuple[Transitions, int]:
    """The rows of one episode, and its seed."""
    try:
        episode = data[number]
        seed = next(iter(data.storage.get_episode_metadata([number]))).get("seed")
        observations = np.asarray(episode.observations)
        fields = {
            "actions": np.asarray(episode.actions),
            "rewards": np.asarray(episode.rewards),
            "terminals": np.asarray(episode.terminations),
            "timeouts": np.asarray(episode.truncations),
        }
    except FAILURES as error:
        raise UserError(f"{where}: episode {number} cannot be read: {line(error)}.") from None
    at, steps = f"{where}: episode {number}", len(fields["rewards"])
    _shape(f"{at}: observations", observations, (steps + 1, layout.observation_size))
    _shape(f"{at}: actions", fields["actions"], (steps, layout.action_size))
    for name in ("rewards", "terminals", "timeouts"):
        _shape(f"{at}: {name}", fields[name], (steps,))
    try:
        rows = _of_episode(episode, fields, domain, layout)
    except FAILURES as error:
        raise UserError(f"{at} does not fit its metadata: {line(error)}.") from None
    return rows, UNKNOWN_SEED if seed is None else int(seed)


def _of_episode(
    episode: Any, fields: dict[str, Any], domain: Domain, layout: Layout
) -> Transitions:
    """The rows of an episode whose shapes were checked."""
    seen = np.asarray(episode.observations, np.float32)
    terminals = fields["terminals"].astype(np.bool_)
    actions = fields["actions"].astype(np.float32)
    rewards = fields["rewards"].astype(np.float64)
    extra: dict[str, Any] = (episode.infos or {}).get(OWN, {}) if layout.nq or layout.terms else {}
    if extra:
        of_reward = {k: np.asarray(extra["reward_terms"][k], np.float32) for k in layout.terms}
    else:
        of_reward = terms.of_rewards(domain, actions, rewards, terminals)
    states = {
        key: np.asarray(extra[key], np.float64)
        for key, size in (("qpos", layout.nq), ("qvel", layout.nv))
        if size
    }
    return Transitions(
        observations=seen[:-1],
        actions=actions,
        rewards=rewards.astype(np.float32),
        next_observations=seen[1:],
        terminals=terminals,
        timeouts=fields["timeouts"].astype(np.bool_),
        reward_terms=of_reward,
        **states,
    )


def _shape(where: str, array: Any, expected: tuple[int, ...]) -> None:
    if array.dtype.kind not in "fiub" or array.shape != expected:
        raise UserError(
            f"{where} has type {array.dtype} and shape {list(array.shape)}, expected numbers of "
            f"shape {list(expected)}."
        )


def line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
