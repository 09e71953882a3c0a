"""An algorithm is a row: the parts it is made of, one column each (the paper's Table 2).

Adding an algorithm from parts that exist is adding a row to `ALGORITHMS`; an ablation is `replace`
of a row. Rows that make no sense are refused when they are built.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mabe_transfer.errors import UserError, unknown
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.prior import Adaptive, Advantage, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.parts.uncertainty import Disagreement, Halt, StdPenalty


@dataclass(frozen=True, kw_only=True, slots=True)
class Imitation:
    """The fitted prior is the policy: nothing is trained after it."""


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
    """

    name: str
    paper: str
    policy: Sac | Trpo | Npg | Imitation
    regulariser: Entropy | ExplicitKl | None = None
    dynamics: Ensemble | None = None
    rollouts: Rollouts | WholeRollouts | None = None
    prior: Unweighted | Adaptive | None = None
    uncertainty: StdPenalty | Disagreement | Halt | None = None
    critic: Conservative | Diversity | Inconsistency | None = None
    start_from_prior: bool = False

    def __post_init__(self) -> None:
        """Refuse compositions that make no sense, naming both columns."""
        absent_prior, imitates = self.prior is None, isinstance(self.policy, Imitation)
        on_policy, kind = isinstance(self.policy, (Trpo, Npg)), type(self.policy).__name__
        rules = {
            "regulariser ExplicitKl needs a prior": isinstance(self.regulariser, ExplicitKl)
            and absent_prior,
            "policy Imitation needs a prior": imitates and absent_prior,
            f"policy {kind} takes no regulariser": (imitates or on_policy)
            and self.regulariser is not None,
            "policy Imitation takes no dynamics": imitates and self.dynamics is not None,
            "rollouts from the prior's states need a prior": self.rollouts is not None
            and self.rollouts.prior_start_share > 0.0
            and absent_prior,
            "start_from_prior needs a prior": self.start_from_prior and absent_prior,
            "start_from_prior needs a policy that is trained, with the prior's hidden widths": (
                self._misfit()
            ),
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

    def _misfit(self) -> bool:
        if not self.start_from_prior or self.prior is None:
            return False
        return isinstance(self.policy, Imitation) or self.policy.hidden != self.prior.fit.hidden

    @property
    def policy_regularisation(self) -> str:
        """Table 2's row "policy regularisation", derived: explicit, implicit or none."""
        if isinstance(self.regulariser, ExplicitKl):
            return "explicit KL"
        return "implicit KL" if self.prior is not None else "none"


SAC = Algorithm(name="sac", paper="1801.01290", policy=Sac(), regulariser=Entropy())
BC = Algorithm(name="bc", paper="behaviour cloning", policy=Imitation(), prior=Unweighted())
BRAC_V = Algorithm(
    name="brac-v",
    paper="1911.11361",
    policy=Sac(),
    regulariser=ExplicitKl(),
    prior=Unweighted(),
)
BRAC_P = replace(BRAC_V, name="brac-p", policy=Sac(penalised_backup=False))
"""BRAC with its policy penalty alone: the critics' target does not pay the divergence (section 3).

Differs from print: the divergence is the closed form, not a mean over samples, as in `brac-v`."""
CQL = Algorithm(
    name="cql",
    paper="2006.04779",
    policy=Sac(hidden=(256, 256, 256), policy_rate=1e-4, penalised_backup=False),
    regulariser=Entropy(learning_rate=1e-4),
    critic=Conservative(),
)
"""CQL(H), Eq. 4, with the published code's settings: weight 5, no Lagrange threshold, no entropy in
the backup, policy rate 1e-4 (others take weight 10 and rate 3e-5 on standardised observations).

Differs from the published code: no behaviour cloning in the first 40,000 updates; a prior with
`start_from_prior` is the counterpart."""
EDAC = Algorithm(
    name="edac",
    paper="2110.01548",
    policy=Sac(hidden=(256, 256, 256), critics=10),
    regulariser=Entropy(),
    critic=Diversity(),
)
"""EDAC, Algorithm 1, with the entropy in the backup. Hopper takes `policy.critics=50`, and
half cheetah and walker2d medium-expert `critic.weight=5`. `sac-n` is its other half."""
MOPO = Algorithm(
    name="mopo",
    paper="2005.13239",
    policy=Sac(),
    regulariser=Entropy(),
    dynamics=Ensemble(),
    rollouts=Rollouts(),
    uncertainty=StdPenalty(),
)
COMBO = replace(
    CQL,
    name="combo",
    paper="2102.08363",
    dynamics=Ensemble(),
    rollouts=Rollouts(real_share=0.5),
    critic=Conservative(model_states_only=True),
)
"""COMBO, Eq. 2: values are pushed down at the model's states, up at real transitions. Half of a
batch is real, and there is no entropy in the backup, as in public code. That code pushes down at
all states of the batch; its weights (0.5 or 5) were found so: `critic.model_states_only=false`.

Differs from print: values are pushed down by a log-sum-exp over actions as in CQL(H), and not at
the policy's actions alone."""
MOBILE = Algorithm(
    name="mobile",
    paper="Sun et al., ICML 2023",
    policy=Sac(policy_rate=1e-4, penalised_backup=False),
    regulariser=Entropy(learning_rate=1e-4, cap=1.0),
    dynamics=Ensemble(),
    rollouts=Rollouts(),
    critic=Inconsistency(),
)
"""MOBILE: on the model's transitions the target pays the spread of Bellman estimates among elites.

Differs from the published code: targets are not clamped at 0, which breaks negative rewards
(`critic.least_target=0` does it), and the policy's rate is constant, not a cosine."""
BREMEN = Algorithm(
    name="bremen",
    paper="2006.03647",
    policy=Trpo(),
    dynamics=Ensemble(),
    rollouts=WholeRollouts(),
    prior=Unweighted(),
    start_from_prior=True,
)
"""TRPO in the model from a cloned policy; the only regularisation is the trust region (Alg. 1).

Differs from print: the model is the Gaussian ensemble of the other rows, fitted by likelihood, and
rollouts follow its means; print fits five deterministic networks of 2 x 1024 by squared error.
Networks have the widths of the other rows. Print's sizes are `dynamics.members=5
dynamics.hidden=[1024,1024] policy.hidden=[200,200] prior.fit.hidden=[200,200]
prior.fit.updates=300000`, with `rollouts.starts=200 policy.delta=0.1` on half cheetah and
`rollouts.horizon=1000 rollouts.starts=50` elsewhere, and 6,250 steps.
"""
MOREL = Algorithm(
    name="morel",
    paper="2005.05951",
    policy=Npg(),
    dynamics=Ensemble(),
    rollouts=WholeRollouts(),
    uncertainty=Halt(),
)
"""NPG in a pessimistic model that halts where its members disagree (Alg. 2).

Differs from print: the model is the Gaussian ensemble of the other rows, whose means serve as
print's four deterministic networks of 2 x 512, and the reward is learned, where the authors' code
takes the true one; the policy does not start from a cloned one, since that is a prior, which the
paper's Table 2 does not give MOReL: `start_from_prior` with a prior is a row of its own. Print's
sizes are `dynamics.members=4 dynamics.elites=4 dynamics.hidden=[512,512]
policy.hidden=[64,64] rollouts.horizon=500 rollouts.starts=50`, and 500 steps.
"""
MABE = Algorithm(
    name="mabe",
    paper="2106.09119",
    policy=Sac(),
    regulariser=ExplicitKl(target=0.5),
    dynamics=Ensemble(),
    rollouts=Rollouts(prior_start_share=0.5),
    prior=Adaptive(),
    start_from_prior=True,
)
"""Differs from print: the policy starts as the prior, and half of the rollouts start from the
prior's states, since from D1's alone the critic never sees the wanted behaviour; `mabe-paper` has
neither. The paper gives no target divergence; this one was chosen on half cheetah."""

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        BC,
        SAC,
        BRAC_V,
        BRAC_P,
        CQL,
        EDAC,
        replace(EDAC, name="sac-n", critic=None),
        BREMEN,
        MOREL,
        MOPO,
        COMBO,
        MOBILE,
        MABE,
        replace(MABE, name="mabe-paper", rollouts=Rollouts(), start_from_prior=False),
        replace(MABE, name="mabe-uncertainty", uncertainty=StdPenalty()),
        replace(MABE, name="mabe-advantage", prior=Adaptive(weighting=Advantage())),
        replace(MABE, name="mabe-flat-prior", prior=Unweighted()),
        Algorithm(name="mabe-no-rl", paper=MABE.paper, policy=Imitation(), prior=Adaptive()),
        replace(MOPO, name="mabe-no-prior"),
        replace(MOPO, name="mopo-from-prior", prior=Adaptive(), start_from_prior=True),
    )
}


def algorithm(name: str) -> Algorithm:
    """Look a row up by its name."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
