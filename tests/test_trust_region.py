"""TRPO and NPG: steps have the right direction and the right length, each seed by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from mabe_transfer import natural
from mabe_transfer.baseline import Baseline
from mabe_transfer.errors import UserError
from mabe_transfer.networks import Actor
from mabe_transfer.parts import Batch, Trajectories
from mabe_transfer.parts.trust_region import Npg, Solver, Trpo, TrustRegionLearner
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

BASELINE = Baseline(hidden=(8,), updates=3, batch=32)
EXACT = Solver(iterations=50, damping=1e-6, every=1)
TRPO = Trpo(hidden=(8,), baseline=BASELINE, solver=Solver(every=1))
NPG = Npg(hidden=(8,), baseline=BASELINE, solver=Solver(every=1))


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=2, action=1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Played:
    """Trajectories of 3 steps from 64 states, whose reward is the noise of the action.

    So a larger action is the better one, everywhere. No state follows from another.
    """

    def __init__(self, seeds: tuple[int, ...] = (0,), gain: tuple[float, ...] = ()) -> None:
        self.seeds, self.gain = seeds, gain or (1.0,) * len(seeds)
        self.calls = 0

    def transitions(self) -> Batch:
        raise AssertionError("an on-policy learner asks for trajectories")

    def trajectories(self) -> Trajectories:
        self.calls += 1
        key = 100 * self.calls
        observation = torch.cat([normal(key + s, 1, 4, 64, 2) for s in self.seeds])
        noise = torch.cat([normal(key + 50 + s, 1, 3, 64, 1) for s in self.seeds])
        reward = noise[..., 0] * torch.tensor(self.gain)[:, None, None]
        alive = torch.ones_like(reward, dtype=torch.bool)
        alive[:, 2, :20] = False
        terminal = torch.zeros_like(reward)
        terminal[:, 1, :10] = 1.0
        played = {"model_length": alive.sum(1).float().mean(-1)}
        return Trajectories(observation, noise, reward, terminal, alive, played)


def mode(learner: TrustRegionLearner) -> Tensor:
    return learner.act(normal(5, 1, 32, 2).expand(len(learner.baseline.mean), -1, -1))


# -- direction and length ------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TRPO, NPG], ids=["trpo", "npg"])
def test_step_moves_every_policy_towards_the_better_actions(config: Trpo | Npg) -> None:
    learner = config.build(sizes(0, 1))
    before = mode(learner)
    metrics = learner.learn(Played((0, 1)))
    assert bool((mode(learner) > before).all())
    assert bool((metrics["gain"] > 0.0).all())


@pytest.mark.parametrize("delta", [1e-3, 0.05, 0.5])
def test_line_search_never_leaves_the_trust_region(delta: float) -> None:
    learner = replace(TRPO, delta=delta).build(sizes(0, 1, 2))
    experience = Played((0, 1, 2))
    for _ in range(10):
        metrics = learner.learn(experience)
        assert bool((metrics["kl"] <= delta).all())
        assert bool((metrics["gain"] > 0.0).all())
        assert metrics["stepped"].tolist() == [1.0] * 3


def test_divergence_that_is_measured_is_that_of_the_policies_before_and_after() -> None:
    learner = TRPO.build(sizes(0))
    before = TRPO.build(sizes(0))
    before.load_state({name: t.clone() for name, t in learner.state().items()})
    experience = Played()
    found = float(learner.learn(experience)["kl"])
    experience.calls = 0
    data = experience.trajectories()
    with torch.no_grad():
        steps = before._steps(data, torch.zeros_like(data.reward))
        _, divergence = steps.measure(learner.actor)
    assert found == pytest.approx(float(divergence), rel=1e-4)


def test_first_try_of_trpo_is_as_long_as_the_trust_region_is_wide() -> None:
    config = replace(TRPO, delta=1e-4, shrink=0.5, solver=EXACT)
    metrics = config.build(sizes(0)).learn(Played())
    longest = float(metrics["kl"]) * 4.0 ** (float(metrics["tries"]) - 1.0)  # a try is halved
    assert longest == pytest.approx(1e-4, rel=0.05)


def test_step_of_npg_diverges_by_half_its_normalised_length() -> None:
    solver = replace(EXACT, damping=1e-3)
    for step in (5e-5, 2e-4):
        metrics = replace(NPG, step=step, solver=solver).build(sizes(0)).learn(Played())
        assert float(metrics["kl"]) == pytest.approx(step / 2.0, rel=0.1)
        assert float(metrics["tries"]) == 1.0


def test_step_is_along_the_natural_gradient_and_not_along_the_plain_one() -> None:
    learner = replace(NPG, step=1e-4, solver=replace(EXACT, damping=0.01)).build(sizes(0))
    experience = Played()
    data = experience.trajectories()
    advantage, _ = learner.baseline.judge(data.observation, data.reward, data.terminal, data.alive)
    start = natural.flat(learner.actor.parameters()).detach()
    objective, _ = learner._steps(data, advantage).measure(learner.actor)
    gradient = natural.flat(torch.autograd.grad(objective.sum(), list(learner.actor.parameters())))
    states, alive = data.observation[:, :-1].flatten(1, 2), data.alive.flatten(1, 2)
    product = natural.fisher_product(learner.actor, states, alive, 0.01)
    matrix = torch.stack([product(row[None])[0] for row in torch.eye(gradient.shape[1])])
    expected = torch.linalg.solve(matrix, gradient[0])
    learner._step(data, advantage)
    moved = (natural.flat(learner.actor.parameters()).detach() - start)[0]
    assert float(torch.cosine_similarity(moved, expected, dim=0)) > 0.999
    assert float(torch.cosine_similarity(moved, gradient[0], dim=0)) < 0.9


# -- the line search -----------------------------------------------------------------------------


def searched(longest: Tensor, delta: float) -> tuple[TrustRegionLearner, Tensor, dict[str, Tensor]]:
    """Search along given steps; also the parameters before, [S, P]."""
    count = len(longest)
    learner = replace(TRPO, delta=delta, tries=4, shrink=0.5).build(sizes(*range(count)))
    data = Played(tuple(range(count))).trajectories()
    steps = learner._steps(data, data.reward)
    with torch.no_grad():
        before, _ = steps.measure(learner.actor)
    start = natural.flat(learner.actor.parameters()).detach().clone()
    return learner, start, learner._search(steps, before, longest)


def upwards(*lengths: float) -> Tensor:
    """Steps that raise the mean action of every seed by so much, before the squash, [S, P]."""
    found = torch.zeros(len(lengths), 2 * 8 + 8 + 8 * 2 + 2)
    found[:, -2] = torch.tensor(lengths)  # the last two parameters are the last layer's biases
    return found


def test_each_seed_shortens_its_own_step_until_it_is_accepted() -> None:
    # KL of means apart by d at std 0.1 is d^2 / 0.02: 0.02 allows |d| <= 0.02
    learner, start, metrics = searched(upwards(0.019, 0.07, -0.01), delta=0.02)
    assert metrics["tries"].tolist() == [1.0, 3.0, 4.0]
    assert metrics["stepped"].tolist() == [1.0, 1.0, 0.0]
    moved = natural.flat(learner.actor.parameters()).detach() - start
    torch.testing.assert_close(moved, upwards(0.019, 0.0175, 0.0), atol=1e-6, rtol=0.0)
    expected = [0.019**2 / 0.02, 0.0175**2 / 0.02, 0.0]
    assert metrics["kl"].tolist() == pytest.approx(expected, rel=1e-3)


def test_policy_whose_every_try_is_refused_stays_where_it_was() -> None:
    learner, start, metrics = searched(upwards(10.0), delta=1e-6)
    assert torch.equal(natural.flat(learner.actor.parameters()).detach(), start)
    assert (metrics["kl"].item(), metrics["stepped"].item(), metrics["gain"].item()) == (0, 0, 0)


def test_seed_without_anything_to_gain_stays_while_another_moves() -> None:
    # Without rewards and before its baseline knows better, every value and advantage is alike.
    learner = TRPO.build(sizes(0, 1))
    with torch.no_grad():
        for parameter in learner.baseline.net.parameters():
            parameter.zero_()
    before = mode(learner)
    metrics = learner.learn(Played((0, 1), gain=(0.0, 1.0)))
    assert metrics["stepped"].tolist() == [0.0, 1.0]
    assert torch.equal(mode(learner)[0], before[0])
    assert not torch.equal(mode(learner)[1], before[1])


# -- seeds, starts, state ------------------------------------------------------------------------


@pytest.fixture
def double() -> Iterator[None]:
    """Numbers of double precision: every conjugate gradient magnifies rounding tenfold or more."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("config", [TRPO, NPG], ids=["trpo", "npg"])
