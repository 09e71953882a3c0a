"""TD3 with cloning: targets by hand, steps in the right direction, and nothing else moves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mabe_transfer.errors import UserError
from mabe_transfer.networks import Critics, relu_and_norm
from mabe_transfer.parts import Batch, Data, unpack
from mabe_transfer.parts.td3 import Td3, Td3Learner
from mabe_transfer.streams import Sizes

SMALL = Td3(hidden=(16,), standardised=False)


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=2, action=1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ROWS = torch.cat((normal(0, 40, 2), torch.tanh(normal(1, 40, 1)), normal(2, 40, 3)), 1)
ROWS = torch.cat((ROWS, torch.zeros(40, 1)), 1)
ENDS = torch.arange(40) % 4 == 3


def data() -> Data:
    return Data(ROWS, ENDS)


def batch(size: Sizes) -> Batch:
    index = torch.arange(40).repeat(size.stack, 1)
    return unpack(ROWS[index], 2, 1, index=index)


def tensors(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def constant(found: Td3Learner, action: float) -> None:
    """Let the target policy take one action everywhere, and the target critics be 10 a - (0, 1)."""
    with torch.no_grad():
        for parameter in found.target_actor.parameters():
            parameter.zero_()
        found.target_actor.body.biases[-1].fill_(math.atanh(action))

    def values(observation: Tensor, taken: Tensor) -> Tensor:
        del observation
        return 10.0 * taken[:, None, :, 0] - torch.tensor([0.0, 1.0])[None, :, None]

    cast("Any", found.targets).values = values


def rows(*, terminal: float = 0.0) -> Batch:
    """Two rows, the second an episode's last, with reward 1."""
    state = torch.zeros(1, 2, 2)
    index = torch.tensor([[2, 3]])
    return Batch(
        state, torch.zeros(1, 2, 1), torch.ones(1, 2), state, torch.full((1, 2), terminal), 2, index
    )


@pytest.mark.parametrize(
    ("drawn", "noise"), [(0.5, 0.1), (2.0, 0.4), (10.0, 0.5), (-10.0, -0.5)], ids=str
)
def test_target_takes_the_smaller_critic_at_a_smoothed_action(drawn: float, noise: float) -> None:
    found = replace(SMALL, discount=0.5).build(sizes(), data())
    constant(found, 0.3)
    cast("Any", found.noise).normal = lambda *shape: torch.full((1, *shape), drawn)
    expected = 1.0 + 0.5 * (10.0 * (0.3 + noise) - 1.0)
    assert found._target(rows())[0].tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert found._target(rows(terminal=1.0))[0].tolist() == [1.0, 1.0]


def test_smoothed_action_stays_an_action() -> None:
    found = replace(SMALL, discount=0.5).build(sizes(), data())
    constant(found, 0.9)
    cast("Any", found.noise).normal = lambda *shape: torch.full((1, *shape), 10.0)
    assert found._target(rows())[0].tolist() == pytest.approx([1.0 + 0.5 * 9.0] * 2)


