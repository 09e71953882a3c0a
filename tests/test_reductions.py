"""Rows that must be one another: bit for bit, with one seed, after twenty updates.

A part that is switched off leaves every other part's random stream untouched, so that what is left
is exactly the smaller algorithm.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mabe_transfer.algorithms import (
    ABM,
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
)
from mabe_transfer.baseline import Baseline
from mabe_transfer.composition import Algorithm, Imitation
from mabe_transfer.learner import Learner, Parts
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble, EnsembleModel
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.prior import Adaptive, BehaviourPrior, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Solver, Trpo
from mabe_transfer.parts.uncertainty import Disagreement, Halt, StdPenalty
from mabe_transfer.streams import Sizes
from mabe_transfer.values import LambdaReturns
from mabe_transfer.weighting import Advantage, Exponential, NormalisedQ

UPDATES = 20
FIT = Fit(updates=10, batch=16, hidden=(16,))
MODEL = Ensemble(members=3, elites=2, hidden=(16,), batch=64, max_epochs=2)
ROLLOUTS = Rollouts(horizon=2, starts=20, every=5, kept=2, real_share=0.25)


class Ring:
    """A task that ends beyond +-3 in the first dimension and clips at +-5."""

    def terminated(self, state: Tensor) -> Tensor:
        return state[..., 0].abs() > 3.0

    def clip(self, observation: Tensor) -> Tensor:
        return observation.clamp(-5.0, 5.0)


def rows(count: int, seed: int) -> Tensor:
    """Packed transitions of two observations and one action."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(count, 2, generator=generator)
    action = torch.tanh(torch.randn(count, 1, generator=generator))
    after = 0.9 * state + 0.5 * action
    terminal = (after[:, :1].abs() > 3.0).float()
    return torch.cat((state, action, -state[:, :1].abs(), after, terminal), 1)


REAL, DEMONSTRATED = rows(200, 0), rows(150, 1)
ENDS = torch.arange(200) % 10 == 9  # the last of every ten rows


@cache  # learning leaves fitted parts as they are, which is tested below
def fitted_prior(config: Unweighted | Adaptive, sizes: Sizes) -> BehaviourPrior:
    prior = config.build(sizes)
    prior.fit(DEMONSTRATED, ENDS[:150])
    return prior


@cache
def fitted_model(config: Ensemble, sizes: Sizes) -> EnsembleModel:
    model = config.build(sizes)
    model.fit(REAL)
    return model


def learner(row: Algorithm, *seeds: int) -> Learner:
    row, sizes = replace(row, batch=32), Sizes(seeds=seeds or (0,), observation=2, action=1)
    if isinstance(row.policy, Imitation):
        assert row.prior is not None
        prior: BehaviourPrior | None = row.prior.build(sizes)
        world = cast("Any", Ring())
        return Learner(Parts(row, sizes, world, DEMONSTRATED, None, None, prior, ENDS[:150]))
    prior = None if row.prior is None else fitted_prior(row.prior, sizes)
    model = None if row.dynamics is None else fitted_model(row.dynamics, sizes)
    demonstrated = None if prior is None else DEMONSTRATED
    parts = Parts(row, sizes, cast("Any", Ring()), REAL, demonstrated, model, prior, ENDS)
    return Learner(parts)


def after_updates(row: Algorithm, *seeds: int) -> dict[str, Tensor]:
    """Policy, critics and their targets after the updates."""
    found = learner(row, *seeds)
    for _ in range(UPDATES):
        found.step()
    names = ("policy/policy/", "policy/critics/", "policy/targets/", "policy/target_policy/")
    return {name: t for name, t in found.state().items() if name.startswith(names)}


def fit_of(row: Algorithm) -> Fit | Network:
    """How a small row's prior learns."""
    if isinstance(row.policy, Imitation):
        return Network(rate=FIT.rate, hidden=FIT.hidden)
    return FIT


def small(row: Algorithm, **changes: Any) -> Algorithm:
    """A row with small networks and short rollouts."""
    policy: Any = row.policy
    if not isinstance(policy, Imitation):
        policy = replace(policy, hidden=(16,))
    if isinstance(policy, Sac):
        policy = replace(policy, critics_first=0)  # three updates are all there are
    parts: dict[str, Any] = {"policy": policy}
    if row.dynamics is not None:
        parts |= {"dynamics": MODEL, "rollouts": ROLLOUTS}
    if row.prior is not None:
        parts["prior"] = replace(row.prior, fit=fit_of(row))
    return replace(row, **parts | changes)


