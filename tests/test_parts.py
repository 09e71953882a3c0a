"""Each part alone: it moves what it names, in the right direction, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from mabe_transfer.batches import bootstraps
from mabe_transfer.dual import DualWeight
from mabe_transfer.errors import Diverged, UserError
from mabe_transfer.imagination import imagine
from mabe_transfer.parts import Batch, Data, unpack
from mabe_transfer.parts.dynamics import Ensemble, EnsembleFit, EnsembleModel
from mabe_transfer.parts.prior import Adaptive, BehaviourPrior, Fit, Network, Unweighted
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl, ScaledKl
from mabe_transfer.parts.rollouts import RolloutPool, Rollouts
from mabe_transfer.parts.sac import Sac, SacLearner
from mabe_transfer.parts.uncertainty import Disagreement, StdPenalty
from mabe_transfer.squashed import SquashedNormal
from mabe_transfer.streams import Sizes, Streams
from mabe_transfer.values import InSample
from mabe_transfer.weighting import Advantage, NormalisedAdvantage, NormalisedQ

if TYPE_CHECKING:
    from mabe_transfer.imagination import Moments


def sizes(*seeds: int, observation: int = 2, action: int = 1) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=observation, action=action)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(size: Sizes, count: int = 32) -> Batch:
    s, o, a = size.stack, size.observation, size.action
    return Batch(
        normal(0, s, count, o),
        torch.tanh(normal(1, s, count, a)),
        normal(2, s, count),
        normal(3, s, count, o),
        torch.zeros(s, count),
        real=count,
    )


def unfitted_prior(size: Sizes) -> BehaviourPrior:
    return Unweighted(fit=Fit(hidden=(8,))).build(size)


def tensors(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    after = module.parameters()
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


# -- packed rows ---------------------------------------------------------------------------------


def test_packed_row_is_unpacked_into_its_columns() -> None:
    rows = torch.arange(2.0 * 9).reshape(1, 2, 9)
    found = unpack(rows, 3, 1)
    assert found.observation[0].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert found.action[0].tolist() == [[3], [12]]
    assert found.reward[0].tolist() == [4, 13]
    assert found.next_observation[0].tolist() == [[5, 6, 7], [14, 15, 16]]
    assert found.terminal[0].tolist() == [8, 17]


# -- soft actor-critic ---------------------------------------------------------------------------


def sac(size: Sizes, weight: float = 0.0, **changes: Any) -> SacLearner:
    """A learner with a fixed weight of the entropy, none unless given."""
    regulariser = Entropy(initial=weight, automatic=False).build(size, None)
    config = replace(Sac(hidden=(16,), policy_rate=1e-2, critic_rate=1e-2), **changes)
    return config.build(size, regulariser)


def backup(learner: SacLearner, data: Batch) -> Tensor:
    """The target of the learner's critics."""
    return learner._target(data, learner._choose(data, moves=False))


def test_critic_step_moves_values_towards_their_target() -> None:
    size = sizes(0, 1)
    learner, data = sac(size, discount=0.0), batch(size)

    def error() -> Tensor:
        with torch.no_grad():
            values = learner.critics.values(data.observation, data.action)
        return (values - data.reward[:, None]).square().mean(-1)

    before = error()
    learner._step_critics(data, backup(learner, data))
    assert bool((error() < before).all())


def test_policy_step_raises_value_less_penalty() -> None:
    size = sizes(0, 1)
    learner, data = sac(size, weight=0.1, critic_rate=0.0), batch(size)
    noise = normal(9, 2, 32, 1)

    def objective() -> Tensor:
        with torch.no_grad():
            sample = learner.actor.distribution(data.observation).sample(noise)
            value = learner.critics.values(data.observation, sample.action()).amin(1)
        return (value - 0.1 * sample.log_prob()).mean(-1)

    before = objective()
    for _ in range(5):
        learner.update(data)
    assert bool((objective() > before).all())


