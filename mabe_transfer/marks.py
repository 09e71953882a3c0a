"""What 0 and 100 mean in a target, and what the source's expert is worth there unchanged.

A transfer is a test only where the expert of the source, deployed in the target as it is, clearly
fails, and an expert of the target does not: both numbers stand beside every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer import runs
from mabe_transfer.behaviour import Policy, RandomPolicy, digest
from mabe_transfer.config import fingerprint, from_json, to_json
from mabe_transfer.ladders import ladder
from mabe_transfer.references import play

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.domains import Domain

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Mean returns that a target's results are read by.

    Attributes:
        random: Of uniform actions in the target: 0 of the score.
        expert: Of the best policy that SAC found online in the target: 100 of the score.
        home: Of the source's expert in the source.
        carried: Of the source's expert in the target, unchanged.
    """

    random: float
    expert: float
    home: float | None = None
    carried: float | None = None

    def score(self, returns: Floats) -> Floats:
        """100 (J - J_random) / (J_expert - J_random), any shape."""
        found: Floats = 100.0 * (np.asarray(returns) - self.random) / (self.expert - self.random)
        return found

    def sentence(self, target: Domain, source: Domain) -> str:
        """The marks in one sentence."""
        line = (
            f"{target.name}: 0 is random ({self.random:,.0f}), 100 the best of SAC online "
            f"({self.expert:,.0f})"
        )
        if self.home is None or self.carried is None:
            return f"{line}."
        return (
            f"{line}; the expert of {source.name} earns {self.home:,.0f} at home and "
            f"{self.carried:,.0f} here."
        )


def measure(target: Domain, source: Domain, *, episodes: int, folder: Path) -> Marks | None:
    """The marks of a target, measured once and kept in a folder.

    Reference returns that a robot's table has for the target are taken from there.

    Args:
        target: Where results are earned.
        source: Where D2's expert is at home.
        episodes: Of each policy; 0 plays nothing, and gives what the robot's table has.
        folder: Where what was measured is kept.

    Raises:
        Interrupted: A policy had to be trained, and the user asked to stop.
    """
    known = target.reference
    if episodes == 0:
        return Marks(random=known.random, expert=known.expert) if known else None
    foreign = ladder(source)
    own = None if known else ladder(target)
    key = fingerprint(
        {
            "target": target.name,
            "source": [source.name, digest(foreign)],
            "expert": digest(own) if own else to_json(known),
            "episodes": episodes,
        }
    )
    path = folder / f"marks-{target.name}-{key}.json"
    if path.is_file():
        return from_json(Marks, runs.read_json(path), str(path))
    at_home = foreign.policy(foreign.expert)
    if known is not None:
        random, expert = known.random, known.expert
    else:
        assert own is not None
        random = _mean(target, RandomPolicy(), episodes, noisy=True)
        expert = _mean(target, own.policy(own.expert), episodes)
    found = Marks(
        random=random,
        expert=expert,
        home=_mean(source, at_home, episodes),
        carried=_mean(target, at_home, episodes),
    )
    runs.write_json(path, to_json(found))
    return found


def _mean(domain: Domain, policy: Policy, episodes: int, *, noisy: bool = False) -> float:
    return float(play(domain, policy, episodes=episodes, seed=SEED, noisy=noisy).mean())
