"""A run's trained policies, read back: to evaluate, to film, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer import evaluate, weights
from mabe_transfer.actors import SQUASHED_NORMAL, AnyActor, read
from mabe_transfer.domains import Domain, from_facts
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.worlds import require_robot, world

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a run, one a seed."""

    target: Domain
    seeds: tuple[int, ...]
    actor: AnyActor

    @torch.no_grad()
    def act(self, observation: Floats) -> Floats:
        """Deterministic actions [S, E, A] at observations [S, E, O]."""
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32))
        actions: Floats = self.actor.mode(inputs).numpy()
        return actions

    def act_one(self, seed: int) -> Callable[[Floats], Floats]:
        """One seed's policy: observation [O] to action [A].

        Raises:
            UserError: The run has no such seed.
        """
        if seed not in self.seeds:
            raise unknown("seed", str(seed), map(str, self.seeds), owner="This run")
        index = self.seeds.index(seed)

        def act(observation: Floats) -> Floats:
            repeated = np.tile(observation, (len(self.seeds), 1, 1))  # torch wants it writable
            chosen: Floats = self.act(repeated)[index, 0]
            return chosen

        return act


def path(run: Path) -> Path:
    """Where a run keeps its policies."""
    return run / "policy" / "policy.safetensors"


def load(run: Path | str) -> Policies:
    """Read the policies of a finished run.

    Args:
        run: Its folder.

    Raises:
        UserError: The folder holds no finished run, or policies of a kind that is not known.
    """
    run = Path(run)
    file = path(run)
    if not file.is_file():
        state = "an unfinished run" if (run / "config.json").is_file() else "no run"
        raise UserError(f"{run} holds {state}: {file} is missing.")
    tensors, facts = weights.load(file)
    if facts.get("kind") != "policies":
        raise UserError(f"{file}: holds no policies but {facts.get('kind')!r}.")
    target = from_facts(facts["target"], str(file))
    seeds = tuple(facts["seeds"])
    head = facts.get("head", SQUASHED_NORMAL)  # older files, which say nothing, hold no other kind
    return Policies(target, seeds, read(head, tensors, seeds, str(file)))


def play(
    policies: Policies, domain: Domain, *, episodes: int, seed: int
) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:
    """Returns and lengths of whole episodes of every seed's policy, both [S, episodes].

    Raises:
        UserError: The domain is another robot's.
    """
    require_robot(domain, policies.target.robot.name, "The run")
    groups = len(policies.seeds)
    simulation = world(domain, groups * episodes)
    found = evaluate.returns(policies.act, simulation, groups=groups, seed=seed)
    simulation.close()
    return found
