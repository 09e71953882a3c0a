"""MPO against a prior: weights and multipliers, steps in the right direction, no others moved."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mabe_transfer.errors import UserError
from mabe_transfer.parts import Batch
from mabe_transfer.parts.mpo import Mpo, MpoLearner
from mabe_transfer.parts.prior import BehaviourPrior, Fit, Unweighted
from mabe_transfer.streams import Sizes

SMALL = Mpo(hidden=(16,), samples=8, every=2, trust_weight=1.0)


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=2, action=1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(size: Sizes, count: int = 16) -> Batch:
    s = size.stack
    action, zero = torch.tanh(normal(1, s, count, 1)), torch.zeros(s, count)
    observation, after = normal(0, s, count, 2), normal(3, s, count, 2)
    return Batch(observation, action, normal(2, s, count), after, zero, count)


def prior(size: Sizes) -> BehaviourPrior:
    return Unweighted(fit=Fit(hidden=(16,))).build(size)


def learner(config: Mpo = SMALL, *seeds: int) -> MpoLearner:
    size = sizes(*seeds)
    return config.build(size, prior(size))


def tensors(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def prefer_large_actions(found: MpoLearner, slope: float = 10.0) -> None:
    """Let the target critics be a multiple of the action."""

    def values(observation: Tensor, action: Tensor) -> Tensor:
        del observation
        return slope * action[:, None, :, 0].expand(-1, 2, -1)

    cast("Any", found.targets).values = values


def test_samples_are_the_prior_s_with_the_smaller_value_of_the_target_critics() -> None:
    found, seen = learner(SMALL, 0, 1), batch(sizes(0, 1))
    raw, value = found._sample(seen.observation)
    action = torch.tanh(raw)
    assert raw.shape == (2, 8, 16, 1)
    assert value.shape == (2, 8, 16)
    assert not value.requires_grad
    with torch.no_grad():
        for sample in (0, 7):
            both = found.targets.values(seen.observation, action[:, sample])
            torch.testing.assert_close(value[:, sample], both.amin(1))
        spread = found.prior.distribution(seen.observation)
    noise = (raw - spread.mean[:, None]) / spread.log_std.exp()[:, None]
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.2)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.2)


def test_policy_moves_as_far_from_the_prior_as_the_bound_lets_it() -> None:
    """A Gaussian tilted by a linear value moves by sqrt(2 bound) deviations: here by one."""
    config = replace(SMALL, policy_rate=5e-3, improvement=0.5, trust=1.0, samples=32)
    found, seen = learner(config), batch(sizes())

    def values(observation: Tensor, action: Tensor) -> Tensor:
        del observation
        return 3.0 * torch.atanh(action[:, None, :, 0]).expand(-1, 2, -1)

    cast("Any", found.targets).values = values
    for _ in range(150):
        found.update(seen)
    with torch.no_grad():
        policy = found.actor.distribution(seen.observation)
        base = found.prior.distribution(seen.observation)
    moved = (policy.mean - base.mean) / base.log_std.exp()
    assert float(moved.mean()) == pytest.approx(1.0, abs=0.3)


def test_policy_becomes_the_prior_where_all_actions_are_worth_the_same() -> None:
    config = replace(SMALL, policy_rate=3e-3, trust=1.0)
    found, seen = learner(config), batch(sizes())
    prefer_large_actions(found, slope=0.0)
    for _ in range(150):
        found.update(seen)
    base = cast("BehaviourPrior", found.prior)
    torch.testing.assert_close(
        found.act(seen.observation), base.act(seen.observation), atol=0.15, rtol=0.0
    )


def at_the_limit(found: MpoLearner) -> None:
    """Let prior and policy be N(4, 1) before the squash: half beyond the clip of logged actions."""
    base = cast("BehaviourPrior", found.prior).actor
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.zero_()
        base.body.biases[-1][..., 0] = 4.0
        base.body.biases[-1][..., 1] = math.atanh(3.0 / 7.0)  # log std 0 between -5 and 2
    found.start_from(base.state_dict())


def test_policy_stays_where_the_prior_acts_at_its_limits() -> None:
    """Fitted to actions that are clipped as logged ones are, its mean would fall to 3.5."""
    found, seen = learner(replace(SMALL, policy_rate=3e-3, trust=1.0, samples=64)), batch(sizes())
    at_the_limit(found)
    prefer_large_actions(found, slope=0.0)
    for _ in range(300):
        found.update(seen)
    with torch.no_grad():
        policy = found.actor.distribution(seen.observation)
    assert float(policy.mean.mean()) == pytest.approx(4.0, abs=0.1)
    assert float(policy.log_std.exp().mean()) == pytest.approx(1.0, abs=0.1)


def test_temperature_comes_to_where_the_weights_lie_the_bound_from_the_prior() -> None:
    config = replace(SMALL, improvement=0.3, dual_rate=5e-2, samples=64)
    found, seen = learner(config), batch(sizes())
    prefer_large_actions(found)
    for _ in range(80):
        _, value = found._sample(seen.observation)
        found._update_duals(value, torch.zeros(1))
    weight = torch.softmax(value / found.log_temperature.detach().exp(), dim=1)
    assert float((weight * torch.log(64 * weight)).sum(1).mean()) == pytest.approx(0.3, abs=0.06)


def test_price_of_the_trust_region_rises_while_it_is_left_and_falls_elsewhere() -> None:
    found = learner(SMALL, 0, 1)
    found._update_duals(torch.zeros(2, 8, 16), torch.tensor([1.0, 0.0]))
    left, inside = found.log_weight.tolist()
    assert left > 0.0 > inside


def test_multipliers_start_where_the_row_says() -> None:
    found = learner(replace(SMALL, temperature=2.0, trust_weight=10.0))
    assert found.log_temperature.tolist() == pytest.approx([math.log(2.0)])
    assert found.log_weight.tolist() == pytest.approx([math.log(10.0)])


def test_heavy_price_keeps_the_policy_at_its_target() -> None:
    free, bound = (learner(replace(SMALL, every=1000, policy_rate=3e-3)) for _ in range(2))
    seen = batch(sizes())
    moved = []
    for found, price in ((free, -20.0), (bound, 10.0)):
        prefer_large_actions(found)
        for _ in range(30):
            with torch.no_grad():
                found.log_weight.fill_(price)
            metrics = found.update(seen)
        moved.append(float(metrics["kl"]))
    assert moved[1] < 0.01 < 0.1 < moved[0]


def test_policy_step_leaves_critics_targets_and_prior_alone() -> None:
    found, seen = learner(), batch(sizes())
    base = cast("BehaviourPrior", found.prior)
    others = (found.critics, found.targets, found.target_actor, base.actor)
    before = [tensors(module) for module in others]
    policy = tensors(found.actor)
    found._update_policy(seen.observation, *found._sample(seen.observation))
    assert not same(policy, found.actor)
    assert all(same(old, module) for old, module in zip(before, others, strict=True))
    assert not any(
        p.grad is not None and p.grad.any() for module in others for p in module.parameters()
    )


def test_critic_step_leaves_the_policy_alone() -> None:
    found, seen = learner(), batch(sizes())
    before = tensors(found.actor)
    found._update_critics(seen)
    assert same(before, found.actor)
    assert not any(p.grad is not None and p.grad.any() for p in found.actor.parameters())


def test_target_policy_is_a_copy_from_time_to_time() -> None:
    found, seen = learner(), batch(sizes())
    first = tensors(found.target_actor)
    found.update(seen)
    assert same(first, found.target_actor)
    found.update(seen)
    assert same(tensors(found.actor), found.target_actor)
    assert not same(first, found.target_actor)


def test_learner_starts_from_a_prior() -> None:
    found, seen = learner(), batch(sizes())
    base = cast("BehaviourPrior", found.prior)
    found.start_from(base.policy_state())
    assert torch.equal(found.act(seen.observation), base.act(seen.observation))
    noise = normal(9, 1, 16, 1)
    assert torch.equal(found.act(seen.observation, noise), base.act(seen.observation, noise))
    assert float(found.update(seen)["kl"]) == pytest.approx(0.0, abs=1e-6)


def test_learner_goes_on_exactly_from_its_state() -> None:
    going, resumed, seen = learner(SMALL, 0, 4), learner(SMALL, 0, 4), batch(sizes(0, 4))
    for _ in range(3):
        going.update(seen)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for _ in range(3):
        one, other = going.update(seen), resumed.update(seen)
        assert all(torch.equal(one[name], other[name]) for name in one)
    left, right = going.state(), resumed.state()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not math.isclose(float(left["log_temperature"][0]), 0.0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("samples", 0, "must be at least 1, not 0"),
        ("every", 0, "must be at least 1, not 0"),
        ("improvement", 0.0, "must be positive, not 0.0"),
        ("trust", -1.0, "must be positive, not -1.0"),
        ("trust_weight", 0.0, "must be positive, not 0.0"),
        ("temperature", math.nan, "must be positive, not nan"),
    ],
)
def test_bound_that_is_none_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"policy.{field} {message}"):
        replace(SMALL, **{field: value})