def test_critics_take_the_same_step_whether_or_not_the_policy_moves() -> None:
    size = sizes(0, 1)
    learners = [sac(size, discount=0.0, critics_first=first) for first in (0, 1)]
    for learner in learners:
        learner.update(batch(size))
    moving, waiting = learners
    for one, other in zip(moving.critics.parameters(), waiting.critics.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not same(tensors(moving.actor), waiting.actor)


@pytest.mark.parametrize("config", [Entropy(initial=0.3), ExplicitKl(weight=0.3, target=0.1)])
def test_update_is_the_algorithm_as_printed(config: Entropy | ExplicitKl) -> None:
    """Lines 9 to 13 one by one, by autograd: the policy climbs the critics of before their step."""
    size, count = sizes(0, 1, observation=3, action=2), 32
    prior, data = unfitted_prior(size), batch(size)
    learner = Sac(hidden=(16, 16)).build(size, config.build(size, prior))
    learner.update(data)  # so that targets, weight and both Adams have left their starts
    plain = Sac(hidden=(16, 16)).build(size, config.build(size, prior))
    plain.load_state({name: tensor.clone() for name, tensor in learner.state().items()})
    learner.update(data)

    weight = plain.regulariser.weight()[:, None]
    noise = plain.noise.normal(2 * count, 2)
    with torch.no_grad():
        sample = plain.actor.distribution(data.next_observation).sample(noise[:, :count])
        ahead = plain.targets.values(data.next_observation, sample.action()).amin(1)
        paid = weight * plain.regulariser.divergence(sample, data.next_observation)
        target = data.reward + 0.99 * (ahead - paid)
    sample = plain.actor.distribution(data.observation).sample(noise[:, count:])
    divergence = plain.regulariser.divergence(sample, data.observation)
    value = plain.critics.values(data.observation, sample.action()).amin(1)
    policy_slopes = torch.autograd.grad(
        (weight * divergence - value).mean(1).sum(), list(plain.actor.parameters())
    )
    error = plain.critics.values(data.observation, data.action) - target[:, None]
    critic_slopes = torch.autograd.grad(
        0.5 * error.square().mean(2).sum(), list(plain.critics.parameters())
    )
    steps = ((plain.actor, policy_slopes), (plain.critics, critic_slopes))
    for module, slopes in steps:
        for parameter, slope in zip(module.parameters(), slopes, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(slope)
    plain.adam_policy.step()
    plain.adam_critics.step()
    plain.regulariser.adapt(divergence.detach().mean(-1))

    for one, other in ((learner.actor, plain.actor), (learner.critics, plain.critics)):
        for mine, wanted in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.regulariser.weight(), plain.regulariser.weight())


def test_policy_and_its_weight_stand_still_while_the_critics_learn_first() -> None:
    size = sizes(0)
    regulariser = ExplicitKl(target=1.0).build(size, unfitted_prior(size))
    learner = Sac(hidden=(8,), critics_first=2).build(size, regulariser)
    policy, critics = tensors(learner.actor), tensors(learner.critics)
    first = [learner.update(batch(size)) for _ in range(2)]
    assert same(policy, learner.actor)
    assert not same(critics, learner.critics)
    assert all("policy_loss" not in metrics for metrics in first)
    assert float(regulariser.weight()) == 1.0

    resumed = Sac(hidden=(8,), critics_first=2).build(
        size, ExplicitKl(target=1.0).build(size, unfitted_prior(size))
    )
    resumed.load_state(learner.state())
    assert "policy_loss" in resumed.update(batch(size))
    assert not same(policy, resumed.actor)


def test_critic_step_leaves_policy_targets_and_prior_alone() -> None:
    size = sizes(0)
    prior = unfitted_prior(size)
    learner = Sac(hidden=(8,)).build(size, ExplicitKl(target=1.0).build(size, prior))
    kept = {m: tensors(m) for m in (learner.actor, learner.targets, prior.actor)}
    critics = tensors(learner.critics)
    learner._step_critics(batch(size), backup(learner, batch(size)))
    assert all(same(before, module) for module, before in kept.items())
    assert not same(critics, learner.critics)


def test_update_gives_the_prior_no_gradient() -> None:
    size = sizes(0)
    prior = unfitted_prior(size)
    learner = Sac(hidden=(8,)).build(size, ExplicitKl().build(size, prior))
    learner.update(batch(size))
    assert not any(p.grad is not None and p.grad.any() for p in prior.actor.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in learner.targets.parameters())


def test_targets_start_as_the_critics_and_follow_slowly() -> None:
    size = sizes(0)
    learner = sac(size, polyak=0.1)
    before = tensors(learner.critics)
    assert same(before, learner.targets)
    learner.update(batch(size))
    pairs = zip(before, learner.critics.parameters(), learner.targets.parameters(), strict=True)
    for start, now, target in pairs:
        torch.testing.assert_close(target.detach(), 0.9 * start + 0.1 * now.detach())


def test_deployed_policy_starts_as_the_one_that_learns_and_follows_slowly() -> None:
    size = sizes(0)
    learner, data = sac(size, policy_polyak=0.1), batch(size)
    before = tensors(learner.actor)
    assert same(before, learner.deployed)
    learner.update(data)
    pairs = zip(before, learner.actor.parameters(), learner.deployed.parameters(), strict=True)
    for start, now, deployed in pairs:
        torch.testing.assert_close(deployed.detach(), 0.9 * start + 0.1 * now.detach())

    mode = learner.deployed.distribution(data.observation).mode()
    assert torch.equal(learner.act(data.observation), mode)
    noise = torch.zeros_like(data.action)  # whose sample is the mode of the policy that learns
    sample = learner.act(data.observation, noise)
    assert torch.equal(sample, learner.actor.distribution(data.observation).mode())
    assert not torch.equal(sample, mode)

    resumed = sac(size, policy_polyak=0.1)
    resumed.load_state({name: tensor.clone() for name, tensor in learner.state().items()})
    for one in (learner, resumed):
        one.update(data)
    assert same(tensors(learner.deployed), resumed.deployed)
    state = learner.policy_state()
    learner.start_from({name: torch.zeros_like(tensor) for name, tensor in state.items()})
    assert not any(p.any() for p in (*learner.actor.parameters(), *learner.deployed.parameters()))


def test_deployed_policy_is_the_one_that_learns_unless_it_is_to_follow() -> None:
    size = sizes(0)
    learner, slow = sac(size), sac(size, policy_polyak=0.1)
    assert learner.deployed is learner.actor
    for one in (learner, slow):
        one.update(batch(size))
    assert same(tensors(learner.actor), slow.actor)


def test_twin_critics_stay_apart() -> None:
    size = sizes(0)
    learner, data = sac(size), batch(size)
    for _ in range(3):
        learner.update(data)
    values = learner.critics.values(data.observation, data.action).detach()
    assert float((values[:, 0] - values[:, 1]).abs().mean()) > 0.01


def test_terminal_masks_the_bootstrap() -> None:
    size = sizes(0)
    learner, data = sac(size), batch(size)
    ended = replace(data, terminal=torch.ones_like(data.terminal))
    assert torch.equal(backup(learner, ended), data.reward)
    assert not torch.equal(backup(learner, data), data.reward)


def test_target_takes_the_smaller_of_the_target_critics() -> None:
    size = sizes(0)
    learner, data = sac(size), batch(size)
    with torch.no_grad():
        for parameter in learner.targets.parameters():
            parameter.zero_()
        learner.targets.body.biases[-1][:, 0, 0] = torch.tensor([3.0, -2.0])
    torch.testing.assert_close(backup(learner, data), data.reward + 0.99 * -2.0)


@pytest.mark.parametrize("penalised", [True, False])
def test_backup_pays_the_penalty_where_the_row_says_so(penalised: bool) -> None:
    size = sizes(0)
    prior = unfitted_prior(size)
    config = Sac(hidden=(8,), penalised_backup=penalised)
    learner = config.build(size, ExplicitKl(weight=2.0).build(size, prior))
    data = batch(size)
    with torch.no_grad():
        for parameter in learner.targets.parameters():
            parameter.zero_()
        sample = learner.actor.distribution(data.next_observation).sample(torch.zeros(1, 32, 1))
        divergence = learner.regulariser.divergence(sample, data.next_observation)
    expected = data.reward - 0.99 * 2.0 * divergence * penalised
    torch.testing.assert_close(backup(learner, data), expected)


def test_metrics_are_one_number_a_seed_without_gradient() -> None:
    size = sizes(0, 1, 2)
    metrics = sac(size).update(batch(size))
    assert {"critic_loss", "value", "policy_loss", "entropy", "alpha"} <= metrics.keys()
    assert all(value.shape == (3,) and not value.requires_grad for value in metrics.values())


def test_learner_goes_on_exactly_from_its_state() -> None:
    size = sizes(0, 4)
    prior = unfitted_prior(size)

    def fresh() -> SacLearner:
        return Sac(hidden=(8,)).build(size, ExplicitKl(target=0.1).build(size, prior))

    going, resumed, data = fresh(), fresh(), batch(size)
    for _ in range(3):
        going.update(data)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for _ in range(3):
        one, other = going.update(data), resumed.update(data)
        assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = going.state(), resumed.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- regularisers --------------------------------------------------------------------------------


def test_weight_rises_where_the_divergence_exceeds_its_target_and_falls_elsewhere() -> None:
    dual = DualWeight(sizes(0, 1), initial=1.0, target=1.0, learning_rate=0.1, cap=500.0)
    dual.adapt(torch.tensor([3.0, 0.1]))
    rising, falling = dual.weight().tolist()
    assert rising > 1.05
    assert 0.0 < falling < 0.95


def test_weight_is_capped() -> None:
    dual = DualWeight(sizes(0), initial=1.0, target=1.0, learning_rate=1.0, cap=5.0)
    for _ in range(20):
        dual.adapt(torch.tensor([100.0]))
    assert dual.weight().tolist() == pytest.approx([5.0])


def test_fixed_weight_stays_where_it_is() -> None:
    dual = DualWeight(sizes(0), initial=0.0, target=None, learning_rate=1.0, cap=5.0)
    dual.adapt(torch.tensor([100.0]))
    assert dual.weight().tolist() == [0.0]


def test_temperature_falls_while_the_entropy_is_above_its_target() -> None:
    size = sizes(0, 1)
    bonus = Entropy(learning_rate=0.1).build(size, None)  # target entropy -1
    bonus.adapt(torch.tensor([-2.0, 3.0]))  # log pi: entropies 2 and -3
    wide, narrow = bonus.weight().tolist()
    assert wide < 0.95
    assert narrow > 1.05


@pytest.mark.parametrize("kind", [ExplicitKl, ScaledKl])
def test_divergence_without_a_prior_is_refused(kind: type[ExplicitKl | ScaledKl]) -> None:
    with pytest.raises(UserError, match=f"{kind.__name__} needs a prior, and this row has none"):
        kind().build(sizes(0), None)


def test_scaled_divergence_has_a_variance_of_its_own_for_every_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = sizes(0, 1)
    prior = unfitted_prior(size)
    observation = normal(0, 2, 16, 2)
    here = prior.distribution(observation)
    log_std = torch.log(torch.tensor([0.05, 0.5]))[:, None, None].expand_as(here.mean)
    monkeypatch.setattr(prior, "distribution", lambda _: SquashedNormal(here.mean, log_std))
    shifted = SquashedNormal(here.mean + 0.02, log_std)
    sample = shifted.sample(torch.zeros(2, 16, 1))
    found = ScaledKl().build(size, prior).divergence(sample, observation)
    expected = torch.full((2, 16), 0.5 * size.action * 0.02**2)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("breadth", [0.05, 0.5])
def test_scaled_divergence_of_shifted_means_is_half_the_squared_distance(
    breadth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sizes(0)
    prior = unfitted_prior(size)
    observation = normal(0, 1, 16, 2)
    here = prior.distribution(observation)
    log_std = torch.full_like(here.log_std, math.log(breadth))
    monkeypatch.setattr(prior, "distribution", lambda _: SquashedNormal(here.mean, log_std))
    shifted = SquashedNormal(here.mean + 0.02, log_std)
    penalty = ScaledKl(shift=0.02).build(size, prior)
    found = penalty.divergence(shifted.sample(torch.zeros(1, 16, 1)), observation)
    assert found.tolist()[0] == pytest.approx([0.5 * size.action * 0.02**2] * 16, rel=1e-2)
    assert penalty.dual.target == pytest.approx(float(found.detach().mean()), rel=1e-2)


def test_divergence_of_a_policy_that_is_the_prior_is_zero() -> None:
    size = sizes(0)
    prior = unfitted_prior(size)
    observation = normal(0, 1, 16, 2)
    penalty = ExplicitKl().build(size, prior)
    sample = prior.distribution(observation).sample(torch.zeros(1, 16, 1))
    found = penalty.divergence(sample, observation)
    assert found.shape == (1, 16)
    assert float(found.detach().abs().max()) < 1e-6


# -- priors --------------------------------------------------------------------------------------


def test_infinite_temperature_makes_every_weight_one() -> None:
    q, value = normal(0, 2, 8), normal(1, 2, 8)
    weighting = NormalisedQ(temperature=math.inf)
    assert torch.equal(weighting.weigh(q, value, 0.99, 1.0), torch.ones(2, 8))
    assert torch.equal(Advantage(temperature=math.inf).weigh(q, value, 0.99, 1.0), torch.ones(2, 8))


def test_normalised_q_weighs_by_the_exponential_of_omega() -> None:
    q = torch.tensor([[100.0, 50.0]])
    weight = NormalisedQ(temperature=0.2).weigh(q, torch.zeros(1, 2), 0.99, 2.0)
    # omega 0.5 and 0.25, so a ratio of exp(0.25 / 0.2)
    assert float(weight[0, 0] / weight[0, 1]) == pytest.approx(math.exp(1.25), rel=1e-5)


def test_normalised_advantage_is_that_weight_over_the_one_of_the_state() -> None:
    q, value = torch.tensor([[100.0, 50.0]]), torch.tensor([[90.0, 60.0]])
    weight = NormalisedAdvantage(temperature=0.2).weigh(q, value, 0.99, 2.0)[0]
    # (q - v) (1 - gamma) / r_max is 0.05 and -0.05
    assert weight.tolist() == pytest.approx([math.exp(0.25), math.exp(-0.25)], rel=1e-5)


def test_normalised_q_does_not_overflow() -> None:
    q = torch.tensor([[1e6, -1e6]])
    weight = NormalisedQ(temperature=1e-3).weigh(q, torch.zeros(1, 2), 0.99, 1.0)
    assert weight.tolist() == [[1.0, 0.0]]


def test_advantage_is_standardised_and_clipped() -> None:
    q, value = torch.tensor([[0.0] * 99 + [1000.0]]), torch.zeros(1, 100)
    weight = Advantage(clip=20.0).weigh(q, value, 0.99, 1.0)
    assert float(weight.max()) == 20.0
    assert float(weight.min()) == pytest.approx(math.exp(-0.1), rel=1e-3)


def test_advantage_weighs_the_better_action_and_not_the_better_state() -> None:
    q = torch.tensor([[1.0, 2.0, 101.0, 102.0]])
    value = torch.tensor([[1.5, 1.5, 101.5, 101.5]])
    worse, better, also_worse, also_better = Advantage().weigh(q, value, 0.99, 1.0)[0].tolist()
    assert better > worse
    assert (worse, better) == pytest.approx((also_worse, also_better))


def rows_with(reward: Tensor) -> Tensor:
    """Packed transitions of one state with an action in (-1, 1) and its reward, all terminal."""
    count = len(reward)
    action = torch.linspace(-0.9, 0.9, count)[:, None]
    state = torch.zeros(count, 2)
    return torch.cat((state, action, reward[:, None], state, torch.ones(count, 1)), 1)


@pytest.mark.parametrize(
    ("reward", "scale"),
    [
        ([1.0, 4.0, -9.0], 4.0),
        ([-3.0, -1.0, -2.0], 3.0),
        ([0.0, -2.0, 0.0], 2.0),
        ([0.0] * 3, 1e-6),
    ],
)
def test_scale_of_rewards_is_the_largest_or_else_the_largest_magnitude(
    reward: list[float], scale: float
) -> None:
    found = Adaptive(fit=Network(hidden=(8,))).build(sizes())
    found.look_at(Data(rows_with(torch.tensor(reward))))
    assert found.scale == pytest.approx(scale)


@pytest.mark.parametrize("offset", [1.0, -2.0])
def test_better_action_never_weighs_less_whatever_the_sign_of_the_rewards(offset: float) -> None:
    rows = rows_with(torch.tensor([0.0, 0.5, 1.0]) + offset)
    found = Adaptive(fit=Network(hidden=(8,))).build(sizes())
    found.look_at(Data(rows))
    q = torch.tensor([[10.0, 20.0, 30.0]])
    weights = NormalisedQ().weigh(q, torch.zeros(1, 3), 0.99, found.scale)[0].tolist()
    assert weights[0] < weights[1] < weights[2]


def fitted_mean(prior: BehaviourPrior) -> float:
    return float(prior.distribution(torch.zeros(1, 1, 2)).mode().detach())


@pytest.mark.parametrize("weighting", [NormalisedQ(temperature=2e-3), Advantage(temperature=0.5)])
def test_adaptive_prior_prefers_the_better_action(weighting: NormalisedQ | Advantage) -> None:
    """Actions are spread evenly over +-0.9 in one state, and the reward is the action."""
    action = torch.linspace(-0.9, 0.9, 200)
    rows = rows_with(action)
    fit = Fit(updates=200, rate=5e-3, batch=32, hidden=(16,))
    flat = Unweighted(fit=fit).build(sizes())
    flat.fit(rows)
    evaluation = InSample(polyak=0.1)
    adaptive = Adaptive(fit=fit, weighting=weighting, evaluation=evaluation).build(sizes())
    adaptive.fit(rows)
    assert fitted_mean(flat) == pytest.approx(0.0, abs=0.15)
    assert fitted_mean(adaptive) > 0.3


@pytest.mark.parametrize(
    ("temperature", "low", "high"), [(0.2, 0.999, 1.0), (2e-3, 0.2, 0.8)], ids=["default", "small"]
)
def test_fit_says_how_much_of_the_data_its_weights_leave(
    temperature: float, low: float, high: float
) -> None:
    """At the default eta the weights hardly differ, although the reward is the action itself."""
    weighting = NormalisedAdvantage(temperature=temperature)
    assert temperature != 0.2 or weighting == NormalisedAdvantage()
    fit = Fit(updates=400, rate=5e-3, batch=32, hidden=(16,))
    prior = Adaptive(fit=fit, weighting=weighting, evaluation=InSample(polyak=0.1)).build(sizes())
    facts = prior.fit(rows_with(torch.linspace(-0.9, 0.9, 200)))
    assert low < facts["effective_share"] <= high
    assert set(Unweighted(fit=fit).build(sizes()).fit(rows_with(torch.zeros(8)))) == {"likelihood"}


def test_prior_fit_recovers_a_gaussian_policy() -> None:
    """Data from mean tanh(0.5 o) with log std -1 before the squash."""
    observation = normal(0, 4000, 2)
    policy = SquashedNormal(0.5 * observation[:, :1], torch.full((4000, 1), -1.0))
    sample = policy.sample(normal(1, 4000, 1))
    zero = torch.zeros(4000, 1)
    rows = torch.cat((observation, sample.action(), zero, observation, zero), 1)
    prior = Unweighted(fit=Fit(updates=400, rate=5e-3, hidden=(16,))).build(sizes())
    found = prior.fit(rows)
    assert found["likelihood"] == pytest.approx(float(sample.log_prob().mean()), abs=0.08)
    with torch.no_grad():
        fitted = prior.distribution(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    assert fitted.mean[0, :, 0].tolist() == pytest.approx([0.5, -0.5], abs=0.15)
    assert fitted.log_std[0, :, 0].tolist() == pytest.approx([-1.0, -1.0], abs=0.2)


def test_evaluator_learns_the_discounted_value_of_the_behaviour() -> None:
    """Reward 1 for ever with discount 0.5 is worth 2; where each step ends, 1."""
    size = sizes(0)
    state = torch.zeros(1, 16, 2)
    action = 0.1 * normal(0, 1, 16, 1)
    config = InSample(polyak=0.1, rate=1e-2)
    for terminal, expected in ((0.0, 2.0), (1.0, 1.0)):
        found = config.build(size, (16,), 0.5)
        data = Batch(state, action, torch.ones(1, 16), state, torch.full((1, 16), terminal), 16)
        for _ in range(150):
            found.update(data)
        with torch.no_grad():
            q = found.critics.values(state, action)
            value = found.value.evaluate(state)
        assert float(q.mean()) == pytest.approx(expected, abs=0.1)
        assert float(value.mean()) == pytest.approx(expected, abs=0.1)


def test_weights_of_the_prior_carry_no_gradient() -> None:
    size = sizes(0)
    found = Adaptive(fit=Network(hidden=(8,))).build(size)
    weight, metrics = found._weigh(batch(size))
    assert not weight.requires_grad
    assert not any(value.requires_grad for value in metrics.values())


def test_prior_of_a_seed_is_the_same_alone_and_among_three() -> None:
    rows = torch.cat((normal(0, 50, 2), torch.tanh(normal(1, 50, 1)), normal(2, 50, 4)), 1)
    rows[:, -1] = 0.0
    config = Adaptive(fit=Fit(updates=5, batch=16, hidden=(8,)))
    alone, among = config.build(sizes(2)), config.build(sizes(0, 1, 2))
    alone.fit(rows)
    among.fit(rows)
    for one, three in zip(alone.actor.parameters(), among.actor.parameters(), strict=True):
        torch.testing.assert_close(one[0], three[2], atol=1e-6, rtol=1e-6)


# -- the dynamics model --------------------------------------------------------------------------


SMALL = Ensemble(
    members=3,
    elites=2,
    hidden=(16,),
    rate=1e-3,
    cooldown=0.0,
    batch=64,
    weight_decay=(0.0, 0.0),
    max_epochs=200,
)


def hand_set(size: Sizes, config: Ensemble = SMALL) -> EnsembleModel:
    """Member m of seed s predicts change (s + 1) 100 + m and reward -m, in standardised units."""
    model = config.build(size)
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.zero_()
        bias = model.body.biases[-1].view(size.stack, config.members, -1)
        width = size.observation
        for seed in range(size.stack):
            for member in range(config.members):
                bias[seed, member, :width] = (seed + 1) * 100.0 + member
                bias[seed, member, width] = -float(member)
        bias[..., width + 1 :] = -50.0  # log variance, which its lower bound catches
    return model


def test_model_of_one_row_is_refused_and_of_two_is_fitted() -> None:
    size = sizes(0)
    rows = normal(0, 2, 2 * size.observation + size.action + 2)
    with pytest.raises(UserError, match="at least 2 transitions, one of them held out"):
        replace(SMALL, max_epochs=1).build(size).fit(rows[:1])
    facts = replace(SMALL, max_epochs=1).build(size).fit(rows)
    assert facts["epochs"] == 1.0
    assert math.isfinite(facts["holdout"])


def elites(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def test_each_group_is_served_by_the_member_that_is_asked() -> None:
    observation, action = torch.zeros(2, 4, 2), torch.zeros(2, 4, 1)
    mean, _ = hand_set(sizes(0, 1)).ask(observation, action, elites([2, 0], [2, 1]))
    assert mean[:, :, 0].tolist() == [[102, 102, 100, 100], [202, 202, 201, 201]]
    assert mean[:, :, 2].tolist() == [[-2, -2, 0, 0], [-2, -2, -1, -1]]


def test_ask_and_predict_are_in_raw_units() -> None:
    size = sizes(0)
    model = hand_set(size)
    model.target_mean = torch.tensor([0.5, -1.0, 7.0])
    model.target_std = torch.tensor([2.0, 0.1, 3.0])
    with torch.no_grad():
        model.max_log_variance.fill_(0.0)
        model.min_log_variance.fill_(-0.0)  # both bounds equal: the variance is one, nearly
    observation, action = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.zeros(1, 2, 1)
    mean, std = model.ask(observation, action, elites([0, 1]))
    # 100 * 2 + 0.5 and 101 * 2 + 0.5; 100 * 0.1 - 1 and 101 * 0.1 - 1; 7 and -1 * 3 + 7
    torch.testing.assert_close(mean, torch.tensor([[[200.5, 9.0, 7.0], [202.5, 9.1, 4.0]]]))
    torch.testing.assert_close(std[0, 0] / std[0, 0, 0], torch.tensor([1.0, 0.05, 1.5]))
    torch.testing.assert_close(std[0, 0, 0], torch.tensor(2.0), rtol=0.5, atol=0.0)
    every, spread = model.predict(observation, action)
    torch.testing.assert_close(mean[0], torch.stack((every[0, 0, 0], every[0, 1, 1])))
    torch.testing.assert_close(std[0], torch.stack((spread[0, 0, 0], spread[0, 1, 1])))


def test_inputs_are_standardised_before_the_network() -> None:
    size = sizes(0)
    model = SMALL.build(size)
    x = normal(0, 1, 4, 3)
    first, _ = model.predict(x[..., :2], x[..., 2:])
    model.input_mean, model.input_std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    moved = x * model.input_std + model.input_mean
    second, _ = model.predict(moved[..., :2], moved[..., 2:])
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_predict_gives_every_member_of_every_seed() -> None:
    size = sizes(0, 1)
    mean, std = hand_set(size).predict(torch.zeros(2, 5, 2), torch.zeros(2, 5, 1))
    assert mean.shape == std.shape == (2, 3, 5, 3)
    assert mean[:, :, 0, 0].tolist() == [[100, 101, 102], [200, 201, 202]]
    assert mean[:, :, 4, 2].tolist() == [[0, -1, -2], [0, -1, -2]]


def test_log_variance_stays_between_its_bounds() -> None:
    size = sizes(0)
    model = SMALL.build(size)
    with torch.no_grad():
        model.body.biases[-1][..., 3:] = torch.tensor([80.0, 0.0, -80.0])
    _, std = model.predict(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1))
    log_variance = 2.0 * std.log()
    assert float(log_variance.max()) <= 0.51
    assert float(log_variance.min()) >= -10.01


def test_what_a_seed_predicts_is_the_same_alone_and_among_three() -> None:
    config = replace(SMALL, elites=3)
    alone, among = config.build(sizes(2)), config.build(sizes(0, 1, 2))
    x, members = normal(0, 3, 6, 3), torch.tensor([[2, 0, 1]])
    one = alone.ask(x[2:, :, :2], x[2:, :, 2:], members)
    three = among.ask(x[..., :2], x[..., 2:], members.expand(3, 3))
    torch.testing.assert_close(one[0][0], three[0][2])
    torch.testing.assert_close(one[1][0], three[1][2])


def linear_rows(count: int, seed: int = 0) -> Tensor:
    """s' = s + [0.5 s1 + a, -0.3 s0] + noise of std 0.1 and 0.4; reward = 2 s0 - a + 5."""
    state, action = normal(seed, count, 2), torch.tanh(normal(seed + 1, count, 1))
    noise = normal(seed + 2, count, 2) * torch.tensor([0.1, 0.4])
    change = torch.stack((0.5 * state[:, 1] + action[:, 0], -0.3 * state[:, 0]), 1)
    reward = 2.0 * state[:, :1] - action + 5.0
    return torch.cat((state, action, reward, state + change + noise, torch.zeros(count, 1)), 1)


@pytest.fixture(scope="module")
def fitted() -> EnsembleModel:
    config = replace(SMALL, hidden=(32,), rate=3e-3, max_epochs=30, patience=4, batch=128)
    model = config.build(sizes(0, 1))
    facts = model.fit(linear_rows(4000))
    assert 4.0 <= facts["epochs"] <= 30.0
    return model


def test_fit_recovers_the_mean_of_a_linear_system(fitted: EnsembleModel) -> None:
    test = linear_rows(500, seed=10)
    state, action = test[None, :, :2].expand(2, -1, -1), test[None, :, 2:3].expand(2, -1, -1)
    mean, _ = fitted.predict(state, action)
    change = torch.stack((0.5 * test[:, 1] + test[:, 2], -0.3 * test[:, 0]), 1)
    assert float((mean[..., :2] - change).abs().mean()) < 0.06
    reward = 2.0 * test[:, 0] - test[:, 2] + 5.0
    assert float((mean[..., 2] - reward).abs().mean()) < 0.06


def test_fit_recovers_the_spread_of_a_linear_system(fitted: EnsembleModel) -> None:
    test = linear_rows(500, seed=10)
    state, action = test[None, :, :2].expand(2, -1, -1), test[None, :, 2:3].expand(2, -1, -1)
    _, std = fitted.predict(state, action)
    found = std.mean((0, 1, 2)).tolist()
    assert found[0] == pytest.approx(0.1, abs=0.04)
    assert found[1] == pytest.approx(0.4, abs=0.05)
    assert found[2] < 0.35  # of a reward with std 2.2 that is known exactly


def test_model_goes_through_its_state(fitted: EnsembleModel) -> None:
    other = fitted.config.build(fitted.sizes)
    other.load_state({name: tensor.clone() for name, tensor in fitted.state().items()})
    x = normal(0, 2, 4, 3)
    one, two = (m.predict(x[..., :2], x[..., 2:]) for m in (fitted, other))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert torch.equal(fitted.elites, other.elites)


class ScriptedFit(EnsembleFit):
    """A fit whose epochs write their number down."""

    model: Scripted

    def _look(self) -> None:
        self.model.epochs += 1
        with torch.no_grad():
            self.model.body.biases[-1].fill_(float(self.model.epochs))
        super()._look()


class Scripted(EnsembleModel):
    """An ensemble whose held-out errors are known."""

    script: list[list[list[float]]]
    epochs = 0

    def fitting(self, rows: Tensor) -> EnsembleFit:
        return ScriptedFit(self, rows)

    def _held_out(self, *_: object) -> Tensor:
        return torch.tensor(self.script[min(self.epochs, len(self.script)) - 1])


def scripted(script: list[list[list[float]]], patience: int = 2) -> tuple[Scripted, int]:
    """Run a script of held-out errors [epoch][seed][member]; gives the model and the epochs."""
    config = replace(SMALL, patience=patience, max_epochs=20)
    model = Scripted(config, sizes(*range(len(script[0]))))
    model.script = script
    epochs = int(model.fit(linear_rows(20))["epochs"])
    return model, epochs


def kept(model: Scripted) -> list[list[float]]:
    """Epoch whose weights each member of each seed kept."""
    found: list[list[float]] = model.body.biases[-1][:, 0, 0].view(model.sizes.stack, -1).tolist()
    return found


def test_elites_are_the_best_on_held_out_data() -> None:
    model, _ = scripted([[[0.3, 0.1, 0.2]], [[0.3, 0.1, 0.2]]])
    assert model.elites.tolist() == [[1, 2]]


def test_each_member_keeps_the_weights_of_its_best_epoch() -> None:
    model, _ = scripted(
        [[[0.9, 0.9, 0.9]], [[0.5, 0.9, 0.8]], [[0.6, 0.4, 0.9]], [[0.6, 0.9, 0.9]]]
    )
    assert kept(model) == [[2.0, 3.0, 2.0]]


def test_weight_decay_is_the_loss_term_it_stands_for() -> None:
    """Half the squared weights times the layer's factor; the last factor for any layer beyond."""
    config = replace(SMALL, hidden=(8, 8), weight_decay=(0.3, 0.7))
    found, other = config.build(sizes(0)), config.build(sizes(0))
    inputs, targets = normal(0, 3, 16, 3), normal(1, 3, 16, 3)
    explicit = torch.optim.Adam(other.parameters(), lr=config.rate)
    adam = found.fitting(normal(2, 64, 2 * 2 + 1 + 2)).adam
    for _ in range(3):
        adam.zero_grad()
        torch.autograd.backward(found._loss(inputs, targets))
        adam.step()
        factors = zip((0.3, 0.7, 0.7), other.body.weights, strict=True)
        decay = sum(0.5 * factor * weight.square().sum() for factor, weight in factors)
        explicit.zero_grad()
        torch.autograd.backward(other._loss(inputs, targets) + decay / 2.0)
        explicit.step()
    for one, two in zip(found.body.weights, other.body.weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_fit_decays_the_weights_it_was_told_to() -> None:
    """Against the same fit without decay: only the decayed layer ends much smaller."""
    rows = normal(2, 64, 2 * 2 + 1 + 2)
    decayed, free = (
        replace(
            SMALL, hidden=(8, 8), max_epochs=60, rate=0.01, improvement=-1e9, weight_decay=decay
        ).build(sizes(0))
        for decay in ((50.0, 0.0), (0.0,))
    )
    for model in (decayed, free):
        model.fit(rows)
    first, last = (
        float((decayed.body.weights[layer].norm() / free.body.weights[layer].norm()).detach())
        for layer in (0, -1)
    )
    assert first < 0.8 * last


def test_epoch_takes_so_many_rows_and_others_each_time() -> None:
    fit = replace(SMALL, epoch_rows=20, batch=8).build(sizes(0)).fitting(normal(2, 64, 2 * 2 + 3))
    seen: list[Tensor] = []
    loss = fit.model._loss

    def noted(inputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(inputs.detach())
        return loss(inputs, targets)

    fit.model._loss = noted  # type: ignore[method-assign]
    for _ in range(6):
        fit.advance()
    assert [batch.shape[1] for batch in seen] == [8, 8, 4, 8, 8, 4]
    assert not torch.equal(seen[0], seen[3])


def test_rate_is_constant_and_then_falls_to_zero_over_the_last_epochs() -> None:
    """Four epochs of one batch; the rate falls over the last two."""
    config = replace(SMALL, rate=0.4, cooldown=0.5, max_epochs=4, improvement=-1e9)
    fit = config.build(sizes(0)).fitting(normal(2, 64, 2 * 2 + 1 + 2))
    rates = []
    while not fit.finished:
        fit.advance()
        rates.append(float(fit.adam.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.2])


def test_fit_ends_after_patience_epochs_without_a_gain_above_one_per_cent() -> None:
    model, epochs = scripted([[[1.0, 1.0, 1.0]], [[0.995, 1.0, 1.0]]], patience=3)
    assert epochs == 1 + 3
    assert kept(model) == [[1.0, 1.0, 1.0]]


def test_early_stopping_is_per_seed() -> None:
    first = [[1.0] * 3, [1.0] * 3]
    script = [first] + [[[1.0] * 3, [1.0 - 0.1 * k] * 3] for k in range(1, 5)]
    script += [[[0.1] * 3, [0.6] * 3]]  # too late for the first seed, nothing new for the second
    model, epochs = scripted(script, patience=2)
    assert kept(model) == [[1.0] * 3, [5.0] * 3]
    assert epochs == 7


def test_member_that_diverges_at_last_keeps_what_it_was() -> None:
    model, _ = scripted([[[0.7, 0.5, 0.9]], [[math.nan, 0.5, 0.6]], [[math.nan, 0.5, 0.6]]])
    assert model.elites.tolist() == [[1, 2]]
    assert kept(model) == [[1.0, 1.0, 2.0]]


def test_member_that_was_never_fitted_is_refused_since_uncertainty_asks_it_too() -> None:
    with pytest.raises(Diverged, match="1 of 3 networks never had a finite held-out error"):
        scripted([[[math.nan, 0.5, 0.9]], [[math.nan, 0.5, 0.8]]])


def test_bootstraps_draw_from_the_training_rows_and_never_from_the_held_out() -> None:
    size = sizes(0, 1)
    train, held = bootstraps(40, Streams(size, "x"), members=3, holdout=0.25)
    assert train.shape == (6, 30)
    assert held.shape == (2, 10)
    for k in range(6):
        assert not set(train[k].tolist()) & set(held[k // 3].tolist())
        assert len(set(train[k].tolist())) < 30
    assert train[0].tolist() != train[1].tolist()


def test_at_most_a_thousand_rows_are_held_out() -> None:
    size = sizes(0)
    train, held = bootstraps(10_000, Streams(size, "x"), members=3, holdout=0.2)
    assert held.shape == (1, 1000)
    assert train.shape == (3, 9000)


def test_fit_of_a_seed_is_the_same_alone_and_among_two() -> None:
    config = replace(SMALL, max_epochs=2)
    alone, among = config.build(sizes(1)), config.build(sizes(0, 1))
    rows = linear_rows(100)
    alone.fit(rows)
    among.fit(rows)
    assert torch.equal(alone.elites[0], among.elites[1])
    for one, two in zip(alone.parameters(), among.parameters(), strict=True):
        torch.testing.assert_close(one, two[3:], atol=1e-5, rtol=1e-5)


def test_elites_beyond_the_members_are_refused() -> None:
    with pytest.raises(UserError, match=r"dynamics.elites must lie in 1..3, not 4"):
        replace(SMALL, elites=4)


# -- the uncertainty's price ---------------------------------------------------------------------


def test_penalty_is_the_largest_norm_among_all_members() -> None:
    std = torch.tensor([[[[3.0, 4.0], [0.0, 1.0]], [[1.0, 1.0], [6.0, 8.0]]]])
    found = StdPenalty(weight=2.0).penalty((torch.zeros_like(std), std))
    assert found.tolist() == [[10.0, 20.0]]


def test_disagreement_is_the_largest_distance_of_a_member_from_the_mean_of_all() -> None:
    # two members at +-(3, 4) around (1, 1), and at one place; the reward, last, does not count
    first, second = [[4.0, 5.0, 9.0], [7.0, 7.0, 0.0]], [[-2.0, -3.0, 0.0], [7.0, 7.0, 5.0]]
    mean = torch.tensor([[first, second]])
    found = Disagreement(weight=2.0).penalty((mean, torch.ones_like(mean)))
    assert found.tolist() == [[10.0, 0.0]]


# -- rollouts ------------------------------------------------------------------------------------


class Counter:
    """A model of one dimension: the state grows by the action; reward is the state before."""

    def __init__(self, seeds: int = 1) -> None:
        self.elites = torch.zeros(seeds, 1, dtype=torch.int64)

    def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> Moments:
        del members
        mean = torch.cat((action, observation), -1)
        return mean, torch.zeros_like(mean)

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.cat((action, observation), -1)[:, None]
        return mean, torch.full_like(mean, 0.5)


class Below:
    """The task ends at or above a limit; observations are clipped to +-9."""

    def __init__(self, limit: float = 5.0) -> None:
        self.limit = limit

    def terminated(self, state: Tensor) -> Tensor:
        return state[..., 0] >= self.limit

    def clip(self, observation: Tensor) -> Tensor:
        return observation.clamp(-9.0, 9.0)


def one_step(observation: Tensor, noise: Tensor) -> Tensor:
    """Add one to the state."""
    del noise
    return torch.ones_like(observation)


def pool(
    horizon: int, starts: int, kept: int = 3, seeds: tuple[int, ...] = (0,), limit: float = 5.0
) -> RolloutPool:
    config = Rollouts(horizon=horizon, starts=starts, kept=kept)
    return RolloutPool(config, sizes(*seeds, observation=1), Below(limit), 1)


def columns(found: RolloutPool, seed: int = 0) -> list[list[float]]:
    """Rows of the pool, [observation, action, reward, next observation, terminal]."""
    rows: list[list[float]] = found.rows[seed, : int(found.filled[seed])].tolist()
    return rows


def test_rollout_goes_on_from_its_own_successor() -> None:
    found = pool(horizon=3, starts=1)
    mean = found.fill(Counter(), one_step, torch.tensor([[[1.0]]]), None)
    assert columns(found) == [[1, 1, 1, 2, 0], [2, 1, 2, 3, 0], [3, 1, 3, 4, 0]]
    assert mean.tolist() == [2.0]


def test_rollout_keeps_its_terminal_row_and_nothing_after_it() -> None:
    found = pool(horizon=4, starts=2)
    found.fill(Counter(), one_step, torch.tensor([[[3.0], [0.0]]]), None)
    rows = columns(found)
    assert [row for row in rows if row[0] >= 3] == [
        [3, 1, 3, 4, 0],
        [4, 1, 4, 5, 1],
        [3, 1, 3, 4, 0],
    ]
    assert len(rows) == 2 + 4


def still(observation: Tensor, noise: Tensor) -> Tensor:
    """Do nothing."""
    del noise
    return torch.zeros_like(observation[..., :1])


class Endless:
    """No task ends, and nothing is clipped."""

    def terminated(self, state: Tensor) -> Tensor:
        return torch.zeros_like(state[..., 0], dtype=torch.bool)

    def clip(self, observation: Tensor) -> Tensor:
        return observation


@pytest.mark.parametrize("uncertainty", [None, StdPenalty(weight=0.0)])
def test_each_group_of_a_step_is_served_by_its_elite(uncertainty: StdPenalty | None) -> None:
    model = hand_set(sizes(0, 1))
    model.elites = elites([2, 0], [1, 2])
    order, start, noise = torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 4, 2), torch.zeros(2, 4, 3)
    found = imagine(model, still, Endless(), uncertainty, start, noise, order)
    assert found.after[:, :, 0].tolist() == [[103, 103, 101, 101], [203, 203, 202, 202]]
    assert found.reward.tolist() == [[-2, -2, 0, 0], [-2, -2, -1, -1]]


def test_noise_of_a_step_is_counted_in_the_predicted_deviations() -> None:
    model, start = hand_set(sizes(0)), torch.zeros(1, 2, 2)
    model.target_std = torch.tensor([2.0, 0.1, 3.0])
    noise, order = torch.tensor([[[9.0, 1.0, -2.0]]]).expand(1, 2, 3), torch.tensor([[0, 1]])
    with torch.no_grad():
        model.min_log_variance.fill_(0.5)
    _, std = model.predict(start, start[..., :1])
    still_, moved = (
        imagine(model, still, Endless(), None, start, drawn, order).after
        for drawn in (torch.zeros_like(noise), noise)
    )
    expected = std[0, :2, 0, :2] * torch.tensor([1.0, -2.0])
    torch.testing.assert_close((moved - still_)[0], expected, rtol=1e-3, atol=1e-3)


def test_step_that_pays_for_uncertainty_is_the_step_that_does_not(fitted: EnsembleModel) -> None:
    start, noise = normal(3, 2, 6, 2), normal(4, 2, 6, 3)
    order = torch.tensor([[0, 1], [1, 0]])
    free, paying = (
        imagine(fitted, still, Endless(), uncertainty, start, noise, order)
        for uncertainty in (None, StdPenalty(weight=3.0))
    )
    torch.testing.assert_close(paying.after, free.after)
    torch.testing.assert_close(paying.reward, free.reward)
    _, std = fitted.predict(start, torch.zeros(2, 6, 1))
    torch.testing.assert_close(free.reward - paying.paid, 3.0 * std.norm(dim=-1).amax(1))


def test_rollout_that_blows_up_is_dropped_from_that_row_on() -> None:
    class Exploding(Counter):
        def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> Moments:
            mean, std = super().ask(observation, action, members)
            jump = torch.tensor([0.0, 200.0, math.inf, math.nan, 0.0])
            broken = torch.tensor([0.0, 0.0, math.inf, math.nan, math.nan])
            return mean + torch.stack((jump, broken), -1), std

    found = pool(horizon=2, starts=5)
    mean = found.fill(Exploding(), one_step, torch.zeros(1, 5, 1), None)
    assert columns(found) == [[0, 1, 0, 1, 0], [1, 1, 1, 2, 0]]
    assert mean.tolist() == [0.5]


def test_successor_is_clipped_as_the_simulator_clips() -> None:
    found = pool(horizon=2, starts=1, limit=1e9)
    found.fill(Counter(), lambda o, n: 50.0 * torch.ones_like(o), torch.zeros(1, 1, 1), None)
    assert columns(found) == [[0, 50, 0, 9, 0], [9, 50, 9, 9, 0]]


def test_penalty_is_paid_in_the_pool_and_not_in_the_measured_reward() -> None:
    found = pool(horizon=1, starts=1)
    mean = found.fill(Counter(), one_step, torch.tensor([[[1.0]]]), StdPenalty(weight=2.0))
    # two predicted deviations of 0.5: norm sqrt(0.5), twice
    assert columns(found)[0][2] == pytest.approx(1.0 - math.sqrt(2.0))
    assert mean.tolist() == [1.0]


def test_pool_forgets_the_oldest_rows() -> None:
    found = pool(horizon=1, starts=2, kept=2)
    for start in (0.0, 10.0, 20.0):
        found.fill(Counter(), one_step, torch.full((1, 2, 1), start - 30.0), None)
    assert found.capacity == 4
    assert sorted(row[0] for row in columns(found)) == [-20, -20, -10, -10]


def test_pool_wraps_in_the_middle_of_a_rollout() -> None:
    found = pool(horizon=2, starts=3, kept=1)
    found.fill(Counter(), one_step, torch.tensor([[[3.0], [4.0], [0.0]]]), None)
    assert len(columns(found)) == 5  # the second ended at once
    found.fill(Counter(), one_step, torch.tensor([[[-9.0], [-8.0], [-7.0]]]), None)
    assert found.capacity == 6
    assert sorted(row[0] for row in columns(found)) == [-9, -8, -8, -7, -7, -6]


def test_pool_fills_each_seed_by_itself() -> None:
    found = pool(horizon=2, starts=1, seeds=(0, 1))
    found.fill(Counter(seeds=2), one_step, torch.tensor([[[4.0]], [[0.0]]]), None)
    assert columns(found, 0) == [[4, 1, 4, 5, 1]]
    assert columns(found, 1) == [[0, 1, 0, 1, 0], [1, 1, 1, 2, 0]]


def test_pool_samples_only_what_is_filled_and_from_the_seed_s_own_rows() -> None:
    found = pool(horizon=2, starts=1, seeds=(0, 1))
    found.fill(Counter(seeds=2), one_step, torch.tensor([[[4.0]], [[1.0]]]), None)
    drawn = found.sample(Streams(sizes(0, 1, observation=1), "x"), 50)
    assert drawn.shape == (2, 50, 5)
    assert set(drawn[0, :, 0].tolist()) == {4.0}
    assert set(drawn[1, :, 0].tolist()) == {1.0, 2.0}


def test_sampling_from_an_empty_pool_says_that_the_model_blew_up() -> None:
    found = pool(horizon=1, starts=1)
    found.fill(Counter(), lambda o, n: 500.0 * torch.ones_like(o), torch.zeros(1, 1, 1), None)
    with pytest.raises(UserError, match="Every rollout of the dynamics model blew up"):
        found.sample(Streams(sizes(observation=1), "x"), 4)


def test_starts_are_a_multiple_of_the_elites() -> None:
    config = Rollouts(starts=13)
    assert RolloutPool(config, sizes(), Below(), 5).starts == 10
    assert RolloutPool(replace(config, starts=2), sizes(), Below(), 5).starts == 5


def test_pool_goes_on_exactly_from_its_state() -> None:
    def act(observation: Tensor, noise: Tensor) -> Tensor:
        del observation
        return noise

    going, resumed = (pool(horizon=2, starts=4, kept=2, seeds=(0, 1)) for _ in range(2))
    starts = normal(0, 2, 4, 1)
    for _ in range(3):
        going.fill(Counter(seeds=2), act, starts, None)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for found in (going, resumed):
        found.fill(Counter(seeds=2), act, starts, None)
    one, other = going.state(), resumed.state()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(going.rows, resumed.rows)


@pytest.mark.parametrize(
    ("field", "value"), [("horizon", 0), ("starts", 0), ("every", 0), ("kept", 0)]
)
def test_count_below_one_is_refused(field: str, value: int) -> None:
    with pytest.raises(UserError, match=f"rollouts.{field} must be at least 1, not 0"):
        replace(Rollouts(), **{field: value})


@pytest.mark.parametrize("field", ["real_share", "prior_start_share"])
def test_share_beyond_one_is_refused(field: str) -> None:
    changes: dict[str, Any] = {field: 1.5}
    with pytest.raises(UserError, match=f"rollouts.{field} must lie in 0..1, not 1.5"):
        replace(Rollouts(), **changes)