def test_seed_learns_the_same_alone_and_among_three(config: Trpo | Npg) -> None:
    config = replace(config, solver=Solver(iterations=4, every=1))
    alone, among = config.build(sizes(2)), config.build(sizes(0, 1, 2))
    one, three = Played((2,)), Played((0, 1, 2))
    for _ in range(3):
        left, right = alone.learn(one), among.learn(three)
        for name, value in left.items():
            torch.testing.assert_close(value[0], right[name][2], atol=1e-8, rtol=1e-8)
    for p, q in zip(alone.actor.parameters(), among.actor.parameters(), strict=True):
        torch.testing.assert_close(p[0], q[2], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("config", "std"), [(TRPO, 0.1), (NPG, 0.78)], ids=["trpo", "npg"])
def test_policy_starts_with_the_deviation_of_its_row(config: Trpo | Npg, std: float) -> None:
    policy = config.build(sizes(0, 1)).actor.distribution(normal(0, 2, 16, 2))
    torch.testing.assert_close(policy.log_std.exp(), torch.full((2, 16, 1), std))


def test_start_from_a_prior_takes_its_means_and_resets_its_deviations() -> None:
    size = sizes(0, 1)
    prior, observation = Actor(size, (8,), "prior"), normal(0, 2, 16, 2)
    learner = TRPO.build(size)
    learner.start_from(dict(prior.state_dict()))
    with torch.no_grad():
        found, given = (actor.distribution(observation) for actor in (learner.actor, prior))
    assert torch.equal(found.mean, given.mean)
    torch.testing.assert_close(found.log_std.exp(), torch.full((2, 16, 1), 0.1))
    assert float((given.log_std.exp() - 0.1).abs().min()) > 0.01


