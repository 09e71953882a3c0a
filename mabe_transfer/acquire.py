"""From a request to a dataset: which policies act, trained first where none is shipped.

A request names a domain, a quality, a count and a seed. `expert`, `medium`, `medium-expert` and
`ladder` come from the ladder of behaviour policies, `ladder` with uniform actions below its
first rung; `medium-replay` is the replay buffer of a SAC training in that domain alone, up to the
step of the ladder's medium rung.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mabe_transfer import behaviour, domains, ladders, locks, recorded, runs
from mabe_transfer.behaviour import Ladder, RandomPolicy, load_ladder, shipped, shipped_ladders
from mabe_transfer.bridges import d4rl
from mabe_transfer.certificate import certify
from mabe_transfer.collect import Share, collect
from mabe_transfer.config import Json, difference, from_json, to_json
from mabe_transfer.domains import Domain, to_facts
from mabe_transfer.entries import QUALITIES
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.library import location, open_dataset
from mabe_transfer.online import OnlineConfig, OnlineSac
from mabe_transfer.progress import notice
from mabe_transfer.store import Store, write_whole
from mabe_transfer.worlds import require_robot

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabe_transfer.entries import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A dataset to make.

    Attributes:
        domain: Where the behaviour acts.
        quality: Whose behaviour, one of `entries.QUALITIES`.
        transitions: How many; `None` gives `medium-replay` whole, and 100,000 otherwise.
        seed: Of the collection.
        policy: A ladder to use instead of the domain's own, by its file or by the domain that it
            ships for, or data by others that carries its policy: `d4rl:hopper-medium-v2`, or an
            HDF5 file.
        out: Where to; by name under the data folder unless given.
        recipe: What asked for it, kept in the store.
    """

    domain: Domain
    quality: str
    transitions: int | None = None
    seed: int = 0
    policy: str | None = None
    out: str | None = None
    recipe: Json | None = None

    @property
    def location(self) -> str | Path:
        """Where the dataset goes."""
        return location(self.out or f"{self.domain.name}-{self.quality}")


DEFAULT_TRANSITIONS = 100_000


def of_recipe(recipe: Recipe, *, out: str | None = None) -> Request:
    """Turn a recipe of the catalogue into a request, named like the recipe.

    Raises:
        UserError: Its domain does not exist.
    """
    try:
        domain = domains.domain(recipe.env)
    except UserError as error:
        raise UserError(f"The recipe {recipe.name}: {error}") from None
    return Request(
        domain=domain,
        quality=recipe.quality,
        transitions=recipe.transitions,
        seed=recipe.seed,
        policy=recipe.policy or None,
        out=out or recipe.name,
        recipe=to_json(recipe),
    )


def acquire(request: Request, config: OnlineConfig | None = None) -> Store:
    """Make a dataset, training its behaviour policy first where none is at hand.

    Raises:
        UserError: The quality does not exist, the place is taken, or the domain's physics are not
            what its shifts declare.
        Interrupted: The user asked to stop; the same command goes on.
    """
    if request.quality not in QUALITIES:
        raise unknown("quality", request.quality, QUALITIES)
    if request.transitions is not None and request.transitions < 1:
        raise UserError(f"--transitions must be at least 1, not {request.transitions}.")
    place = request.location
    if isinstance(place, Path) and place.exists():  # said before hours of training
        raise UserError(f"{place} exists already, and nothing is ever overwritten.")
    if request.domain.shifts:
        certify(request.domain).require()  # a shift may change nothing, or more than it says
    if request.policy and request.quality in ("random", "medium-replay"):
        raise UserError(
            f"--policy {request.policy}: no policy can be chosen for {request.quality}."
        )
    if request.quality == "medium-replay":
        if request.seed:
            raise UserError(
                f"--seed {request.seed}: a medium-replay is that of the policies' own training, "
                "whose seed is theirs."
            )
        return _replay(request, config)
    shares, origin = _shares(request, config)
    return collect(
        request.domain,
        shares,
        seed=request.seed,
        location=request.location,
        facts={
            "quality": request.quality,
            "behaviour": {**origin, "shares": [share.label for share in shares]},
            "recipe": request.recipe or {},
        },
        title=f"Collecting {request.domain.name} {request.quality}",
    )


def provide(recipe: Recipe, name: str) -> None:
    """Make a recipe's dataset under a name, unless that very one is there or being made.

    Raises:
        UserError: A dataset of that name was made otherwise.
        Interrupted: The user asked to stop; the same command goes on.
    """
    place = location(name)
    request = of_recipe(recipe, out=name)
    if not locks.once(lambda: acquire(request), lambda: isinstance(place, Path) and place.exists()):
        return
    made_by = open_dataset(name).store.attributes["recipe"]
    other = difference(made_by, to_json(recipe)) if made_by else "no recipe"
    if other:
        raise UserError(
            f"{place} is there and was not made by the recipe {recipe.name}, but with {other}; "
            "move it away."
        )
    notice(f"{name} is there already.")


