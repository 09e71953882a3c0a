"""The behaviour policies of a domain: that ship, were trained here before, or are trained now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mabe_transfer import locks
from mabe_transfer.behaviour import Ladder, load_ladder, shipped
from mabe_transfer.config import difference
from mabe_transfer.domains import to_facts, unmeasured
from mabe_transfer.errors import UserError
from mabe_transfer.library import data_root
from mabe_transfer.online import OnlineConfig, OnlineSac
from mabe_transfer.progress import notice

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.domains import Domain


def ladder(domain: Domain, config: OnlineConfig | None = None) -> Ladder:
    """The behaviour policies of a domain.

    Raises:
        UserError: Those that are there are of another domain of this name, or another process is
            at their training.
        Interrupted: The user asked to stop; the same command goes on.
    """
    if (ours := shipped(domain)) is not None:
        return load_ladder(ours)
    path = folder(domain) / "ladder.safetensors"
    if path.is_file():
        found = load_ladder(path)
        if other := difference(to_facts(found.domain), unmeasured(domain)):
            raise UserError(
                f"{path.parent} holds policies of a {domain.name} with another {other}; move it "
                "away, or give what was edited another name."
            )
        return found
    notice(
        f"No behaviour policy is shipped for {domain.name}; training one with SAC. That is done "
        "once, can be interrupted, and goes on when the command is repeated."
    )
    (found,) = train([domain], config or OnlineConfig(), seed=0, folder=folder(domain))
    found.save(path)
    return load_ladder(path)  # in half precision, as it acts whenever the command is repeated


def train(where: list[Domain], config: OnlineConfig, *, seed: int, folder: Path) -> list[Ladder]:
    """Train behaviour policies for several domains of one robot, as one stack.

    Raises:
        UserError: The domains cannot be trained together, or another process is at this training.
        Interrupted: The user asked to stop; the same command goes on.
    """
    with locks.sole(folder):
        return OnlineSac(where, config, seed=seed, folder=folder).run()


def folder(domain: Domain) -> Path:
    """Where a domain's policies are trained, and kept."""
    return data_root() / "behaviour" / domain.name
