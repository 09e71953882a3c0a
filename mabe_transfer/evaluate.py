"""How good a policy is in a domain: undiscounted returns of whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer.threads import one_thread

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain
    from mabe_transfer.worlds import World

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Act = Callable[[Floats], Floats]
"""Actions [G, E, A] at observations [G, E, O]: G groups of E episodes each."""

LAST = 10
"""A result is the mean of a run's last evaluations, this many (MABE, Table 1)."""


def returns(
    act: Act, simulation: World, *, groups: int, seed: int
) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:
    """Play one episode in every copy, all of them together.

    Args:
        act: The policies, one a group.
        simulation: Copies of the domain, a multiple of `groups`.
        groups: Number of policies, G; copy i belongs to group i // E.
        seed: Episode e of every group starts from `seed + e`, so that groups are compared alike.

    Returns:
        Returns and lengths of the episodes, both [G, E].
    """
    episodes = simulation.size // groups
    simulation.seed([seed + index % episodes for index in range(simulation.size)])
    total = np.zeros(simulation.size)
    length = np.zeros(simulation.size, dtype=np.int64)
    alive = np.arange(simulation.size)
    with one_thread():
        while len(alive):
            observation = simulation.observation.reshape(groups, episodes, -1)
            action = act(observation).reshape(simulation.size, -1)
            step = simulation.step(action[alive].astype(np.float32), alive)
            total[alive] += step.reward
            length[alive] += 1
            alive = alive[~(step.terminated | step.truncated)]
    return total.reshape(groups, episodes), length.reshape(groups, episodes)


def summary(values: Floats, domain: Domain) -> dict[str, float]:
    """Mean over everything and spread over seeds, as return and as normalised score.

    Args:
        values: Mean return of each seed, [S].
        domain: The domain in which they were earned.
    """
    found = {"return": float(values.mean()), "return_std": float(values.std())}
    if domain.reference is not None:
        scores = domain.normalised(values)
        found |= {"score": float(scores.mean()), "score_std": float(scores.std())}
    return found