def assert_same(one: Algorithm, other: Algorithm) -> None:
    left, right = after_updates(one), after_updates(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def assert_differ(one: Algorithm, other: Algorithm) -> None:
    left, right = after_updates(one), after_updates(other)
    assert any(not torch.equal(left[name], right[name]) for name in left)


BASELINE = Baseline(hidden=(16,), updates=3, batch=32)
SOLVER = Solver(iterations=3, every=2)
NPG = Npg(hidden=(16,), baseline=BASELINE, solver=SOLVER)
TRPO = Trpo(hidden=(16,), baseline=BASELINE, solver=SOLVER)
WHOLE = WholeRollouts(horizon=3, starts=20)
SMALL_MOREL = small(MOREL, policy=NPG, rollouts=WHOLE)
SMALL_BREMEN = small(BREMEN, policy=TRPO, rollouts=WHOLE)
DIRECT = [small(row) for row in (AWR, IQL, ABM, TD3_BC, REBRAC)]
NO_ENTROPY = Entropy(initial=0.0, automatic=False)
SMALL_SAC = small(SAC)


def test_updates_change_the_policy() -> None:
    before = learner(SMALL_SAC).state()["policy/policy/body.weights.0"]
    assert not torch.equal(before, after_updates(SMALL_SAC)["policy/policy/body.weights.0"])


def test_brac_with_weight_zero_is_sac_without_entropy() -> None:
    brac = small(BRAC_V, regulariser=ExplicitKl(weight=0.0))
    assert_same(brac, small(SAC, regulariser=NO_ENTROPY))


def test_brac_with_a_weight_is_not_sac() -> None:
    brac = after_updates(small(BRAC_V, regulariser=ExplicitKl(weight=0.1)))
    sac = after_updates(small(SAC, regulariser=NO_ENTROPY))
    assert any(not torch.equal(brac[name], sac[name]) for name in sac)


def test_brac_p_with_weight_zero_is_sac_without_entropy() -> None:
    brac = small(BRAC_P, regulariser=ExplicitKl(weight=0.0))
    assert_same(brac, small(SAC, regulariser=NO_ENTROPY))


def test_brac_p_with_a_weight_is_not_brac_v() -> None:
    assert_differ(small(BRAC_P), small(BRAC_V))


def test_mopo_on_real_data_only_is_sac() -> None:
    assert_same(small(MOPO, rollouts=replace(ROLLOUTS, real_share=1.0)), SMALL_SAC)


def test_mabe_with_weight_zero_on_real_data_only_is_sac_without_entropy() -> None:
    mabe = small(
        MABE,
        regulariser=ExplicitKl(weight=0.0),
        rollouts=replace(ROLLOUTS, real_share=1.0),
        start_from_prior=False,
    )
    assert_same(mabe, small(SAC, regulariser=NO_ENTROPY))


def test_mabe_on_real_data_only_is_brac_with_its_prior() -> None:
    regulariser = ExplicitKl(target=0.5)
    mabe = small(
        MABE,
        regulariser=regulariser,
        rollouts=replace(ROLLOUTS, real_share=1.0),
        start_from_prior=False,
    )
    assert_same(mabe, small(BRAC_V, regulariser=regulariser, prior=Adaptive(fit=FIT)))


def test_uncertainty_with_weight_zero_is_none() -> None:
    assert_same(small(MABE, uncertainty=StdPenalty(weight=0.0)), small(MABE, uncertainty=None))


def test_uncertainty_with_a_weight_is_felt() -> None:
    with_it = after_updates(small(MABE, uncertainty=StdPenalty(weight=1.0)))
    without = after_updates(small(MABE))
    assert any(not torch.equal(with_it[name], without[name]) for name in without)


@pytest.mark.parametrize("row", [small(MOPO), SMALL_MOREL], ids=["mopo", "morel"])
def test_halt_beyond_every_threshold_is_none(row: Algorithm) -> None:
    never = replace(row, uncertainty=Halt(scale=math.inf))
    assert_same(never, replace(row, uncertainty=None))


@pytest.mark.parametrize("row", [small(MOPO), SMALL_MOREL], ids=["mopo", "morel"])
def test_halt_within_the_threshold_is_felt(row: Algorithm) -> None:
    halting = after_updates(replace(row, uncertainty=Halt(quantile=0.5)))
    without = after_updates(replace(row, uncertainty=None))
    assert any(not torch.equal(halting[name], without[name]) for name in without)


def test_bremen_starts_at_the_mode_of_its_prior_and_morel_does_not_know_one() -> None:
    found = learner(SMALL_BREMEN)
    assert found.parts.prior is not None
    observation = np.random.default_rng(0).standard_normal((1, 5, 2))
    inputs = torch.from_numpy(observation).float()
    cloned = found.parts.prior.act(inputs).numpy()
    np.testing.assert_array_equal(found.act(observation), cloned)
    assert learner(SMALL_MOREL).parts.demonstrated is None


def test_on_policy_rows_start_from_the_prior_s_states_as_often_as_the_row_says() -> None:
    found = learner(replace(SMALL_BREMEN, rollouts=replace(WHOLE, prior_start_share=0.3)))
    other = {tuple(row[:2]) for row in DEMONSTRATED.tolist()}
    starts = found.trajectories().observation[0, 0].tolist()
    assert sum(tuple(start) in other for start in starts) == 6


def test_mabe_with_weight_zero_from_scratch_is_mopo_without_entropy() -> None:
    mabe = small(
        MABE,
        regulariser=ExplicitKl(weight=0.0),
        uncertainty=StdPenalty(),
        start_from_prior=False,
    )
    assert_same(mabe, small(MOPO, regulariser=NO_ENTROPY))


# -- critics that pay ----------------------------------------------------------------------------

REAL_ONLY = replace(ROLLOUTS, real_share=1.0)
DETERMINISTIC = Sac(hidden=(16,), policy_rate=1e-4, penalised_backup=False)  # CQL's and MOBILE's


@pytest.mark.parametrize("penalised", [True, False])
def test_cql_with_weight_zero_is_sac(penalised: bool) -> None:
    policy = replace(DETERMINISTIC, penalised_backup=penalised)
    cql = small(CQL, policy=policy, critic=Conservative(weight=0.0))
    assert_same(cql, small(SAC, policy=policy, regulariser=cql.regulariser))


def test_cql_with_a_weight_is_not_sac() -> None:
    cql = small(CQL)
    assert_differ(cql, replace(cql, critic=None))


@pytest.mark.parametrize("only", [True, False])
def test_combo_with_weight_zero_is_mopo_without_uncertainty(only: bool) -> None:
    combo = small(COMBO, critic=Conservative(weight=0.0, model_states_only=only))
    mopo = small(MOPO, policy=DETERMINISTIC, regulariser=combo.regulariser, uncertainty=None)
    assert_same(combo, mopo)


def test_combo_on_real_data_only_is_cql() -> None:
    critic = Conservative(model_states_only=False)
    assert_same(small(COMBO, rollouts=REAL_ONLY, critic=critic), small(CQL))


def test_combo_pushes_down_elsewhere_than_at_all_states() -> None:
    assert_differ(small(COMBO), small(COMBO, critic=Conservative(model_states_only=False)))


def test_edac_with_weight_zero_and_two_critics_is_sac() -> None:
    assert_same(small(EDAC, policy=Sac(hidden=(16,)), critic=Diversity(weight=0.0)), SMALL_SAC)


def test_edac_with_weight_zero_is_many_critics_without_it() -> None:
    edac = small(EDAC, critic=Diversity(weight=0.0))
    assert_same(edac, replace(edac, critic=None))
    assert_differ(edac, small(EDAC))


def test_mobile_with_weight_zero_is_mopo_without_uncertainty() -> None:
    mobile = small(MOBILE, critic=Inconsistency(weight=0.0))
    mopo = small(MOPO, policy=DETERMINISTIC, regulariser=mobile.regulariser, uncertainty=None)
    assert_same(mobile, mopo)
    assert_differ(mobile, small(MOBILE))


def test_mobile_on_real_data_only_is_sac() -> None:
    mobile = small(MOBILE, rollouts=REAL_ONLY)
    assert_same(mobile, small(SAC, policy=DETERMINISTIC, regulariser=mobile.regulariser))


def test_disagreement_with_weight_zero_is_none() -> None:
    without = small(MOPO, uncertainty=None)
    assert_same(small(MOPO, uncertainty=Disagreement(weight=0.0)), without)
    assert_differ(small(MOPO, uncertainty=Disagreement()), without)


# -- priors --------------------------------------------------------------------------------------


def test_adaptive_prior_at_infinite_temperature_is_the_flat_prior() -> None:
    sizes = Sizes(seeds=(0, 1), observation=2, action=1)
    adaptive = Adaptive(fit=FIT, weighting=NormalisedQ(temperature=math.inf)).build(sizes)
    flat = Unweighted(fit=FIT).build(sizes)
    adaptive.fit(DEMONSTRATED)
    flat.fit(DEMONSTRATED)
    for name, tensor in flat.policy_state().items():
        assert torch.equal(tensor, adaptive.policy_state()[name])


def test_mabe_at_infinite_temperature_is_mabe_with_the_flat_prior() -> None:
    infinite = Adaptive(fit=FIT, weighting=NormalisedQ(temperature=math.inf))
    assert_same(small(MABE, prior=infinite), small(MABE, prior=Unweighted(fit=FIT)))


@pytest.mark.parametrize(
    "prior",
    [Unweighted(), Adaptive(), Adaptive(evaluation=LambdaReturns(refresh=4))],
    ids=["flat", "adaptive", "returns"],
)
def test_imitation_is_its_prior_fitted_beforehand(prior: Unweighted | Adaptive) -> None:
    sizes = Sizes(seeds=(0, 1), observation=2, action=1)
    fitted = replace(prior, fit=FIT).build(sizes)
    fitted.fit(DEMONSTRATED)
    row = replace(BC, prior=replace(prior, fit=fit_of(BC)), batch=FIT.batch)
    assert row.prior is not None
    own = row.prior.build(sizes)
    parts = Parts(row, sizes, cast("Any", Ring()), DEMONSTRATED, DEMONSTRATED, None, own)
    found = Learner(parts)
    for _ in range(FIT.updates):
        found.step()
    one, other = fitted.state(), found.policy.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("row", "weighting"),
    [
        (IQL, Exponential(inverse_temperature=0.0)),
        (AWR, Advantage(temperature=math.inf)),
    ],
    ids=["iql", "awr"],
)
def test_weighted_imitation_without_weights_is_behaviour_cloning(
    row: Algorithm, weighting: Any
) -> None:
    assert isinstance(row.prior, Adaptive)
    flat = replace(row, prior=replace(row.prior, weighting=weighting, fit=fit_of(BC)))
    assert_same(flat, small(BC))
    weighted = after_updates(small(row))
    assert any(not torch.equal(weighted[name], t) for name, t in after_updates(small(BC)).items())


