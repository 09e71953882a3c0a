"""Stacked networks and keyed random streams: many seeds at once are as good as each alone."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from mabe_transfer.networks import (
    BLOCK,
    Actor,
    Critics,
    StackedMlp,
    track,
)
from mabe_transfer.parts import Batch
from mabe_transfer.parts.regulariser import Entropy
from mabe_transfer.parts.sac import Sac, SacLearner
from mabe_transfer.squashed import LOG_STD_BOUNDS, SquashedNormal
from mabe_transfer.streams import Sizes, Streams, generator, generators

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
FIVE = (0, 1, 2, 3, 4)


def sizes(*seeds: int, observation: int = 3, action: int = 2) -> Sizes:
    return Sizes(seeds=seeds, observation=observation, action=action)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- the squashed Gaussian -----------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.7, -1.5), (-0.4, -2.5)])
def test_density_integrates_to_one(mean: float, log_std: float) -> None:
    edges = torch.linspace(-0.998, 0.998, 200_001, dtype=torch.float64)
    policy = SquashedNormal(
        torch.full((200_001, 1), mean, dtype=torch.float64),
        torch.full((200_001, 1), log_std, dtype=torch.float64),
    )
    mass = torch.trapezoid(policy.log_prob(edges[:, None]).exp(), edges)
    assert float(mass) == pytest.approx(1.0, abs=2e-3)  # what lies beyond +-0.998 is less


def test_density_at_the_origin_is_the_gaussian_s() -> None:
    policy = SquashedNormal(torch.zeros(1, 1), torch.zeros(1, 1))
    # tanh has slope 1 there: log(1 / sqrt(2 pi))
    assert float(policy.log_prob(torch.zeros(1, 1))) == pytest.approx(-0.9189385)


def test_log_prob_of_a_sample_is_the_sample_s_own() -> None:
    policy = SquashedNormal(0.5 * normal(0, 4, 6, 2), 0.3 * normal(1, 4, 6, 2) - 1.0)
    sample = policy.sample(normal(2, 4, 6, 2))
    action, log_prob = sample.action(), sample.log_prob()
    assert log_prob.shape == (4, 6)
    assert float(action.abs().max()) < 0.999
    torch.testing.assert_close(policy.log_prob(action), log_prob, atol=1e-4, rtol=1e-4)


def test_log_prob_is_finite_at_the_bounds_and_far_beyond_the_mean() -> None:
    policy = SquashedNormal(torch.full((1, 2), 30.0), torch.full((1, 2), -5.0))
    sample = policy.sample(torch.full((1, 2), 40.0))
    assert sample.action().tolist() == [[1.0, 1.0]]
    assert bool(sample.log_prob().isfinite().all())
    assert bool(policy.log_prob(torch.tensor([[1.0, -1.0]])).isfinite().all())


def test_mode_is_the_sample_without_noise() -> None:
    policy = SquashedNormal(normal(0, 5, 2), normal(1, 5, 2))
    torch.testing.assert_close(policy.mode(), policy.sample(torch.zeros(5, 2)).action())


def test_log_std_of_an_actor_stays_in_its_bounds() -> None:
    actor = Actor(sizes(0), (8,), "policy")
    log_std = actor.distribution(1e3 * normal(0, 1, 200, 3)).log_std.detach()
    assert float(log_std.min()) >= LOG_STD_BOUNDS[0]
    assert float(log_std.max()) <= LOG_STD_BOUNDS[1]
    assert float(log_std.max() - log_std.min()) > 3.0


# -- stacks --------------------------------------------------------------------------------------


def test_stack_is_its_perceptrons_evaluated_one_by_one() -> None:
    stack = StackedMlp((3, 5, 4, 2), [generator(s, "x", CPU) for s in FIVE])
    x = normal(0, 5, 7, 3)
    together = stack.evaluate(x)
    for k in range(5):
        hidden = x[k]
        for layer, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            hidden = hidden @ weight[k] + bias[k]
            hidden = torch.relu(hidden) if layer < 2 else hidden
        torch.testing.assert_close(together[k], hidden)


def test_initial_weights_lie_within_the_root_of_the_fan_in() -> None:
    stack = StackedMlp((16, 64, 1), [generator(0, "x", CPU)])
    assert 0.24 < float(stack.weights[0].detach().abs().max()) <= 0.25
    assert 0.11 < float(stack.weights[1].detach().abs().max()) <= 0.125


def test_every_critic_sees_its_own_seed_s_batch() -> None:
    critics = Critics(sizes(0, 1), (8,), 2, "critics")
    observation, action = normal(0, 2, 4, 3), normal(1, 2, 4, 2)
    values = critics.values(observation, action)
    assert values.shape == (2, 2, 4)
    inputs = torch.cat((observation, action), -1)
    for seed, critic in itertools.product(range(2), range(2)):
        k = 2 * seed + critic
        hidden = torch.relu(inputs[seed] @ critics.body.weights[0][k] + critics.body.biases[0][k])
        alone = hidden @ critics.body.weights[1][k] + critics.body.biases[1][k]
        torch.testing.assert_close(values[seed, critic], alone[:, 0])


def test_track_moves_by_its_rate() -> None:
    target, source = Critics(sizes(0), (4,), 1, "a"), Critics(sizes(0), (4,), 1, "b")
    before, goal = target.body.weights[0].clone(), source.body.weights[0].clone()
    track(target, source, 0.25)
    torch.testing.assert_close(target.body.weights[0], 0.75 * before + 0.25 * goal)
    assert torch.equal(source.body.weights[0], goal)


# -- randomness keyed by (seed, component) -------------------------------------------------------


def test_no_two_streams_are_the_same() -> None:
    names = [f"critics/weights/{i}" for i in range(20)] + ["policy", "prior", "replay", "batches"]
    first = {
        float(torch.rand((), generator=generator(seed, name, CPU), dtype=torch.float64))
        for seed in range(10)
        for name in names
    }
    assert len(first) == 240


def test_critics_of_one_seed_differ() -> None:
    weights = Critics(sizes(0), (8,), 2, "critics").body.weights[0]
    assert float((weights[0] - weights[1]).detach().abs().mean()) > 0.1


def test_seed_starts_with_the_same_weights_alone_and_among_five() -> None:
    alone, among = Actor(sizes(3), (8, 8), "policy"), Actor(sizes(*FIVE), (8, 8), "policy")
    for one, five in zip(alone.parameters(), among.parameters(), strict=True):
        assert torch.equal(one[0], five[3])


def test_critics_of_a_seed_start_alike_alone_and_among_five() -> None:
    alone, among = Critics(sizes(3), (8,), 2, "c"), Critics(sizes(*FIVE), (8,), 2, "c")
    for one, five in zip(alone.parameters(), among.parameters(), strict=True):
        assert torch.equal(one, five[6:8])


def test_seed_draws_the_same_numbers_alone_and_among_five() -> None:
    alone, among = Streams(sizes(3), "x"), Streams(sizes(*FIVE), "x")
    for _ in range(5):
        assert torch.equal(alone.normal(2, 4)[0], among.normal(2, 4)[3])
        assert torch.equal(alone.integers(100, 6)[0], among.integers(100, 6)[3])
        assert torch.equal(alone.permutation(9)[0], among.permutation(9)[3])


def test_integers_of_each_seed_stay_below_its_own_bound() -> None:
    drawn = Streams(sizes(0, 1), "x").integers([2, 50], 400)
    assert set(drawn[0].tolist()) == {0, 1}
    assert 40 < int(drawn[1].max()) < 50


def test_permutation_is_one() -> None:
    drawn = Streams(sizes(0, 1), "x").permutation(30)
    assert drawn.sort(1).values.tolist() == [list(range(30))] * 2
    assert drawn[0].tolist() != drawn[1].tolist()


DRAWS: dict[str, Callable[[Streams], Tensor]] = {
    "n": lambda streams: streams.normal(2, 3),
    "N": lambda streams: streams.normal(5),
    "i": lambda streams: streams.integers(1000, 4),
    "p": lambda streams: streams.permutation(7),
}


@pytest.mark.parametrize("before", ["", "n", "nip", "pNNi"])
@pytest.mark.parametrize("after", ["nnn", "NipN"])
def test_streams_go_on_exactly_from_their_state(before: str, after: str) -> None:
    going, fresh = Streams(sizes(0, 3), "x"), Streams(sizes(0, 3), "x")
    for kind in before:
        DRAWS[kind](going)
    fresh.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    for kind in after:
        assert torch.equal(DRAWS[kind](going), DRAWS[kind](fresh))


def test_stream_of_an_earlier_version_goes_on_beyond_what_it_had_drawn() -> None:
    going, fresh = Streams(sizes(0), "x"), Streams(sizes(0), "x")
    going.normal(64, 4)
    earlier = {
        "before": fresh.state()["now"],
        "used": torch.tensor(3),
        "shape": torch.tensor([4]),
        "now": going.state()["now"],
    }
    fresh.load_state(earlier)
    assert torch.equal(fresh.normal(5), going.normal(5))


def test_state_of_a_resumed_stream_can_be_resumed_again() -> None:
    going = Streams(sizes(0), "x")
    for kind in "nni":
        DRAWS[kind](going)
    second, third = Streams(sizes(0), "x"), Streams(sizes(0), "x")
    second.load_state(going.state())
    third.load_state(second.state())
    for kind in "nnnnni":
        assert torch.equal(DRAWS[kind](going), DRAWS[kind](third))


def learner(*seeds: int) -> SacLearner:
    size = sizes(*seeds)
    return Sac(hidden=(16, 16)).build(size, Entropy(initial=0.2).build(size, None))


def batch(rows: slice) -> Batch:
    """Transitions for five seeds, of which some rows are taken."""
    return Batch(
        normal(0, 5, 8, 3)[rows],
        torch.tanh(normal(1, 5, 8, 2))[rows],
        normal(2, 5, 8)[rows],
        normal(3, 5, 8, 3)[rows],
        (normal(4, 5, 8) > 1.0).float()[rows],
        real=8,
    )


def test_seed_learns_the_same_alone_and_among_five() -> None:
    alone, among = learner(3), learner(*FIVE)
    for _ in range(3):
        alone.update(batch(slice(3, 4)))
        among.update(batch(slice(None)))
    one, five = alone.state(), among.state()
    for name in one:
        if name.startswith(("policy/", "critics/", "targets/")):
            count = len(one[name])  # slices of a seed: 1 policy, 2 critics
            its = five[name][3 * count : 4 * count]
            torch.testing.assert_close(one[name], its, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(alone.regulariser.weight()[0], among.regulariser.weight()[3])


# -- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.silu])
@pytest.mark.parametrize("picked", [None, [2, 0]])
def test_rows_in_blocks_are_those_of_the_whole(
    activation: Callable[[Tensor], Tensor], picked: list[int] | None
) -> None:
    net = StackedMlp((4, 8, 8, 2), [generator(k, "net", CPU) for k in range(3)], activation)
    chosen = None if picked is None else torch.tensor(picked)
    x = normal(0, 3 if chosen is None else 2, 2 * BLOCK + 5, 4)
    whole = net.evaluate(x, chosen)  # a gradient is wanted, so at once
    assert whole.requires_grad
    with torch.no_grad():
        found = net.evaluate(x, chosen)
    assert found.shape == whole.shape
    assert torch.allclose(found, whole, atol=1e-6)
    for place, slot in enumerate(range(3) if picked is None else picked):
        alone = net.evaluate(x[place, None], torch.tensor([slot]))
        assert torch.allclose(alone[0], whole[place], atol=1e-6)


def test_living_streams_of_a_device_are_known() -> None:
    streams = Streams(Sizes(seeds=(3, 4), observation=1, action=1), "known")
    alive = generators(torch.device("cpu"))
    assert all(any(one is found for found in alive) for one in streams.generators)
    assert all(one.device.type == "cuda" for one in generators(torch.device("cuda")))
    gone = weakref.ref(streams)
    del streams
    assert gone() is None
