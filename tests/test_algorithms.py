"""Rows of parts: each is the composition that the paper names, and nonsense is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from mabe_transfer.algorithms import (
    ABM,
    ALGORITHMS,
    AWR,
    BC,
    BRAC_P,
    BRAC_V,
    BREMEN,
    COMBO,
    CQL,
    EDAC,
    IQL,
    MABE,
    MOBILE,
    MOPO,
    MOREL,
    REBRAC,
    SAC,
    TD3_BC,
    algorithm,
)
from mabe_transfer.composition import Algorithm, Imitation
from mabe_transfer.config import from_json, to_json, with_overrides
from mabe_transfer.errors import UserError
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl, ScaledKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.parts.uncertainty import Halt, StdPenalty
from mabe_transfer.values import InSample, LambdaReturns
from mabe_transfer.weighting import (
    Advantage,
    Exponential,
    Indicator,
    NormalisedAdvantage,
    NormalisedQ,
)

# policy, regulariser, dynamics, prior, uncertainty, starts from the prior, policy regularisation
TABLE: dict[str, tuple[Any, ...]] = {
    "bc": (Imitation, None, None, Unweighted, None, False, "implicit KL"),
    "awr": (Imitation, None, None, Adaptive, None, False, "implicit KL"),
    "iql": (Imitation, None, None, Adaptive, None, False, "implicit KL"),
    "abm": (Mpo, None, None, Adaptive, None, True, "implicit KL"),
    "td3+bc": (Td3, None, None, None, None, False, "squared distance"),
    "rebrac": (Td3, None, None, None, None, False, "squared distance"),
    "sac": (Sac, Entropy, None, None, None, False, "none"),
    "brac-v": (Sac, ExplicitKl, None, Unweighted, None, False, "explicit KL"),
    "brac-p": (Sac, ExplicitKl, None, Unweighted, None, False, "explicit KL"),
    "cql": (Sac, Entropy, None, None, None, False, "none"),
    "edac": (Sac, Entropy, None, None, None, False, "none"),
    "sac-n": (Sac, Entropy, None, None, None, False, "none"),
    "bremen": (Trpo, None, Ensemble, Unweighted, None, True, "implicit KL"),
    "morel": (Npg, None, Ensemble, None, Halt, False, "none"),
    "mopo": (Sac, Entropy, Ensemble, None, StdPenalty, False, "none"),
    "combo": (Sac, Entropy, Ensemble, None, None, False, "none"),
    "mobile": (Sac, Entropy, Ensemble, None, None, False, "none"),
    "mabe": (Sac, ExplicitKl, Ensemble, Adaptive, None, True, "explicit KL"),
    "mabe-scaled": (Sac, ScaledKl, Ensemble, Adaptive, None, True, "explicit KL"),
    "mabe-uncertainty": (Sac, ExplicitKl, Ensemble, Adaptive, StdPenalty, True, "explicit KL"),
    "mabe-advantage": (Sac, ExplicitKl, Ensemble, Adaptive, None, True, "explicit KL"),
    "mabe-flat-prior": (Sac, ExplicitKl, Ensemble, Unweighted, None, True, "explicit KL"),
    "mabe-no-rl": (Imitation, None, None, Adaptive, None, False, "implicit KL"),
    "mabe-no-prior": (Sac, Entropy, Ensemble, None, StdPenalty, False, "none"),
    "mopo-from-prior": (Sac, Entropy, Ensemble, Adaptive, StdPenalty, True, "none"),
}

CRITICS = {
    "cql": Conservative,
    "combo": Conservative,
    "edac": Diversity,
    "mobile": Inconsistency,
}


def kind(part: object) -> type | None:
    return None if part is None else type(part)


@pytest.mark.parametrize("name", TABLE)
def test_row_is_made_of_the_parts_of_its_table(name: str) -> None:
    row = ALGORITHMS[name]
    found = (
        kind(row.policy),
        kind(row.regulariser),
        kind(row.dynamics),
        kind(row.prior),
        kind(row.uncertainty),
        row.start_from_prior,
        row.policy_regularisation,
    )
    assert found == TABLE[name]
    assert (row.rollouts is None) == (row.dynamics is None)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_critics_pay_what_the_row_is_known_for(name: str) -> None:
    assert kind(ALGORITHMS[name].critic) == CRITICS.get(name)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_row_goes_by_its_own_name_and_says_where_it_is_from(name: str) -> None:
    row = algorithm(name)
    assert row.name == name
    assert row.paper


@pytest.mark.parametrize("name", ALGORITHMS)
def test_row_goes_through_json(name: str) -> None:
    text = json.dumps(to_json(ALGORITHMS[name]), allow_nan=False)
    assert from_json(Algorithm, json.loads(text), name) == ALGORITHMS[name]


def test_unknown_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no algorithm 'mape'.*Did you mean 'mabe'\?"):
        algorithm("mape")


@pytest.mark.parametrize("row", [BREMEN, MOREL], ids=lambda row: row.name)
def test_step_on_whole_trajectories_costs_what_the_readme_says(row: Algorithm) -> None:
    assert isinstance(row.rollouts, WholeRollouts)
    assert isinstance(row.policy, Trpo | Npg)
    played = row.rollouts.starts * row.rollouts.horizon
    assert played == 10_000
    assert 2.0 < row.policy.baseline.updates * row.policy.baseline.batch / played < 3.0


# -- differences between rows --------------------------------------------------------------------


def test_mabe_without_prior_and_with_uncertainty_is_mopo() -> None:
    row = replace(
        MABE,
        name="mopo",
        paper=MOPO.paper,
        policy=Sac(),  # no critics that learn first, for a policy that starts from nothing
        prior=None,
        start_from_prior=False,
        regulariser=Entropy(),
        rollouts=Rollouts(),  # without a prior there are no states of its data to start from
        uncertainty=StdPenalty(),
    )
    assert row == MOPO


def test_mabe_without_prior_is_defined_as_mopo() -> None:
    assert replace(ALGORITHMS["mabe-no-prior"], name="mopo") == MOPO


def test_mabe_without_rl_is_its_prior() -> None:
    assert MABE.prior is not None
    assert ALGORITHMS["mabe-no-rl"].prior == replace(MABE.prior, fit=Network())
    one, other = Network(), Fit()
    assert (one.rate, one.hidden) == (other.rate, other.hidden)


def test_mopo_without_model_is_sac() -> None:
    row = replace(MOPO, dynamics=None, rollouts=None, uncertainty=None)
    assert replace(row, name=SAC.name, paper=SAC.paper) == SAC


def test_brac_without_prior_is_sac() -> None:
    row = replace(BRAC_V, prior=None, regulariser=Entropy())
    assert replace(row, name=SAC.name, paper=SAC.paper) == SAC


def test_brac_s_prior_alone_is_behaviour_cloning() -> None:
    row = replace(BRAC_V, policy=Imitation(), regulariser=None, prior=Unweighted(fit=Network()))
    assert replace(row, name=BC.name, paper=BC.paper) == BC


def test_brac_p_is_brac_v_whose_target_pays_nothing() -> None:
    assert replace(BRAC_P, name=BRAC_V.name, policy=Sac(penalised_backup=True)) == BRAC_V
    assert BRAC_P.policy == Sac(penalised_backup=False)


def test_cql_without_its_critic_part_is_sac_with_other_settings() -> None:
    row = replace(CQL, critic=None, policy=Sac(), regulariser=Entropy())
    assert replace(row, name=SAC.name, paper=SAC.paper) == SAC


def test_combo_without_model_is_cql() -> None:
    row = replace(COMBO, dynamics=None, rollouts=None, critic=Conservative())
    assert replace(row, name=CQL.name, paper=CQL.paper) == CQL


def test_edac_without_diversity_is_many_critics() -> None:
    assert replace(EDAC, name="sac-n", critic=None) == ALGORITHMS["sac-n"]
    assert with_overrides(ALGORITHMS["sac-n"], {"policy.critics": "50"}).policy == Sac(
        hidden=(256, 256, 256), critics=50
    )


def test_mobile_without_its_critic_part_is_mopo_without_uncertainty() -> None:
    row = replace(MOBILE, critic=None, policy=Sac(), regulariser=Entropy())
    assert replace(row, name=MOPO.name, paper=MOPO.paper) == replace(MOPO, uncertainty=None)


@pytest.mark.parametrize("row", [CQL, COMBO, MOBILE])
def test_backup_of_the_row_holds_no_entropy(row: Algorithm) -> None:
    assert isinstance(row.policy, Sac)
    assert not row.policy.penalised_backup


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mabe-uncertainty", {"uncertainty": StdPenalty()}),
        ("mabe-advantage", {"prior": Adaptive(weighting=Advantage())}),
        ("mabe-flat-prior", {"prior": Unweighted()}),
    ],
)
def test_ablation_differs_from_mabe_in_one_column(name: str, changes: dict[str, Any]) -> None:
    assert replace(MABE, name=name, **changes) == ALGORITHMS[name]


def test_scaled_mabe_differs_by_how_the_divergence_is_counted_and_by_who_pays() -> None:
    assert MABE.policy == Sac(critics_first=1_000)
    policy = Sac(critics_first=1_000, penalised_backup=False)
    scaled = replace(MABE, name="mabe-scaled", policy=policy, regulariser=ScaledKl())
    assert scaled == ALGORITHMS["mabe-scaled"]


def test_mabe_weighs_as_the_paper_does() -> None:
    assert MABE.prior == Adaptive(weighting=NormalisedAdvantage())
    assert ALGORITHMS["mabe-paper"].prior == Adaptive(weighting=NormalisedQ())


def test_weightings_and_evaluations_are_those_of_their_papers() -> None:
    assert AWR.prior == Adaptive(
        weighting=Advantage(temperature=1.0, clip=20.0),
        evaluation=LambdaReturns(mix=0.95),
        fit=Network(rate=3e-4),
    )
    assert IQL.prior == Adaptive(
        weighting=Exponential(inverse_temperature=3.0, clip=100.0),
        evaluation=InSample(expectile=0.7, rate=3e-4, polyak=0.005),
        fit=Network(rate=3e-4),
        return_range=1000.0,
    )
    assert ABM.prior == Adaptive(weighting=Indicator(), evaluation=LambdaReturns())


def test_rebrac_is_td3_with_cloning_in_other_numbers() -> None:
    assert isinstance(REBRAC.policy, Td3)
    policy = replace(
        REBRAC.policy,
        hidden=(256, 256),
        policy_rate=3e-4,
        critic_rate=3e-4,
        value_weight=2.5,
        policy_penalty=1.0,
        critic_penalty=0.0,
        averaged=True,
        standardised=True,
        normalised_critics=False,
    )
    row = replace(REBRAC, policy=policy, batch=256, name=TD3_BC.name, paper=TD3_BC.paper)
    assert row == TD3_BC


@pytest.mark.parametrize("row", [ABM, BC, SAC, TD3_BC])
def test_kind_of_policy_follows_from_the_row(row: Algorithm) -> None:
    expected = "deterministic" if row.name == "td3+bc" else "squashed-normal"
    assert row.head == expected


# -- rows that make no sense ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        (SAC, {"regulariser": ExplicitKl()}, "regulariser ExplicitKl needs a prior"),
        (BC, {"prior": None}, "policy Imitation needs a prior"),
        (ABM, {"prior": None}, "policy Mpo needs a prior"),
        (BC, {"regulariser": Entropy()}, "policy Imitation takes no regulariser"),
        (TD3_BC, {"regulariser": Entropy()}, "policy Td3 takes no regulariser"),
        (TD3_BC, {"prior": Unweighted()}, "policy Td3 takes no prior"),
        (
            TD3_BC,
            {"dynamics": Ensemble(), "rollouts": Rollouts()},
            "policy Td3 clones the data's actions, so it takes no dynamics",
        ),
        (
            BC,
            {"dynamics": Ensemble(), "rollouts": Rollouts()},
            "policy Imitation takes no dynamics",
        ),
        (BC, {"prior": Unweighted()}, "policy Imitation trains its prior itself"),
        (BRAC_V, {"prior": Unweighted(fit=Network())}, "a prior is fitted before the policy"),
        (SAC, {"start_from_prior": True}, "start_from_prior needs a prior"),
        (BC, {"start_from_prior": True}, "start_from_prior needs policy Sac, Mpo, Trpo or Npg"),
        (
            MABE,
            {"prior": Unweighted(fit=Fit(hidden=(8,)))},
            "the policy starts as the prior, so set policy.hidden and prior.fit.hidden alike, not",
        ),
        (SAC, {"regulariser": None}, "policy Sac needs a regulariser"),
        (SAC, {"uncertainty": StdPenalty()}, "uncertainty needs dynamics"),
        (BC, {"critic": Diversity()}, "critic Diversity needs policy Sac"),
        (SAC, {"critic": Inconsistency()}, "critic Inconsistency needs dynamics"),
        (
            MOBILE,
            {"dynamics": Ensemble(elites=1)},
            r"critic Inconsistency needs dynamics.elites > 1",
        ),
        (EDAC, {"policy": Sac(critics=1)}, "critic Diversity needs policy.critics > 1"),
        (
            COMBO,
            {"rollouts": Rollouts(real_share=0.0)},
            "critic Conservative needs real transitions, rollouts.real_share > 0",
        ),
        (
            COMBO,
            {"rollouts": Rollouts(real_share=1.0)},
            "critic Conservative with model_states_only needs rollouts, their real_share < 1",
        ),
        (
            CQL,
            {"critic": Conservative(model_states_only=True)},
            "critic Conservative with model_states_only needs rollouts",
        ),
        (SAC, {"dynamics": Ensemble()}, "dynamics and rollouts go together"),
        (SAC, {"rollouts": Rollouts()}, "dynamics and rollouts go together"),
        (SAC, {"uncertainty": Halt()}, "uncertainty needs dynamics"),
        (
            SAC,
            {"policy": Npg(), "regulariser": None},
            "policy Npg needs dynamics, to play whole trajectories in",
        ),
        (
            BREMEN,
            {"dynamics": None, "rollouts": None},
            "policy Trpo needs dynamics, to play whole trajectories in",
        ),
        (BREMEN, {"regulariser": ExplicitKl()}, "policy Trpo takes no regulariser"),
        (MOREL, {"regulariser": Entropy()}, "policy Npg takes no regulariser"),
        (MOREL, {"rollouts": Rollouts()}, "policy Npg and rollouts Rollouts do not go together"),
        (
            MOPO,
            {"rollouts": WholeRollouts()},
            "policy Sac and rollouts WholeRollouts do not go together",
        ),
        (
            BREMEN,
            {"policy": Trpo(hidden=(8,))},
            "the policy starts as the prior, so set policy.hidden and prior.fit.hidden alike, not",
        ),
        (
            MOREL,
            {"rollouts": WholeRollouts(prior_start_share=0.5)},
            "rollouts from the prior's states need a prior",
        ),
        (
            MOPO,
            {"rollouts": Rollouts(prior_start_share=0.5)},
            "rollouts from the prior's states need a prior",
        ),
        (
            MOPO,
            {"prior": Unweighted()},
            "a prior goes unused by policy Sac and regulariser Entropy, without start_from_prior",
        ),
        (
            MOREL,
            {"prior": Adaptive()},
            "a prior goes unused by policy Npg and regulariser none, without start_from_prior",
        ),
    ],
)
def test_row_that_makes_no_sense_is_refused_with_both_columns(
    row: Algorithm, changes: dict[str, Any], message: str
) -> None:
    start = re.escape(f"The row '{row.name}' makes no sense: {message}")
    with pytest.raises(UserError, match=f"^{start}"):
        replace(row, **changes)


@pytest.mark.parametrize(
    "changes", [{"start_from_prior": True}, {"rollouts": Rollouts(prior_start_share=0.5)}]
)
def test_prior_that_something_uses_is_taken(changes: dict[str, Any]) -> None:
    assert replace(MOPO, prior=Unweighted(), **changes).prior == Unweighted()


def test_mpo_may_start_from_its_prior() -> None:
    assert with_overrides(ABM, {"start_from_prior": "true"}).start_from_prior


def test_override_of_a_row_is_checked_like_a_row() -> None:
    with pytest.raises(UserError, match=r"set policy.hidden and prior.fit.hidden alike"):
        with_overrides(MABE, {"policy.hidden": "[64, 64]"})
    both = with_overrides(MABE, {"rollouts.horizon": "1", "regulariser.target": "none"})
    assert both.rollouts == Rollouts(horizon=1, prior_start_share=0.5)
    assert both.regulariser == ExplicitKl(target=None)


@pytest.mark.parametrize(
    ("row", "setting", "sentence"),
    [
        ("mopo", "dynamics.batch=0", "dynamics.batch must be at least 1, not 0"),
        ("mopo", "uncertainty.weight=-1", "uncertainty.weight must be at least 0, not -1"),
        ("mopo", "dynamics.cooldown=1.5", "dynamics.cooldown must lie in 0..1, not 1.5"),
        ("mopo", "dynamics.hidden=[200,0]", "dynamics.hidden must be at least 1, not 0"),
        ("sac", "policy.critics=0", "policy.critics must be at least 1, not 0"),
        ("sac", "policy.discount=1.5", "policy.discount must lie in 0..1, not 1.5"),
        ("sac", "policy.policy_rate=nan", "policy.policy_rate must be at least 0, not nan"),
        ("brac-v", "regulariser.weight=-1", "regulariser.weight must be at least 0, not -1"),
        ("mabe", "regulariser.cap=0", "regulariser.cap must be above 0, not 0"),
        ("mabe", "prior.weighting.temperature=0", "prior.weighting.temperature must be above 0"),
        ("mabe", "prior.fit.batch=0", "prior.fit.batch must be at least 1, not 0"),
        ("bc", "batch=0", "batch must be at least 1, not 0"),
    ],
)
def test_numbers_out_of_range_are_refused_as_set_reaches_them(
    row: str, setting: str, sentence: str
) -> None:
    path, _, text = setting.partition("=")
    with pytest.raises(UserError, match=re.escape(sentence)):
        with_overrides(ALGORITHMS[row], {path: text})
