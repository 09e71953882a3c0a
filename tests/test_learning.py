"""Every row learns: a mass on a line, pushed towards the middle, where the best policy is known.

The position moves by half the action, and a step costs the square of where it ends. D1 is uniform
in positions and actions; in D2, somebody steers towards the middle, clumsily. The best policy
pushes by twice the distance, as far as it can.

Scores are 0 for doing nothing and 1 for the best policy, over 8 steps from 101 starts in +-2.
Chance of the threshold 0.9: of 600 untrained policies none came above 0.56; of 1,000 linear ones
with weight and bias from N(0, 1), 11 % reach it, so 1 % reach it with both seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.baseline import Baseline
from mabe_transfer.composition import Imitation
from mabe_transfer.learner import Learner, Parts
from mabe_transfer.networks import Actor
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.dynamics import Ensemble, EnsembleModel
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Adaptive, BehaviourPrior, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Solver, Trpo
from mabe_transfer.parts.uncertainty import Halt
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabe_transfer.composition import Algorithm

THRESHOLD = 0.9
SEEDS = (0, 1)
SIZES = Sizes(seeds=SEEDS, observation=1, action=1)


class Line:
    """A task without an end."""

    def terminated(self, state: Tensor) -> Tensor:
        return torch.zeros(state.shape[:-1], dtype=torch.bool)

    def clip(self, observation: Tensor) -> Tensor:
        return observation


def rows(position: Tensor, action: Tensor) -> Tensor:
    """Packed transitions of the line, from [N, 1] positions and actions."""
    after = position + 0.5 * action
    return torch.cat((position, action, -after.square(), after, torch.zeros_like(after)), 1)


def uniform(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(count, 1, generator=generator) - 1.0


D1 = rows(2.5 * uniform(2000, 0), uniform(2000, 1))
STATES = 2.5 * uniform(1000, 2)
D2 = rows(STATES, (-1.2 * STATES + 0.5 * uniform(1000, 3)).clamp(-0.9, 0.9))


def cost(act: Callable[[Any], Any]) -> Any:
    """Mean cost a step of S policies, [S]."""
    position = np.broadcast_to(np.linspace(-2.0, 2.0, 101)[None, :, None], (len(SEEDS), 101, 1))
    total = np.zeros(len(SEEDS))
    for _ in range(8):
        position = position + 0.5 * act(position)
        total += (position**2).mean((1, 2))
    return total / 8.0


NOTHING = cost(np.zeros_like)
BEST = cost(lambda position: np.clip(-2.0 * position, -1.0, 1.0))


def score(act: Callable[[Any], Any]) -> Any:
    return (NOTHING - cost(act)) / (NOTHING - BEST)


FIT = Fit(updates=200, rate=6e-3, batch=64, hidden=(32, 32))
POLICY: dict[str, Any] = {
    "hidden": (32, 32),
    "policy_rate": 3e-3,
    "critic_rate": 3e-3,
    "discount": 0.8,
    "polyak": 0.05,
}
NETWORK = Network(rate=FIT.rate, hidden=FIT.hidden)
PARTS: dict[str, Any] = {
    "dynamics": Ensemble(
        members=3, elites=2, hidden=(32,), rate=5e-3, batch=64, max_epochs=8, weight_decay=()
    ),
    "rollouts": Rollouts(horizon=2, starts=200, every=50, kept=2, real_share=0.25),
}


def small(name: str, **changes: Any) -> Algorithm:
    """A row at the size of the line, with its kinds of parts as they are."""
    row = ALGORITHMS[name]
    parts = {column: part for column, part in PARTS.items() if getattr(row, column) is not None}
    if isinstance(row.policy, Sac):
        parts["policy"] = replace(
            row.policy, critics_first=row.policy.critics_first // 100, **POLICY
        )
    if isinstance(row.policy, Mpo):
        parts["policy"] = replace(row.policy, every=20, trust=0.1, **POLICY)
    if row.prior is not None:
        fit = NETWORK if isinstance(row.policy, Imitation) else FIT
        parts["prior"] = replace(row.prior, fit=fit)
    return replace(row, **parts | changes)


QUIET = Entropy(initial=0.05, automatic=False)
PUSHED = Conservative(weight=1.0, actions=4, model_states_only=True)


@cache  # learning leaves fitted parts as they are
def fitted_prior(config: Unweighted | Adaptive) -> BehaviourPrior:
    prior = config.build(SIZES)
    prior.fit(D2)
    return prior


@cache
def fitted_model(config: Ensemble) -> EnsembleModel:
    model = config.build(SIZES)
    model.fit(D1)
    return model


def built(row: Algorithm, data: Tensor = D1) -> Learner:
    """Fit a row's parts."""
    model = None if row.dynamics is None else fitted_model(row.dynamics)
    prior, demonstrated, real = None, None, data
    if isinstance(row.policy, Imitation):
        assert row.prior is not None
        prior, demonstrated, real = row.prior.build(SIZES), D2, D2
    elif row.prior is not None:
        prior, demonstrated = fitted_prior(row.prior), D2
    return Learner(
        Parts(replace(row, batch=64), SIZES, cast("Any", Line()), real, demonstrated, model, prior)
    )


