"""An algorithm is a row: the parts it is made of, one column each (the paper's Table 2).

Adding an algorithm from parts that exist is adding a row to `ALGORITHMS`; an ablation is `replace`
of a row. Rows that make no sense are refused when they are built.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mabe_transfer.actors import DETERMINISTIC, SQUASHED_NORMAL
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.uncertainty import StdPenalty
from mabe_transfer.values import InSample, LambdaReturns
from mabe_transfer.weighting import Advantage, Exponential, Indicator


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
        start_from_prior: Whether the policy starts as a copy of the prior.
        batch: Transitions of an update of the policy, for each seed.
    """

    name: str
    paper: str
    policy: Sac | Mpo | Td3 | Imitation
    regulariser: Entropy | ExplicitKl | None = None
    dynamics: Ensemble | None = None
    rollouts: Rollouts | None = None
    prior: Unweighted | Adaptive | None = None
    uncertainty: StdPenalty | None = None
    start_from_prior: bool = False
    batch: int = 256

    def __post_init__(self) -> None:
        """Refuse compositions that make no sense, naming both columns."""
        absent_prior, imitates = self.prior is None, isinstance(self.policy, Imitation)
        kind, clones = type(self.policy).__name__, isinstance(self.policy, Td3)
        rules = {
            "regulariser ExplicitKl needs a prior": isinstance(self.regulariser, ExplicitKl)
            and absent_prior,
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
            "start_from_prior needs policy Sac or Mpo, with the prior's hidden widths": (
                self._misfit()
            ),
            "policy Sac needs a regulariser": isinstance(self.policy, Sac)
            and self.regulariser is None,
            "uncertainty needs dynamics": self.uncertainty is not None and self.dynamics is None,
            "dynamics and rollouts go together": (self.dynamics is None) != (self.rollouts is None),
        }
        for rule, broken in rules.items():
            if broken:
                raise UserError(f"The row {self.name!r} makes no sense: {rule}.")

    def _misfit(self) -> bool:
        if not self.start_from_prior or self.prior is None:
            return False
        return not isinstance(self.policy, Sac | Mpo) or self.policy.hidden != self.prior.fit.hidden

    @property
    def policy_regularisation(self) -> str:
        """Table 2's row "policy regularisation", derived: explicit, implicit or none."""
        if isinstance(self.policy, Td3):
            return "squared distance"
        if isinstance(self.regulariser, ExplicitKl):
            return "explicit KL"
        return "implicit KL" if self.prior is not None else "none"

    @property
    def head(self) -> str:
        """The kind of policy that the row leaves behind, as `actors` names it."""
        return DETERMINISTIC if isinstance(self.policy, Td3) else SQUASHED_NORMAL


