"""The critic parts alone: each moves values the way it says, and nothing but the critics."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mabe_transfer.errors import UserError
from mabe_transfer.networks import Critics
from mabe_transfer.parts import Batch
from mabe_transfer.parts.conservative import Conservative, ConservativeLoss
from mabe_transfer.parts.diversity import Diversity
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.inconsistency import Inconsistency, InconsistencyLoss
from mabe_transfer.parts.regulariser import Entropy
from mabe_transfer.parts.sac import Sac, SacLearner
from mabe_transfer.squashed import ACTION_LIMIT
from mabe_transfer.streams import Sizes

REAL = 12


def sizes(*seeds: int, observation: int = 2, action: int = 1) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=observation, action=action)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(size: Sizes, count: int = 32, real: int = REAL) -> Batch:
    s, o, a = size.stack, size.observation, size.action
    return Batch(
        normal(0, s, count, o),
        torch.tanh(normal(1, s, count, a)),
        normal(2, s, count),
        normal(3, s, count, o),
        torch.zeros(s, count),
        real=real,
    )


def learner(
    size: Sizes, critic: Conservative | Diversity | Inconsistency, **changes: Any
) -> SacLearner:
    """A learner with a critic part, and an unfitted model of three members."""
    config = replace(Sac(hidden=(16,), critic_rate=1e-2, policy_rate=1e-2), **changes)
    model = Ensemble(members=3, elites=2, hidden=(8,)).build(size)
    regulariser = Entropy(initial=0.1, automatic=False).build(size, None)
    return config.build(size, regulariser, critic.build(size, model))


def tensors(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    after = module.parameters()
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def backup(learner: SacLearner, data: Batch) -> Tensor:
    """The target of the learner's critics."""
    return learner._target(data, learner._choose(data, moves=False))


PARTS = [
    Conservative(),
    Conservative(threshold=1.0),
    Conservative(model_states_only=True),
    Diversity(),
    Inconsistency(),
]


# -- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", PARTS)
def test_critic_step_moves_the_critics_and_leaves_policy_and_targets_alone(critic: Any) -> None:
    size = sizes(0, 1)
    found = learner(size, critic)
    policy, targets, critics = (tensors(m) for m in (found.actor, found.targets, found.critics))
    found._step_critics(batch(size), backup(found, batch(size)))
    assert same(policy, found.actor)
    assert same(targets, found.targets)
    assert not same(critics, found.critics)
    assert not any(
        p.grad is not None and p.grad.any()
        for p in (*found.actor.parameters(), *found.targets.parameters())
    )


@pytest.mark.parametrize("critic", PARTS)
def test_learner_with_a_critic_part_goes_on_exactly_from_its_state(critic: Any) -> None:
    size = sizes(0, 4)
    going, resumed, data = learner(size, critic), learner(size, critic), batch(size)
    for _ in range(3):
        going.update(data)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for _ in range(3):
        one, other = going.update(data), resumed.update(data)
        assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = going.state(), resumed.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("critic", PARTS)