def learned(row: Algorithm, updates: int = 150, data: Tensor = D1) -> Callable[[Any], Any]:
    """Fit a row's parts and train its policies."""
    learner = built(row, data)
    for _ in range(updates):
        learner.step()
    return learner.act


def test_best_policy_scores_one_and_doing_nothing_zero() -> None:
    assert score(np.zeros_like).tolist() == [0.0, 0.0]
    assert score(lambda x: np.clip(-2.0 * x, -1.0, 1.0)).tolist() == [1.0, 1.0]
    assert (score(lambda x: np.clip(-1.0 * x, -1.0, 1.0)) < 1.0).all()
    assert (score(lambda x: np.clip(2.0 * x, -1.0, 1.0)) < 0.0).all()


def test_threshold_is_beyond_untrained_policies() -> None:
    actors = [
        Actor(Sizes(seeds=(k, k + 1), observation=1, action=1), (32, 32), "chance")
        for k in range(0, 60, 2)
    ]
    best = max(float(score(acting(actor)).max()) for actor in actors)
    assert best < 0.7


def acting(actor: Actor) -> Callable[[Any], Any]:
    """An actor's mode."""

    def act(position: Any) -> Any:
        with torch.no_grad():
            inputs = torch.from_numpy(np.array(position, dtype=np.float32))
            return actor.distribution(inputs).mode().numpy()

    return act


def weighing(name: str, **changes: Any) -> Algorithm:
    """A small row whose prior weighs its data, at the line's discount and with quick critics."""
    prior = ALGORITHMS[name].prior
    assert isinstance(prior, Adaptive)
    evaluation = replace(prior.evaluation, rate=3e-3)
    fit = NETWORK if isinstance(ALGORITHMS[name].policy, Imitation) else FIT
    quick = replace(prior, evaluation=evaluation, discount=0.8, fit=fit)
    return small(name, prior=replace(quick, **changes))


QUICK: dict[str, Any] = {
    "hidden": (32, 32), "critic_rate": 3e-3, "discount": 0.8, "polyak": 0.05,
}  # fmt: skip
ABM = weighing("abm")
TD3_BC = ALGORITHMS["td3+bc"]
REBRAC = ALGORITHMS["rebrac"]


