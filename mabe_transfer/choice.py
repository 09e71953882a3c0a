"""Which policy is to leave the toolkit, and what is known of it: of a run, or of a ladder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer import behaviour, catalogue, domains, evaluate, policies, runs, weights
from mabe_transfer.actors import AnyActor, DeterministicActor
from mabe_transfer.config import Json, to_json
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.plain import (
    Activation,
    Normalisation,
    PlainPolicy,
    activation_of,
    mean_head,
    plain_layers,
)

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain


EXPORTS = Path("exports")
"""Where a ladder's policy goes: a shipped ladder lies in the package, where nothing is written."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A policy that is to leave, how it was chosen, in a sentence, and where it goes by default.

    `place` is a path that still lacks the ending of a format.
    """

    policy: PlainPolicy
    reason: str
    place: Path


def choose(name: str, seed: int | None = None) -> Chosen:
    """Find the policy to export.

    Args:
        name: A run's folder, a ladder's `.safetensors` file, or a domain whose ladder ships.
        seed: Of a run; by default the seed with the best last evaluations.

    Raises:
        UserError: There is no such thing, or it has no such seed.
    """
    path = Path(name)
    if path.is_dir():
        return of_run(path, seed)
    ladder = path if path.suffix == ".safetensors" else _shipped(name)
    if seed is not None:
        raise UserError(f"{name} is a ladder of one training: its expert is exported, no --seed.")
    return of_ladder(ladder)


def of_run(run: Path, seed: int | None = None) -> Chosen:
    """One seed's policy of a finished run; its action is the mode.

    Raises:
        UserError: The folder holds no finished run, no evaluations to choose by, or no such seed.
    """
    found = policies.load(run)
    facts = weights.load_facts(policies.path(run))
    returns = _last_returns(run, found.seeds)
    if seed is None:
        if not returns:
            raise UserError(f"{run} has no evaluations to choose a seed by; name one with --seed.")
        seed = max(returns, key=lambda number: returns[number])
        among = ", ".join(map(str, found.seeds))
        reason = f"Seed {seed}, the best of {among} by its last evaluations"
    else:
        reason = f"Seed {seed}, as asked"
    if seed not in found.seeds:
        raise unknown("seed", str(seed), map(str, found.seeds), owner=str(run))
    if seed in returns:
        reason += f": mean return {returns[seed]:,.1f}"
    actor, index = found.actor, found.seeds.index(seed)
    layers = [t[index] for t in actor.body.weights], [t[index] for t in actor.body.biases]
    deterministic = isinstance(actor, DeterministicActor)
    policy = PlainPolicy(
        layers=plain_layers(*layers) if deterministic else mean_head(*layers),
        activation=activation_of(actor.body.activation),
        normalisation=_normalisation(actor),
        facts=world_facts(found.target)
        | {"algorithm": facts.get("row"), "seed": seed, "return": returns.get(seed)},
    )
    return Chosen(policy, f"{reason}.", run / "policy" / "policy")


def _normalisation(actor: AnyActor) -> Normalisation | None:
    if not isinstance(actor, DeterministicActor):
        return None
    mean, std = actor.observation_mean, actor.observation_std
    return Normalisation(mean.cpu().numpy(), std.cpu().numpy())


def of_ladder(path: Path) -> Chosen:
    """The expert of a behaviour ladder; its action is the mode.

    Raises:
        UserError: The file holds no ladder.
    """
    ladder = behaviour.load_ladder(path)
    rung, count = ladder.rungs[ladder.expert], len(ladder.tensors) // 2
    expert = {name: tensor[ladder.expert] for name, tensor in ladder.tensors.items()}
    policy = PlainPolicy(
        layers=mean_head(
            [expert[f"weights.{i}"] for i in range(count)],
            [expert[f"biases.{i}"] for i in range(count)],
        ),
        activation=Activation.RELU,
        facts=world_facts(ladder.domain)
        | {
            "algorithm": ladder.provenance.get("algorithm"),
            "seed": ladder.provenance.get("seed"),
            "return": rung.mean,
            "rung": to_json(rung),
        },
    )
    reason = f"The expert of {path.name}: mean return {rung.mean:,.1f} of sampled actions."
    return Chosen(policy, reason, EXPORTS / ladder.domain.name)


def world_facts(domain: Domain) -> Json:
    """What a policy sees and does, and where: names, units and the control period."""
    robot = domain.robot
    return {
        "robot": robot.name,
        "target": domain.name,
        "control_timestep_s": robot.control_timestep_s,
        "observation": [{"name": entry.name, "unit": entry.unit} for entry in robot.observation],
        "action": [{"name": entry.name, "unit": entry.unit} for entry in robot.action],
    }


def _shipped(name: str) -> Path:
    """The ladder that ships for a domain, however its name is written."""
    folder = catalogue.folder("datasets") / "policies"
    known = [path.stem for path in folder.glob("*.safetensors")]
    try:
        found = behaviour.shipped(domains.domain(name))
    except UserError:
        found = None
    if found is None:
        raise unknown("run's folder, ladder (.safetensors) or shipped policy", name, known)
    return found


def _last_returns(run: Path, seeds: tuple[int, ...]) -> dict[int, float]:
    """Mean return of each seed over a run's last evaluations, as its result counts them."""
    rows = runs.read_rows(run / "evaluations.jsonl")[-evaluate.LAST :]
    if not rows:
        return {}
    means = np.array([row["returns"] for row in rows]).mean(0)
    return {seed: float(mean) for seed, mean in zip(seeds, means, strict=True)}