def test_metrics_are_one_number_a_seed_without_gradient(critic: Any) -> None:
    size = sizes(0, 1, 2)
    metrics = learner(size, critic).update(batch(size))
    assert len(metrics) > 5
    assert all(value.shape == (3,) and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (Conservative(), {"actions": 0}, "critic.actions must be at least 1, not 0"),
        (Conservative(), {"weight": -1.0}, "critic.weight must not be negative, and is -1.0"),
        (Diversity(), {"weight": -1.0}, "critic.weight must not be negative, and is -1.0"),
        (Inconsistency(), {"weight": -1.0}, "critic.weight must not be negative, and is -1.0"),
        (Inconsistency(), {"samples": 0}, "critic.samples must be at least 1, not 0"),
    ],
)
def test_setting_that_makes_no_sense_is_refused(
    part: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(part, **changes)


# -- conservative critics ------------------------------------------------------------------------


def conservative(size: Sizes, **changes: Any) -> ConservativeLoss:
    return Conservative(**changes).build(size, None)


def test_first_third_of_the_actions_is_uniform() -> None:
    size = sizes(0, action=3)
    state = torch.zeros(1, 50, 2)
    actor = learner(size, Conservative()).actor
    action, log_density = conservative(size, actions=40)._actions(actor, state, state, 3)
    uniform = action[:, :40].flatten().sort().values
    even = torch.linspace(-1.0, 1.0, len(uniform))
    assert float((uniform - even).abs().max()) < 0.05  # Kolmogorov's distance, twice
    torch.testing.assert_close(log_density[:, :40], torch.full((1, 40, 50), 3.0 * math.log(0.5)))


def test_other_actions_are_the_policy_s_at_s_and_at_what_follows() -> None:
    size = sizes(0, 1, action=2)
    data = batch(size, count=5)
    actor = learner(size, Conservative()).actor
    action, log_density = conservative(size, actions=4)._actions(
        actor, data.observation, data.next_observation, 2
    )
    assert action.shape == (2, 12, 5, 2)
    known = action.abs().amax(-1) < ACTION_LIMIT  # beyond it a logged action is clipped
    assert float(known.float().mean()) > 0.9
    with torch.no_grad():
        for n in range(4):
            here = actor.distribution(data.observation).log_prob(action[:, 4 + n])
            there = actor.distribution(data.next_observation).log_prob(action[:, 8 + n])
            for found, which in ((here, 4 + n), (there, 8 + n)):
                inside = known[:, which]
                wanted = log_density[:, which][inside]
                torch.testing.assert_close(found[inside], wanted, rtol=1e-3, atol=1e-3)
    assert not torch.equal(action[:, 4], action[:, 5])


class Curved:
    """Critics of which one is a curve over the action and the other twice that, in any state."""

    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        del observation
        curve = torch.sin(3.0 * action[..., 0]) + action[..., 0].square()
        return torch.stack((curve, 2.0 * curve), 1)


class Scripted:
    """A learner with a real policy, and critics that are given."""

    def __init__(self, size: Sizes, critics: object) -> None:
        self.actor = learner(size, Conservative()).actor
        self.critics = self.targets = cast("Critics", critics)


def test_gap_is_the_log_integral_by_quadrature() -> None:
    size = sizes(0)
    data = batch(size, count=4, real=4)
    value = torch.zeros(1, 2, 4)
    part = conservative(size, weight=1.0, actions=20_000)
    scripted = Scripted(size, Curved())
    with torch.no_grad():  # a policy as wide as the actions: a narrow one seldom draws the others
        for parameter in scripted.actor.parameters():
            parameter.zero_()
        scripted.actor.body.biases[-1][..., 1] = math.atanh(0.4)  # log std -0.1
    loss, _ = part.loss(scripted, data, value, torch.zeros(1, 4))
    action = torch.linspace(-1.0, 1.0, 10_001)
    curve = torch.sin(3.0 * action) + action.square()
    integral = sum(torch.trapezoid((k * curve).exp(), action).log() for k in (1.0, 2.0))
    # TD errors and logged values are zero, so the loss is half the sum of both critics' integrals
    assert float(2.0 * loss) == pytest.approx(float(integral), abs=0.02)


def test_conservative_step_lowers_values_at_large_and_raises_logged_ones() -> None:
    size = sizes(0, 1)
    found, data = learner(size, Conservative(weight=100.0)), batch(size, real=32)
    data = replace(data, action=0.2 * data.action + 0.7)  # nobody went to the left
    anywhere = 2.0 * torch.rand((2, 32, 1), generator=torch.Generator().manual_seed(5)) - 1.0

    def values(action: Tensor) -> Tensor:
        with torch.no_grad():
            return found.critics.values(data.observation, action).mean((1, 2))

    logged, random = values(data.action), values(anywhere)
    for _ in range(5):
        found._step_critics(data, backup(found, data))
    assert bool((values(data.action) - logged > values(anywhere) - random + 0.01).all())


def test_weight_counts_beside_the_mean_squared_error() -> None:
    """The published code's loss is error^2 + weight * gap; ours is half of it."""
    size = sizes(0)
    data, value = batch(size), normal(7, 1, 2, 32)
    scripted = Scripted(size, Curved())
    target = torch.zeros(1, 32)
    loss, metrics = conservative(size, weight=3.0).loss(scripted, data, value, target)
    published = value.square().mean(-1).sum() + 3.0 * 2.0 * metrics["conservative_gap"]
    torch.testing.assert_close(2.0 * loss, published)


def test_logged_values_are_those_of_real_transitions() -> None:
    size = sizes(0)
    value = normal(7, 1, 2, 32).requires_grad_()
    target = value[:, 0].detach()  # the first critic's error is zero
    part = conservative(size, weight=3.0)
    loss, _ = part.loss(Scripted(size, Curved()), batch(size), value, target)
    (gradient,) = torch.autograd.grad(loss.sum(), (value,))
    expected = torch.tensor([-0.5 * 3.0 / REAL] * REAL + [0.0] * (32 - REAL))
    torch.testing.assert_close(gradient[0, 0], expected)


class Watching(Curved):
    """Critics that remember the states that they were asked about."""

    asked: Tensor

    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        self.asked = observation
        return super().values(observation, action)


@pytest.mark.parametrize(("only", "first"), [(True, REAL), (False, 0)])
def test_values_are_pushed_down_at_the_states_that_the_part_says(only: bool, first: int) -> None:
    size, critics = sizes(0), Watching()
    data = batch(size)
    part = conservative(size, model_states_only=only, actions=2)
    part.loss(Scripted(size, critics), data, torch.zeros(1, 2, 32), torch.zeros(1, 32))
    expected = data.observation[:, first:].repeat(1, 6, 1)
    assert torch.equal(critics.asked, expected)


@pytest.mark.parametrize(("only", "real"), [(False, 0), (True, 0), (True, 32)])
def test_batch_without_anything_to_compare_is_refused(only: bool, real: int) -> None:
    size = sizes(0)
    part = conservative(size, model_states_only=only)
    data = batch(size, real=real)
    with pytest.raises(UserError, match=f"of a batch of 32 there are {real} real ones"):
        part.loss(Scripted(size, Curved()), data, torch.zeros(1, 2, 32), torch.zeros(1, 32))


@pytest.mark.parametrize(("threshold", "direction"), [(-10.0, 1.0), (10.0, -1.0)])
def test_dual_weight_rises_while_the_gap_exceeds_its_threshold(
    threshold: float, direction: float
) -> None:
    size = sizes(0, 1)
    part = conservative(size, weight=1.0, threshold=threshold, learning_rate=0.1)
    scripted, data = Scripted(size, Curved()), batch(size)
    for _ in range(2):
        _, metrics = part.loss(scripted, data, torch.zeros(2, 2, 32), torch.zeros(2, 32))
    assert bool((direction * (metrics["conservative_weight"] - 1.0) > 0.05).all())


def test_fixed_weight_stays_where_it_is() -> None:
    size = sizes(0)
    part = conservative(size, weight=0.7)
    for _ in range(2):
        _, metrics = part.loss(
            Scripted(size, Curved()), batch(size), torch.zeros(1, 2, 32), torch.zeros(1, 32)
        )
    assert metrics["conservative_weight"].tolist() == pytest.approx([0.7])


# -- diverse critics -----------------------------------------------------------------------------


def test_slopes_are_the_derivatives_of_each_critic_by_its_action() -> None:
    size = sizes(0, 1, action=2)
    critics = Critics(size, (16,), 3, "x").double()
    state, action = normal(0, 2, 5, 2).double(), 0.5 * normal(1, 2, 5, 2).double()
    found = critics.slopes(state, action)
    assert found.shape == (2, 3, 5, 2)
    with torch.no_grad():
        for axis in range(2):
            step = torch.zeros(2).double()
            step[axis] = 1e-6
            after, before = (critics.values(state, action + s) for s in (step, -step))
            torch.testing.assert_close(
                found[..., axis], (after - before) / 2e-6, rtol=1e-5, atol=1e-7
            )


def test_slopes_carry_a_gradient_in_the_critics_and_not_in_the_batch() -> None:
    size = sizes(0)
    critics, state, action = Critics(size, (16,), 3, "x"), normal(0, 1, 5, 2), normal(1, 1, 5, 1)
    state.requires_grad_()
    action.requires_grad_()
    slope = critics.slopes(state, action).square().sum()
    first, *others = torch.autograd.grad(
        slope, (critics.body.weights[0], state, action), allow_unused=True
    )
    assert first is not None
    assert float(first.abs().sum()) > 0.0
    assert others == [None, None]


def test_diverse_step_makes_the_slopes_less_alike() -> None:
    size = sizes(0, 1, action=3)
    found, data = learner(size, Diversity(weight=100.0), critics=5), batch(size)
    first = found._step_critics(data, backup(found, data))["slope_similarity"]
    for _ in range(5):
        last = found._step_critics(data, backup(found, data))["slope_similarity"]
    assert bool((last < first - 0.1).all())


def test_similarity_counts_beside_the_mean_squared_error_of_all_critics() -> None:
    size = sizes(0)
    found, data = learner(size, Diversity(weight=4.0), critics=3), batch(size)
    assert found.critic is not None
    value, target = normal(7, 1, 3, 32), torch.zeros(1, 32)
    loss, metrics = found.critic.loss(found, data, value, target)
    published = value.square().mean(-1).sum() + 4.0 * metrics["slope_similarity"]
    torch.testing.assert_close(2.0 * loss, published)


def test_gradient_steps_each_weight_however_it_lies_in_memory() -> None:
    size = sizes(0, action=3)
    found, data = learner(size, Diversity(weight=1.0), critics=3), batch(size)
    parameters = list(found.critics.parameters())
    before = tensors(found.critics)
    slope = found.critics.slopes(data.observation, data.action).square().sum()
    gradients = torch.autograd.grad(slope, parameters, allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].stride() != parameters[0].stride()  # else this would show nothing
    found._step_critics(data, backup(found, data))
    slow = [p.detach().clone().requires_grad_() for p in before]
    adam = torch.optim.Adam(slow, lr=1e-2)
    for copy, parameter in zip(slow, parameters, strict=True):
        assert parameter.grad is not None
        copy.grad = parameter.grad.clone()
    adam.step()
    for copy, parameter in zip(slow, parameters, strict=True):
        torch.testing.assert_close(parameter.detach(), copy.detach())


# -- inconsistent models -------------------------------------------------------------------------


class Members:
    """Member m of three predicts a change of 0, 1 or 10 and no noise; members 2 and 0 count."""

    def __init__(self, std: float = 0.0) -> None:
        self.elites, self.std = torch.tensor([[2, 0]]), std

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        del action
        changes = torch.tensor([0.0, 1.0, 10.0])[None, :, None, None]
        mean = changes.expand(1, 3, observation.shape[1], observation.shape[2] + 1)
        return mean, torch.full_like(mean, self.std)


class Height:
    """Critics of which the smallest values the first observation."""

    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        del action
        height = observation[..., 0]
        return torch.stack((height + 3.0 * height.abs(), height), 1)


def inconsistency(size: Sizes, std: float = 0.0, **changes: Any) -> InconsistencyLoss:
    return Inconsistency(**changes).build(size, Members(std))


def paid(part: InconsistencyLoss, target: float, real: int = REAL) -> Tensor:
    """The penalised target of each row: -dloss/dvalue * B at a value of zero."""
    size = sizes(0)
    value = torch.zeros(1, 1, 32, requires_grad=True)
    data, scripted = batch(size, real=real), Scripted(size, Height())
    loss, _ = part.loss(scripted, data, value, torch.full((1, 32), target))
    (gradient,) = torch.autograd.grad(loss.sum(), (value,))
    return -32.0 * gradient[0, 0]


def test_target_pays_the_spread_of_the_elites_on_the_model_s_transitions_alone() -> None:
    found = paid(inconsistency(sizes(0), weight=0.5), 20.0)
    spread = math.sqrt(2.0 * 25.0)  # of 0 and 10, around 5
    expected = torch.tensor([20.0] * REAL + [20.0 - 0.5 * spread] * (32 - REAL))
    torch.testing.assert_close(found, expected)


class Square:
    """Critics that value the square of the first observation."""

    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        del action
        return observation[:, None, :, 0].square()


def test_spread_is_of_values_at_the_state_plus_the_predicted_change() -> None:
    size = sizes(0)
    data = batch(size)
    part = inconsistency(size)
    found = part._spread(Scripted(size, Square()), data.observation, data.action)
    # (x + 10)^2 and x^2 are 100 + 20 x apart
    expected = (100.0 + 20.0 * data.observation[..., 0]).abs() / math.sqrt(2.0)
    torch.testing.assert_close(found, expected)


def test_target_may_be_negative_unless_it_is_bounded() -> None:
    assert float(paid(inconsistency(sizes(0)), -5.0).min()) < -5.0
    bounded = paid(inconsistency(sizes(0), least_target=0.0), -5.0)
    assert bounded.abs().max() == 0.0


def test_noise_of_the_members_is_averaged_before_the_spread_is_taken() -> None:
    """With 2,000 successors a member, noise of std 1 hardly moves the members' means."""
    few, many = (
        paid(inconsistency(sizes(0), std=1.0, weight=1.0, samples=n), 0.0)[REAL:] for n in (1, 2000)
    )
    spread = math.sqrt(50.0)
    assert float((-many - spread).abs().max()) < 0.1
    assert float((-few - spread).abs().max()) > 0.5


def test_batch_of_real_transitions_pays_nothing() -> None:
    torch.testing.assert_close(paid(inconsistency(sizes(0)), 3.0, real=32), torch.full((32,), 3.0))


def test_each_seed_s_spread_is_of_its_own_elites() -> None:
    size = sizes(0, 1)
    model = Ensemble(members=3, elites=2, hidden=(8,)).build(size)
    model.elites = torch.tensor([[0, 1], [2, 2]])  # the second seed's elites agree
    with torch.no_grad():
        model.min_log_variance.fill_(-60.0)
        model.max_log_variance.fill_(-50.0)
    part = Inconsistency().build(size, model)
    data = batch(size)
    found = part._spread(learner(size, Inconsistency()), data.observation, data.action)
    # what is left of the second seed's is the policy's own noise
    assert found.shape == (2, 32)
    averaged = Inconsistency(samples=400).build(size, model)
    many = averaged._spread(learner(size, Inconsistency()), data.observation, data.action)
    assert float(many[1].mean()) < 0.3 * float(found[1].mean())


def test_inconsistency_without_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="The critic Inconsistency needs dynamics"):
        Inconsistency().build(sizes(0), None)