SAC = Algorithm(name="sac", paper="1801.01290", policy=Sac(), regulariser=Entropy())
BC = Algorithm(
    name="bc", paper="behaviour cloning", policy=Imitation(), prior=Unweighted(fit=Network())
)
AWR = Algorithm(
    name="awr",
    paper="1910.00177",
    policy=Imitation(),
    prior=Adaptive(
        weighting=Advantage(),
        evaluation=LambdaReturns(),
        fit=Network(rate=3e-4),
    ),
)
"""Advantage-weighted regression (Peng et al. 2019, Algorithm 1): V regresses on TD(0.95) returns of
the data, the policy on its actions weighted by exp(A), standardised and clipped at 20.

Differs from print: Adam in place of SGD with momentum, both updated together and not in turns; a
squashed Gaussian that learns its deviation, where the paper's is fixed at 0.4; the networks of the
other rows; weights normalised to mean 1 in the batch."""
IQL = Algorithm(
    name="iql",
    paper="2110.06169",
    policy=Imitation(),
    prior=Adaptive(
        weighting=Exponential(),
        evaluation=InSample(expectile=0.7),
        fit=Network(rate=3e-4),
        return_range=1_000.0,
    ),
)
"""Implicit Q-learning (Kostrikov et al. 2021, Eq. 5 to 7) with the settings for locomotion:
expectile 0.7, beta 3, weights clipped at 100, rewards scaled so that returns span 1,000.

Differs from print: the policy's rate is constant, where the paper's falls along a cosine; a
squashed Gaussian with a deviation that depends on the state, where the paper's mean alone is
squashed and its deviation is one for all states; weights normalised to mean 1 in the batch, whose
scale Adam undoes; weights are from V before its step, where the paper's code takes V after it."""
ABM = Algorithm(
    name="abm",
    paper="2002.08396",
    policy=Mpo(),
    prior=Adaptive(weighting=Indicator(), evaluation=LambdaReturns()),
)
"""ABM-MPO (Siegel et al. 2020): the prior is fitted to the actions that were no worse than the
state's value, and MPO improves on it within 0.1 nats (MPO, arXiv 1806.06920).

Differs from print: the prior is fitted before the policy, with the value of the behaviour, where
the paper fits both together with the value of the policy; returns are TD(0.95), where the paper
sums rewards to the end of a snippet; the critics are twins, of which the smaller counts."""
TD3_BC = Algorithm(name="td3+bc", paper="2106.06860", policy=Td3())
"""TD3 with behaviour cloning (Fujimoto and Gu 2021, Eq. 3 to 5): alpha 2.5, observations
standardised.

Differs from print: see `Td3`."""
REBRAC = Algorithm(
    name="rebrac",
    paper="2305.09836",
    policy=Td3(
        hidden=(256, 256, 256),
        policy_rate=1e-3,
        critic_rate=1e-3,
        value_weight=1.0,
        policy_penalty=0.01,
        critic_penalty=0.01,
        averaged=False,
        standardised=False,
        normalised_critics=True,
    ),
    batch=1_024,
)
"""ReBRAC (Tarasov et al. 2023): penalties of policy and critics are apart, deeper networks with
layer norms in the critics, large batches. The penalties are those of hopper-medium;
the paper tunes both for each dataset.

Differs from print: PyTorch's bounds for the initial weights of all layers."""
BRAC_V = Algorithm(
    name="brac-v",
    paper="1911.11361",
    policy=Sac(),
    regulariser=ExplicitKl(),
    prior=Unweighted(),
)
MOPO = Algorithm(
    name="mopo",
    paper="2005.13239",
    policy=Sac(),
    regulariser=Entropy(),
    dynamics=Ensemble(),
    rollouts=Rollouts(),
    uncertainty=StdPenalty(),
)
ADAPTIVE = Adaptive()
MABE = Algorithm(
    name="mabe",
    paper="2106.09119",
    policy=Sac(),
    regulariser=ExplicitKl(target=0.5),
    dynamics=Ensemble(),
    rollouts=Rollouts(prior_start_share=0.5),
    prior=ADAPTIVE,
    start_from_prior=True,
)
"""Differs from print: the policy starts as the prior, and half of the rollouts start from the
prior's states, since from D1's alone the critic never sees the wanted behaviour; `mabe-paper` has
neither. The paper gives no target divergence; this one was chosen on half cheetah."""

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        BC,
        AWR,
        IQL,
        ABM,
        TD3_BC,
        REBRAC,
        SAC,
        BRAC_V,
        MOPO,
        MABE,
        replace(MABE, name="mabe-paper", rollouts=Rollouts(), start_from_prior=False),
        replace(MABE, name="mabe-uncertainty", uncertainty=StdPenalty()),
        replace(MABE, name="mabe-advantage", prior=Adaptive(weighting=Advantage())),
        replace(MABE, name="mabe-flat-prior", prior=Unweighted()),
        Algorithm(
            name="mabe-no-rl",
            paper=MABE.paper,
            policy=Imitation(),
            prior=replace(ADAPTIVE, fit=Network()),
        ),
        replace(MOPO, name="mabe-no-prior"),
        replace(MOPO, name="mopo-from-prior", prior=Adaptive(), start_from_prior=True),
    )
}


def algorithm(name: str) -> Algorithm:
    """Look a row up by its name."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