def test_rebrac_without_critic_penalty_and_td3_bc_s_settings_is_td3_bc() -> None:
    """With one action dimension, where a sum of squares is their mean."""
    assert isinstance(REBRAC.policy, Td3)
    policy = replace(
        REBRAC.policy,
        hidden=(16,),
        policy_rate=3e-4,
        critic_rate=3e-4,
        value_weight=2.5,
        policy_penalty=1.0,
        standardised=True,
        normalised_critics=False,
    )
    rebrac = replace(REBRAC, policy=replace(policy, critic_penalty=0.0))
    assert_same(rebrac, small(TD3_BC))
    penalised = after_updates(replace(REBRAC, policy=replace(policy, critic_penalty=0.1)))
    plain = after_updates(rebrac)
    assert any(not torch.equal(penalised[name], tensor) for name, tensor in plain.items())


def test_imitation_acts_as_the_mode_of_its_prior() -> None:
    sizes = Sizes(seeds=(0, 1), observation=2, action=1)
    prior = Unweighted(fit=FIT).build(sizes)
    prior.fit(DEMONSTRATED)
    observation = np.random.default_rng(0).standard_normal((2, 5, 2))
    with torch.no_grad():
        expected = prior.distribution(torch.from_numpy(observation).float()).mode().numpy()
    acted = prior.act(torch.from_numpy(observation).float()).numpy()
    np.testing.assert_array_equal(acted, expected)


