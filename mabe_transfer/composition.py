"""What an algorithm is made of: one part a column, and which columns go together.

Compositions that make no sense are refused when they are built, with both columns named.
"""

from __future__ import annotations

from dataclasses import dataclass

from mabe_transfer import bounds
from mabe_transfer.actors import DETERMINISTIC, SQUASHED_NORMAL
from mabe_transfer.errors import UserError
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl, PriorKl, ScaledKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.parts.uncertainty import Disagreement, Halt, StdPenalty

STARTS = (Sac, Mpo, Trpo, Npg)
"""Policies that can start as a copy of the prior."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imitation:
    """The prior is the policy: the run's schedule trains it, and it acts by its mode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """One row of the table, as the parts it is made of.

    Attributes:
        name: How it is called on the command line.
        paper: arXiv number, or where it comes from.
        policy: How the policy is optimised.
        regulariser: What it pays for beside the reward.
        dynamics: The model fitted to the target domain's data (D1).
        rollouts: How the model is used; goes with `dynamics`.
        prior: The behaviour prior fitted to the source data (D2).
        uncertainty: What rollouts pay for the model's uncertainty.
        critic: What the critics pay beside the TD error.
        start_from_prior: Whether the policy starts as a copy of the prior.
        batch: Transitions of an update of the policy, for each seed.
    """

    name: str
    paper: str
    policy: Sac | Trpo | Npg | Mpo | Td3 | Imitation
    regulariser: Entropy | ExplicitKl | ScaledKl | None = None
    dynamics: Ensemble | None = None
    rollouts: Rollouts | WholeRollouts | None = None
    prior: Unweighted | Adaptive | None = None
    uncertainty: StdPenalty | Disagreement | Halt | None = None
    critic: Conservative | Diversity | Inconsistency | None = None
    start_from_prior: bool = False
    batch: int = 256

    def __post_init__(self) -> None:
        """Refuse compositions that make no sense, naming both columns, and numbers out of range."""
        bounds.check(self)
        absent_prior, imitates = self.prior is None, isinstance(self.policy, Imitation)
        kind = type(self.policy).__name__
        on_policy, clones = isinstance(self.policy, Trpo | Npg), isinstance(self.policy, Td3)
        rules = {
            f"regulariser {_kind(self.regulariser)} needs a prior": absent_prior
            and isinstance(self.regulariser, PriorKl),
            f"policy {kind} needs a prior": isinstance(self.policy, Imitation | Mpo)
            and absent_prior,
            f"policy {kind} takes no regulariser": not isinstance(self.policy, Sac)
            and self.regulariser is not None,
            "policy Td3 takes no prior": clones and not absent_prior,
            "policy Td3 clones the data's actions, so it takes no dynamics": clones
            and self.dynamics is not None,
            "policy Imitation takes no dynamics": imitates and self.dynamics is not None,
            "policy Imitation trains its prior itself, so prior.fit is a Network": imitates
            and self.prior is not None
            and isinstance(self.prior.fit, Fit),
            "a prior is fitted before the policy, so prior.fit is a Fit": not imitates
            and self.prior is not None
            and isinstance(self.prior.fit, Network),
            "rollouts from the prior's states need a prior": self.rollouts is not None
            and self.rollouts.prior_start_share > 0.0
            and absent_prior,
            "start_from_prior needs a prior": self.start_from_prior and absent_prior,
            f"a prior goes unused by policy {kind} and regulariser {_kind(self.regulariser)}, "
            "without start_from_prior or rollouts.prior_start_share": self._idle_prior(),
            "start_from_prior needs policy Sac, Mpo, Trpo or Npg": self.start_from_prior
            and not isinstance(self.policy, STARTS),
            f"the policy starts as the prior, so set policy.hidden and prior.fit.hidden alike, not "
            f"{self._widths()}": len(set(self._widths())) > 1,
            "policy Sac needs a regulariser": isinstance(self.policy, Sac)
            and self.regulariser is None,
            f"policy {kind} needs dynamics, to play whole trajectories in": on_policy
            and self.dynamics is None,
            "uncertainty needs dynamics": self.uncertainty is not None and self.dynamics is None,
            **self._critic_rules(),
            "dynamics and rollouts go together": (self.dynamics is None) != (self.rollouts is None),
            f"policy {kind} and rollouts {type(self.rollouts).__name__} do not go together": (
                self.rollouts is not None and on_policy != isinstance(self.rollouts, WholeRollouts)
            ),
        }
        for rule, broken in rules.items():
            if broken:
                raise UserError(f"The row {self.name!r} makes no sense: {rule}.")

    def _critic_rules(self) -> dict[str, bool]:
        """What a critic needs of the other columns, and whether it lacks it."""
        critic, policy = self.critic, self.policy
        share = self.rollouts.real_share if isinstance(self.rollouts, Rollouts) else 1.0
        conservative, inconsistency = (
            isinstance(critic, kind) for kind in (Conservative, Inconsistency)
        )
        return {
            f"critic {type(critic).__name__} needs policy Sac": critic is not None
            and not isinstance(policy, Sac),
            "critic Conservative needs real transitions, rollouts.real_share > 0": conservative
            and share == 0.0,
            "critic Conservative with model_states_only needs rollouts, their real_share < 1": (
                isinstance(critic, Conservative) and critic.model_states_only and share == 1.0
            ),
            "critic Diversity needs policy.critics > 1": isinstance(critic, Diversity)
            and isinstance(policy, Sac)
            and policy.critics < 2,
            "critic Inconsistency needs dynamics": inconsistency and self.dynamics is None,
            "critic Inconsistency needs dynamics.elites > 1": inconsistency
            and self.dynamics is not None
            and self.dynamics.elites < 2,
        }

    def _idle_prior(self) -> bool:
        """Whether nothing comes of a prior; rollouts that start from its data's states use it."""
        used = (
            isinstance(self.policy, Imitation | Mpo)
            or isinstance(self.regulariser, PriorKl)
            or self.start_from_prior
            or (self.rollouts is not None and self.rollouts.prior_start_share > 0.0)
        )
        return self.prior is not None and not used

    def _widths(self) -> list[tuple[int, ...]]:
        """Hidden widths of policy and prior, where one starts as the other."""
        if not self.start_from_prior or self.prior is None or not isinstance(self.policy, STARTS):
            return []
        return [self.policy.hidden, self.prior.fit.hidden]

    @property
    def waiting(self) -> int:
        """Updates before the policy moves."""
        return self.policy.critics_first if isinstance(self.policy, Sac) else 0

    @property
    def policy_regularisation(self) -> str:
        """Table 2's row "policy regularisation", derived: explicit, implicit or none.

        Implicit is what fits to the prior, or leaves it by steps in a trust region (BREMEN). To
        start as the prior and go wherever SAC leads holds the policy to nothing.
        """
        if isinstance(self.policy, Td3):
            return "squared distance"
        if isinstance(self.regulariser, PriorKl):
            return "explicit KL"
        held = self.start_from_prior and isinstance(self.policy, Trpo | Npg)
        return "implicit KL" if held or isinstance(self.policy, Imitation | Mpo) else "none"

    @property
    def head(self) -> str:
        """The kind of policy that the row leaves behind, as `actors` names it."""
        return DETERMINISTIC if isinstance(self.policy, Td3) else SQUASHED_NORMAL


def _kind(part: object | None) -> str:
    return "none" if part is None else type(part).__name__