def _shares(request: Request, config: OnlineConfig | None) -> tuple[list[Share], Json]:
    """Whose behaviour makes a dataset, and where those policies come from."""
    total = request.transitions or DEFAULT_TRANSITIONS
    if request.quality == "random":
        return [_uniform(total)], {"policy": "random"}
    if request.policy and recorded.is_recording(request.policy):
        return _recorded(request, request.policy, total)
    found = _given(request.policy) if request.policy else ladders.ladder(request.domain, config)
    require_robot(request.domain, found.domain.robot.name, request.policy or "The ladder")
    halves = (found.medium, total - total // 2), (found.expert, total // 2)
    made: dict[str, Callable[[], list[Share]]] = {
        "expert": lambda: [_rung(found, found.expert, total)],
        "medium": lambda: [_rung(found, found.medium, total)],
        "medium-expert": lambda: [_rung(found, rung, count) for rung, count in halves],
        "ladder": lambda: _climb(found, total),
    }
    shares = [share for share in made[request.quality]() if share.transitions]
    origin = {
        "policy": found.domain.name,
        "hash": behaviour.digest(found),
        "training": found.provenance,
    }
    return shares, origin


def _given(name: str) -> Ladder:
    """A ladder by its file, or that which ships for a domain."""
    if "/" in name or name.endswith(".safetensors"):
        return load_ladder(Path(name))
    known = {path.stem: path for path in shipped_ladders()}
    if name not in known:
        raise unknown("behaviour policy", name, known)
    return load_ladder(known[name])


def _recorded(request: Request, name: str, total: int) -> tuple[list[Share], Json]:
    """The behaviour of the policy that data by others carries."""
    known = d4rl.parse(name).quality if name.startswith(d4rl.SCHEME) else None
    if request.quality not in ({known} if known else {"medium", "expert"}):
        raise UserError(
            f"{name} carries one policy, {known or 'medium or expert'}; it cannot act as "
            f"{request.quality!r}: say --quality {known or 'medium'}."
        )
    policy = recorded.load(name, request.domain)
    share = Share(policy, total, f"the policy that {name} carries")
    return [share], {"policy": name, "hash": policy.digest}


def _climb(found: Ladder, total: int) -> list[Share]:
    """A ladder from the ground up: a third uniform actions, the rest every rung's in equal parts.

    A training warms up with uniform actions. Without a large share of them a dynamics model knows
    only what some policy sought: on half cheetah it is lost, and sure of itself, where the robot
    runs the other way (results/transfer/record.md).
    """
    ground = total // 3
    each, rest = divmod(total - ground, len(found.rungs))
    rungs = [_rung(found, rung, each + (rung < rest)) for rung in range(len(found.rungs))]
    return [_uniform(ground), *rungs]


def _uniform(transitions: int) -> Share:
    return Share(RandomPolicy(), transitions, "uniform actions")


def _rung(found: Ladder, rung: int, transitions: int) -> Share:
    measured = found.rungs[rung]
    label = f"{measured.env_steps} env steps, return {measured.mean:.0f} +- {measured.std:.0f}"
    return Share(found.policy(rung), transitions, label)


def _replay(request: Request, config: OnlineConfig | None) -> Store:
    """Write the replay of a domain's own training, up to its medium rung."""
    domain = request.domain
    known = shipped(domain)
    policies = load_ladder(known) if known else None
    until = policies.medium_rung.env_steps if policies else None
    if until is not None:
        _require_rows(request, until)  # said before hours of training
    config, seed = config or OnlineConfig(), 0
    if policies and policies.provenance.get("algorithm") == "sac":
        # Those policies' own training once more, as far as processors and versions round alike.
        config = from_json(OnlineConfig, policies.provenance["config"], f"{known}: config")
        seed = int(policies.provenance["seed"])
    with locks.sole(folder := ladders.folder(domain)):
        trainer = OnlineSac([domain], config, seed=seed, folder=folder)
        (found,) = trainer.run(until)
        env_steps = until or found.medium_rung.env_steps
        rows = trainer.records[0].transitions(env_steps // config.envs)
    _require_rows(request, len(rows))
    return write_whole(
        request.location,
        rows.rows(slice(0, request.transitions)),
        {
            "domain": domain.name,
            "quality": request.quality,
            "terms": domain.weights,
            "seed": seed,
            "versions": runs.versions(),
            "recipe": request.recipe or {},
            "behaviour": {
                "policy": domain.name,
                "domain": to_facts(domain),
                "training": {"config": to_json(config), "seed": seed},
                "shares": [f"SAC's replay up to {env_steps} env steps"],
            },
        },
    )


def _require_rows(request: Request, there: int) -> None:
    """Refuse to give fewer rows of a replay than were asked for."""
    if request.transitions is not None and request.transitions > there:
        raise UserError(
            f"--transitions {request.transitions:,}: the replay of {request.domain.name} up to its "
            f"medium policy has {there:,}."
        )