def test_policy_that_starts_from_the_prior_acts_as_it_does() -> None:
    found = learner(small(MABE))
    prior = found.parts.prior
    assert prior is not None
    observation = np.random.default_rng(0).standard_normal((1, 5, 2))
    expected = prior.act(torch.from_numpy(observation).float()).numpy()
    np.testing.assert_array_equal(found.act(observation), expected)


def test_learning_leaves_the_prior_and_the_model_as_they_were_fitted() -> None:
    found = learner(small(MABE, uncertainty=StdPenalty()))
    assert found.parts.prior is not None
    assert found.parts.model is not None
    states = (found.parts.prior.state(), found.parts.model.state())
    before = [{name: t.clone() for name, t in state.items()} for state in states]
    for _ in range(UPDATES):
        found.step()
    for old, now in zip(
        before, (found.parts.prior.state(), found.parts.model.state()), strict=True
    ):
        assert all(torch.equal(old[name], now[name]) for name in old)


@pytest.mark.parametrize(
    "row",
    [
        small(MABE, uncertainty=StdPenalty()),
        *(small(row) for row in (MOPO, BRAC_V, CQL, COMBO, EDAC, MOBILE)),
        *DIRECT,
    ],
    ids=lambda row: row.name,
)
def test_seed_learns_the_same_alone_and_among_three(row: Algorithm) -> None:
    alone, among = after_updates(row, 5), after_updates(row, 3, 4, 5)
    for name, tensor in alone.items():
        its = among[name][-len(tensor) :]
        torch.testing.assert_close(tensor, its, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "row",
    [
        *(small(row) for row in (MABE, MOPO, BRAC_V, CQL, COMBO, EDAC, MOBILE)),
        SMALL_MOREL,
        SMALL_BREMEN,
        *DIRECT,
    ],
    ids=lambda row: row.name,
)
def test_learner_goes_on_exactly_from_its_state(row: Algorithm) -> None:
    going, states = learner(row, 0, 7), {}
    for update in range(UPDATES):
        if update in (3, 5, 12):  # between rollouts, at one, and after others
            states[update] = {name: tensor.clone() for name, tensor in going.state().items()}
        going.step()
    means, whole = going.means.take(), going.state()
    for update, state in states.items():
        resumed = learner(row, 0, 7)
        resumed.load_state(state, update)
        for _ in range(UPDATES - update):
            resumed.step()
        assert resumed.means.take() == means
        found = resumed.state()
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.equal(found[name], tensor), (update, name)