def test_critic_penalty_is_the_distance_from_the_next_action_of_the_data_where_it_is_known() -> (
    None
):
    found = replace(SMALL, discount=0.5, critic_penalty=2.0).build(sizes(), data())
    constant(found, 0.3)
    cast("Any", found.noise).normal = lambda *shape: torch.zeros(1, *shape)
    taken = float(ROWS[3, 2])  # what followed row 2; row 3 is the last of its episode
    plain = 1.0 + 0.5 * (10.0 * 0.3 - 1.0)
    expected = [plain - 0.5 * 2.0 * (0.3 - taken) ** 2, plain]
    assert found._target(rows())[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_policy_and_targets_are_updated_at_every_second_step_of_the_critics() -> None:
    size = sizes(0, 1)
    found = SMALL.build(size, data())
    policy, critics, targets = tensors(found.actor), tensors(found.critics), tensors(found.targets)
    assert "policy_loss" not in found.update(batch(size))
    assert same(policy, found.actor)
    assert same(targets, found.targets)
    assert not same(critics, found.critics)
    assert "policy_loss" in found.update(batch(size))
    assert not same(policy, found.actor)
    assert not same(targets, found.targets)


def test_policy_step_leaves_the_critics_alone_and_critic_step_the_policy() -> None:
    size = sizes()
    found = SMALL.build(size, data())
    critics = tensors(found.critics)
    found._update_policy(batch(size))
    assert same(critics, found.critics)
    assert not any(p.grad is not None and p.grad.any() for p in found.critics.parameters())
    policy = tensors(found.actor)
    found._update_critics(batch(size))
    assert same(policy, found.actor)


def test_policy_step_climbs_the_value_or_nears_the_data() -> None:
    size = sizes()
    climbing = replace(SMALL, policy_penalty=0.0, policy_rate=1e-3).build(size, data())
    nearing = replace(SMALL, value_weight=0.0, policy_rate=1e-3).build(size, data())
    seen = batch(size)

    def value() -> float:
        with torch.no_grad():
            action = climbing.actor.mode(seen.observation)
            return float(climbing.critics.values(seen.observation, action).amin(1).mean())

    before = value()
    for _ in range(20):
        climbing._update_policy(seen)
        distance = nearing._update_policy(seen)["distance"]
    assert value() > before
    assert float(distance) < float(SMALL.build(size, data())._update_policy(seen)["distance"])


def test_networks_see_observations_in_units_of_the_data() -> None:
    found = replace(SMALL, standardised=True).build(sizes(), Data(100.0 + 7.0 * ROWS, ENDS))
    seen = found.actor.standardised((100.0 + 7.0 * ROWS)[:, :2])
    assert seen.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=1e-4)
    assert seen.std(0, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    state = found.policy_state()
    assert state["observation_mean"].tolist() == found.target_actor.observation_mean.tolist()


def test_noise_changes_nothing_of_what_a_deterministic_policy_does() -> None:
    found, observation = SMALL.build(sizes(), data()), normal(5, 1, 4, 2)
    assert torch.equal(found.act(observation), found.act(observation, torch.ones(1, 4, 1)))


def test_deterministic_policy_cannot_start_as_a_prior() -> None:
    with pytest.raises(UserError, match="is deterministic and cannot start as a copy of a prior"):
        SMALL.build(sizes(), data()).start_from({})


def test_learner_goes_on_exactly_from_its_state() -> None:
    config = replace(SMALL, standardised=True, critic_penalty=0.1, normalised_critics=True)
    size = sizes(0, 4)
    going, resumed, seen = config.build(size, data()), config.build(size, data()), batch(size)
    for _ in range(3):
        going.update(seen)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for _ in range(3):
        one, other = going.update(seen), resumed.update(seen)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    left, right = going.state(), resumed.state()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_layer_norm_standardises_what_was_rectified_in_every_slice() -> None:
    found = relu_and_norm(torch.tensor([[[-5.0, 1.0, 2.0, 3.0]]]))
    rest = torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)
    torch.testing.assert_close(found[0, 0], rest, atol=1e-4, rtol=1e-4)


def test_layer_norm_bounds_what_a_critic_gives_far_from_the_data() -> None:
    near, far = normal(0, 1, 8, 2), 1e6 * normal(0, 1, 8, 2)
    action = torch.zeros(1, 8, 1)
    plain = Critics(sizes(), (16,), 2, "critics")
    normed = Critics(sizes(), (16,), 2, "critics", relu_and_norm)
    with torch.no_grad():
        assert float(plain.values(far, action).abs().max()) > 1e4
        assert float(normed.values(far, action).abs().max()) < 5.0
        assert float((normed.values(near, action) - normed.values(-near, action)).abs().max()) > 0.1


def test_policy_that_is_never_updated_is_refused() -> None:
    with pytest.raises(UserError, match=r"policy.every must be at least 1, not 0"):
        Td3(every=0)
