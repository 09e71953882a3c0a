"""The table of algorithms, from the rows: the paper's Table 2, and columns for critics and source.

Every cell follows from the parts of a row, so that the table cannot say what the row does not do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive
from mabe_transfer.parts.regulariser import PriorKl
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mabe_transfer.composition import Algorithm

NAMES = {
    "NormalisedQ": "Q", "NormalisedAdvantage": "Q - V",
    "Sac": "SAC", "Td3": "TD3", "Mpo": "MPO", "Npg": "NPG", "Trpo": "TRPO",
    "StdPenalty": "yes: deviation", "Disagreement": "yes: disagreement", "Halt": "yes: halt",
    "Conservative": "conservative", "Diversity": "diverse", "Inconsistency": "inconsistency",
}  # fmt: skip
"""What a type of part is called in print."""
TWINS = 2  # critics, where nothing is said of their number


def table(rows: Mapping[str, Algorithm] = ALGORITHMS) -> list[dict[str, str]]:
    """One line a row; the first columns after the name are the lines of the paper's Table 2."""
    return [
        {
            "row": row.name,
            "model-based": "no" if row.dynamics is None else "yes",
            "behaviour prior": _prior(row),
            "policy regularisation": _regularisation(row),
            "policy optimisation": _policy(row),
            "uncertainty": _uncertainty(row, rows),
            "critics": _critics(row),
            "paper": row.paper,
        }
        for row in rows.values()
    ]


def _prior(row: Algorithm) -> str:
    if row.prior is None:
        return "none"
    name = type(row.prior).__name__.lower()
    if not isinstance(row.prior, Adaptive):
        return name
    weighting = type(row.prior.weighting).__name__
    return f"{name}: {NAMES.get(weighting, weighting.lower())}"


def _regularisation(row: Algorithm) -> str:
    """What the policy pays for its distance from the data, and whether the critics pay as well."""
    policy, word = row.policy, row.policy_regularisation
    alone = False
    if isinstance(policy, Sac) and isinstance(row.regulariser, PriorKl):
        alone = not policy.penalised_backup
    elif isinstance(policy, Td3):
        alone = policy.critic_penalty == 0.0
    return f"{word}, policy alone" if alone else word


def _policy(row: Algorithm) -> str:
    kind = type(row.policy).__name__
    name = NAMES.get(kind, kind.lower())
    return f"{name} from the prior" if row.start_from_prior else name


def _uncertainty(row: Algorithm, rows: Mapping[str, Algorithm]) -> str:
    """The paper's "Optional" is a row beside the row, which differs in this column alone."""
    if row.uncertainty is not None:
        return NAMES[type(row.uncertainty).__name__]
    if isinstance(row.critic, Inconsistency):
        return "yes: in the critics"
    for other in rows.values():
        if other.uncertainty is not None and row == replace(
            other, name=row.name, paper=row.paper, uncertainty=None
        ):
            return f"optional: {other.name}"
    return "no"


def _critics(row: Algorithm) -> str:
    if not isinstance(row.policy, Sac | Mpo | Td3):
        return "-"
    words = [] if row.critic is None else [NAMES[type(row.critic).__name__]]
    if isinstance(row.policy, Sac | Mpo) and row.policy.critics != TWINS:
        words.append(str(row.policy.critics))
    return ", ".join(words) or "twin"