def test_batches_have_the_share_of_real_transitions_that_the_row_says() -> None:
    found = learner(small(MOPO, rollouts=replace(ROLLOUTS, real_share=0.25)))
    found.step()
    known = {tuple(row) for row in REAL.tolist()}
    drawn = found.transitions()
    columns = (drawn.observation, drawn.action, drawn.reward[..., None], drawn.next_observation)
    rows = torch.cat((*columns, drawn.terminal[..., None]), -1)[0].tolist()
    assert [tuple(row) in known for row in rows] == [True] * 8 + [False] * 24
    assert drawn.real == 8


def test_rollouts_start_from_the_prior_s_states_as_often_as_the_row_says() -> None:
    found = learner(small(MABE, rollouts=replace(ROLLOUTS, prior_start_share=0.3)))
    known = {tuple(row[:2]) for row in REAL.tolist()}
    other = {tuple(row[:2]) for row in DEMONSTRATED.tolist()}
    starts = [tuple(row) for row in found._starts()[0].tolist()]
    assert sum(start in known for start in starts) == 14
    assert sum(start in other for start in starts) == 6


def test_means_are_over_the_steps_that_had_the_metric() -> None:
    found, alike = learner(small(MOPO)), learner(small(MOPO))
    values = [found.step() for _ in range(UPDATES)]
    means = found.means.take()
    losses = [float(v["critic_loss"]) for v in values]
    assert means["critic_loss"] == pytest.approx([sum(losses) / UPDATES])
    rolled = []
    for _ in range(UPDATES):
        alike.step()
        rolled += alike.means.take().get("model_reward", [])
    assert len(rolled) == 4
    assert means["model_reward"] == pytest.approx([sum(rolled) / 4])
    assert found.means.take() == {}


def test_state_with_a_number_that_is_none_is_named() -> None:
    found = learner(SMALL_SAC)
    assert found.not_finite() is None
    with torch.no_grad():
        found.policy.policy_state()["body.weights.0"][0, 0, 0] = math.nan
    assert found.not_finite() == "policy/policy/body.weights.0"