@pytest.mark.parametrize("std", [0.0, 1e-3, 8.0])
def test_deviation_that_no_policy_has_is_refused(std: float) -> None:
    with pytest.raises(UserError, match=r"policy.initial_std must lie between 0.0067 and 7.39"):
        Trpo(initial_std=std)


def test_learner_acts_by_its_mode_or_samples() -> None:
    learner = NPG.build(sizes(0))
    observation = normal(0, 1, 4, 2)
    assert torch.equal(learner.act(observation), learner.act(observation, torch.zeros(1, 4, 1)))
    assert not torch.equal(learner.act(observation), learner.act(observation, torch.ones(1, 4, 1)))


@pytest.mark.parametrize("config", [TRPO, NPG], ids=["trpo", "npg"])
def test_learner_goes_on_exactly_from_its_state(config: Trpo | Npg) -> None:
    going, resumed = (config.build(sizes(0, 4)) for _ in range(2))
    experience = Played((0, 4))
    for _ in range(2):
        going.learn(experience)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    found: list[dict[str, Any]] = []
    for learner in (going, resumed):
        experience.calls = 2
        found.append(learner.learn(experience))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    one, other = going.state(), resumed.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_metrics_are_one_number_a_seed_without_gradient() -> None:
    metrics = TRPO.build(sizes(0, 1, 2)).learn(Played((0, 1, 2)))
    assert {
        "kl",
        "tries",
        "gain",
        "stepped",
        "std",
        "value_error",
        "model_length",
    } == metrics.keys()
    assert all(value.shape == (3,) and not value.requires_grad for value in metrics.values())