@pytest.mark.parametrize(
    "row",
    [
        weighing("awr"),
        weighing("iql", return_range=50.0),  # the line's episodes are one step long
        ABM,
        replace(TD3_BC, policy=replace(cast("Any", TD3_BC.policy), policy_rate=3e-3, **QUICK)),
        replace(
            REBRAC,
            policy=replace(
                cast("Any", REBRAC.policy), policy_rate=3e-3, **QUICK | {"hidden": (32, 32, 32)}
            ),
        ),
        small("bc"),
        small("sac", regulariser=QUIET),
        small("brac-v", regulariser=ExplicitKl(weight=0.1)),
        pytest.param(small("brac-p", regulariser=ExplicitKl(weight=0.1)), marks=pytest.mark.slow),
        small("cql", regulariser=QUIET, critic=Conservative(weight=1.0, actions=4)),
        small("edac", regulariser=QUIET),
        pytest.param(small("sac-n", regulariser=QUIET), marks=pytest.mark.slow),
        small("mopo", regulariser=QUIET),
        small("combo", regulariser=QUIET, critic=PUSHED),
        small("mobile", regulariser=QUIET),
        small("mabe", regulariser=ExplicitKl(weight=0.1)),
        small("mabe-no-rl"),
    ],
    ids=lambda row: row.name,
)
def test_row_learns_to_push_towards_the_middle(row: Algorithm) -> None:
    assert (score(learned(row, 200)) > THRESHOLD).all()


def test_abm_stays_in_its_trust_region_from_the_start() -> None:
    """From random weights it is left for 200 updates: what MPO fits to lies around the prior.

    Adam's first steps, as long for a gradient of noise as for any, may leave it.
    """
    policy = Mpo(hidden=(32, 32), discount=0.8)
    learner = built(replace(ABM, policy=policy))
    kl = torch.stack([learner.step()["kl"] for _ in range(100)])
    assert float(kl[20:].max()) <= policy.trust
    assert float(kl.mean()) <= policy.trust / 2.0


BASELINE = Baseline(hidden=(32, 32), rate=3e-3, updates=10, batch=128, discount=0.8)
SOLVER = Solver(iterations=5, every=2)
WHOLE = WholeRollouts(horizon=4, starts=60)
NPG = Npg(hidden=(32, 32), baseline=BASELINE, solver=SOLVER)
TRPO = Trpo(hidden=(32, 32), baseline=BASELINE, solver=SOLVER, initial_std=0.3)


def test_morel_learns_to_push_towards_the_middle() -> None:
    row = small("morel", policy=NPG, rollouts=WHOLE, uncertainty=Halt(penalty=5.0))
    assert (score(learned(row, updates=15)) > THRESHOLD).all()


def test_bremen_learns_to_push_towards_the_middle_from_a_prior_that_does_not() -> None:
    fit = replace(FIT, updates=30)
    row = small("bremen", policy=TRPO, rollouts=WHOLE, prior=Unweighted(fit=fit))
    before = score(learned(small("bc"), fit.updates))
    assert (before < 0.6).all()
    assert (score(learned(row, updates=20)) > THRESHOLD).all()


def test_learning_improves_on_the_prior_that_it_starts_from() -> None:
    fit = replace(FIT, updates=30)
    prior = Adaptive(fit=fit)
    row = small("mabe", prior=prior, regulariser=ExplicitKl(weight=0.02))
    alone = small("mabe-no-rl", prior=replace(prior, fit=NETWORK))
    before = score(learned(alone, fit.updates))
    assert (score(learned(row)) > before + 0.05).all()


def test_conservative_critics_keep_the_policy_at_logged_actions_that_sac_leaves() -> None:
    """In the data nobody pushes by more than 0.1, and the values beyond are a guess."""
    timid = rows(STATES, 0.1 * uniform(1000, 3))
    sac = small("sac", regulariser=QUIET)
    cql = small("cql", regulariser=QUIET, critic=Conservative(weight=5.0, actions=4))
    position = STATES.numpy()[None].repeat(2, axis=0)
    bold, careful = (np.abs(learned(row, data=timid)(position)).mean((1, 2)) for row in (sac, cql))
    assert (bold > 0.5).all()
    assert (careful < 0.1).all()


def test_heavy_weight_keeps_the_policy_at_its_prior() -> None:
    row = small("brac-v", regulariser=ExplicitKl(weight=1e4))
    position = np.linspace(-2.0, 2.0, 21).reshape(1, 21, 1).repeat(2, axis=0)
    heavy = learned(replace(row, start_from_prior=True))(position)
    prior = learned(small("bc"), FIT.updates)(position)
    np.testing.assert_allclose(heavy, prior, atol=0.2)
