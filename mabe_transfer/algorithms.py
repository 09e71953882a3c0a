"""An algorithm is a row: the parts it is made of, one column each (the paper's Table 2).

Adding an algorithm from parts that exist is adding a row to `ALGORITHMS`; an ablation is `replace`
of a row.
"""

from __future__ import annotations

from dataclasses import replace

from mabe_transfer import weighting
from mabe_transfer.composition import Algorithm, Imitation
from mabe_transfer.errors import unknown
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl, ScaledKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.parts.uncertainty import Halt, StdPenalty
from mabe_transfer.values import InSample, LambdaReturns

SAC = Algorithm(name="sac", paper="1801.01290", policy=Sac(), regulariser=Entropy())
"""Soft actor-critic on the data alone (arXiv 1812.05905, Algorithm 1, with the temperature of its
Eq. 18). Nothing holds the policy to the data, so its values tend to diverge (MABE, Table 1).

Differs from print: no value network, as in the later version of the paper."""
BC = Algorithm(
    name="bc", paper="behaviour cloning", policy=Imitation(), prior=Unweighted(fit=Network())
)
"""Behaviour cloning: the unweighted prior is the policy (MABE Eq. 3), and acts by its mode."""
AWR = Algorithm(
    name="awr",
    paper="1910.00177",
    policy=Imitation(),
    prior=Adaptive(
        weighting=weighting.Advantage(),
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
        weighting=weighting.Exponential(),
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
    prior=Adaptive(weighting=weighting.Indicator(), evaluation=LambdaReturns()),
    start_from_prior=True,
)
"""ABM-MPO (Siegel et al. 2020): the prior is fitted to the actions that were no worse than the
state's value, and MPO improves on it within 0.1 nats (MPO, arXiv 1806.06920).

Differs from print: the prior is fitted before the policy, with the value of the behaviour, where
the paper fits both together with the value of the policy, and so the policy starts as the prior;
returns are TD(0.95), not sums to a snippet's end; of two critics the smaller counts."""
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
the paper tunes both for each dataset: `--preset rebrac-v2`.

Differs from print: PyTorch's bounds for the initial weights of all layers."""
BRAC_V = Algorithm(
    name="brac-v",
    paper="1911.11361",
    policy=Sac(),
    regulariser=ExplicitKl(),
    prior=Unweighted(),
)
"""BRAC with the value penalty (Wu et al. 2019, section 3): policy and critics' target pay the
divergence from a cloned policy, at a fixed weight; `regulariser.target` makes it a dual one.

Differs from print: the divergence is the closed form KL(pi || b) and not a mean over samples; the
networks and rates of the other rows; the policy acts by its mode, where the authors' code takes the
best of ten samples by their value."""
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
half cheetah and walker2d medium-expert `critic.weight=5`: `--preset edac-v2`. `sac-n`, the same
paper's, is its other half."""
MOPO = Algorithm(
    name="mopo",
    paper="2005.13239",
    policy=Sac(),
    regulariser=Entropy(),
    dynamics=Ensemble(),
    rollouts=Rollouts(),
    uncertainty=StdPenalty(),
)
"""MOPO (Yu et al. 2020, Algorithm 1, with the penalty of its section 5): SAC in the model, whose
rewards pay the largest predicted deviation. Horizon and weight are tuned for each dataset:
`--preset mopo-v0`, `--preset mopo-v2`.

Differs from the published code: the model standardises its targets, see `EnsembleModel`; the target
entropy is -|A| and not -3."""
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
all states of the batch; its weights (0.5 or 5) were found so: `critic.model_states_only=false`,
as in `--preset combo-v2`.

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
Networks have the widths of the other rows, and a step a fifth of the transitions. Print's sizes are
`dynamics.members=5 dynamics.hidden=[1024,1024] policy.hidden=[200,200]
prior.fit.hidden=[200,200] prior.fit.updates=300000`, with `rollouts.horizon=250 policy.delta=0.1`
on half cheetah and `rollouts.horizon=1000 rollouts.starts=50` elsewhere, and 6,250 steps."""
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
ADAPTIVE = Adaptive(weighting=weighting.NormalisedAdvantage())
MABE = Algorithm(
    name="mabe",
    paper="2106.09119",
    policy=Sac(critics_first=1_000),
    regulariser=ExplicitKl(target=0.5),
    dynamics=Ensemble(),
    rollouts=Rollouts(prior_start_share=0.5),
    prior=ADAPTIVE,
    start_from_prior=True,
)
"""MABE, Algorithm 1: a prior weighted by Q (Eq. 5), SAC in the model (Eq. 2) that pays KL(pi || p)
(Eq. 6, lines 9 and 10) at a dual weight (line 12). `mabe-uncertainty` pays for the model's too.
Differs from print: the policy starts as the prior, and moves once its critics have learned what the
prior is worth; half of the rollouts start from its states, since from D1's alone the critic never
sees the wanted behaviour; Eq. 5 has its normaliser (results/transfer/record.md). `mabe-paper` has
none of these. The target divergence, which the paper does not give, was chosen on half cheetah."""

ROWS = (
    BC,
    AWR,
    IQL,
    ABM,
    TD3_BC,
    REBRAC,
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
)
"""The algorithms themselves."""
ABLATIONS = (
    replace(
        MABE,
        name="mabe-paper",
        policy=Sac(),
        prior=Adaptive(weighting=weighting.NormalisedQ()),
        rollouts=Rollouts(),
        start_from_prior=False,
    ),
    replace(
        MABE,
        name="mabe-scaled",
        policy=Sac(critics_first=1_000, penalised_backup=False),
        regulariser=ScaledKl(),
    ),
    replace(MABE, name="mabe-uncertainty", uncertainty=StdPenalty()),
    replace(MABE, name="mabe-advantage", prior=Adaptive(weighting=weighting.Advantage())),
    replace(MABE, name="mabe-flat-prior", prior=Unweighted()),
    replace(BC, name="mabe-no-rl", paper=MABE.paper, prior=replace(ADAPTIVE, fit=Network())),
    replace(MOPO, name="mabe-no-prior"),
    replace(
        MOPO, name="mopo-from-prior", policy=MABE.policy, prior=ADAPTIVE, start_from_prior=True
    ),
)
"""MABE's variants, and the paper's: Figure 3 (prior, RL, uncertainty), 4 (flat prior), 6 (iii).
`mabe-scaled` counts the divergence in actions, and the policy alone pays it (results/rows)."""
ALGORITHMS: dict[str, Algorithm] = {row.name: row for row in (*ROWS, *ABLATIONS)}


def algorithm(name: str) -> Algorithm:
    """Look a row up by its name."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
