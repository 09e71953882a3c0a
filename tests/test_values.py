"""What the data say of their own actions: episodes, returns, values, and the weights from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mabe_transfer.errors import UserError
from mabe_transfer.parts import Data, unpack
from mabe_transfer.parts.prior import Adaptive, Fit, Network
from mabe_transfer.streams import Sizes
from mabe_transfer.values import InSample, LambdaReturns
from mabe_transfer.weighting import Exponential, Indicator


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=1, action=1)


def rows(*columns: list[float]) -> Tensor:
    """Packed transitions from columns: observation, action, reward, next observation, terminal."""
    return torch.tensor(columns).T.contiguous()


# Two episodes: three steps until the clock ends them, then two steps to a terminal state.
ROWS = rows(
    [0.0, 1.0, 2.0, 0.0, 1.0],
    [0.1, 0.2, 0.3, 0.4, 0.5],
    [1.0, 1.0, 1.0, 5.0, 5.0],
    [1.0, 2.0, 3.0, 1.0, 2.0],
    [0.0, 0.0, 0.0, 0.0, 1.0],
)
ENDS = torch.tensor([False, False, True, False, True])
DATA = Data(ROWS, ENDS)


# -- the data ------------------------------------------------------------------------------------


def test_next_action_is_the_following_row_s_and_unknown_at_an_episode_s_end() -> None:
    action, known = DATA.next_action(sizes(), torch.tensor([[0, 1, 2], [3, 4, 0]]))
    assert known.tolist() == [[True, True, False], [True, False, True]]
    assert action[..., 0][known].tolist() == pytest.approx([0.2, 0.3, 0.5, 0.2])


def test_span_of_returns_is_that_of_whole_episodes() -> None:
    assert DATA.return_span(sizes()) == pytest.approx(10.0 - 3.0)


def test_rows_of_which_nothing_is_known_are_episodes_of_their_own() -> None:
    data = Data(ROWS)
    assert data.ends.all()
    assert data.return_span(sizes()) == pytest.approx(5.0 - 1.0)


# -- weights -------------------------------------------------------------------------------------


def test_exponential_takes_the_advantage_as_it_is_and_is_clipped() -> None:
    q, value = torch.tensor([[1.0, 2.0, 50.0, -1e6]]), torch.tensor([[1.0, 1.5, 0.0, 0.0]])
    weight = Exponential(inverse_temperature=3.0, clip=100.0).weigh(q, value, 0.99, 1.0)
    assert weight[0].tolist() == pytest.approx([1.0, math.exp(1.5), 100.0, 0.0])
    even = Exponential(inverse_temperature=0.0).weigh(q, value, 0.99, 1.0)
    assert torch.equal(even, torch.ones(1, 4))


def test_indicator_keeps_the_actions_that_are_no_worse_than_the_state() -> None:
    q, value = torch.tensor([[1.0, 2.0, 3.0]]), torch.full((1, 3), 2.0)
    assert Indicator().weigh(q, value, 0.99, 1.0).tolist() == [[0.0, 1.0, 1.0]]


# -- returns as values ---------------------------------------------------------------------------


def test_returns_of_whole_episodes_are_their_discounted_rewards() -> None:
    found = LambdaReturns(mix=1.0).build(sizes(0, 1), (8,), 0.5)
    found.look_at(DATA, 2.0)
    returns = found._compute()
    with torch.no_grad():
        beyond = found.value.evaluate(torch.full((2, 1, 1), 3.0))[:, 0, 0]
    for seed in (0, 1):
        last = 2.0 + 0.5 * float(beyond[seed])
        middle = 2.0 + 0.5 * last
        expected = [2.0 + 0.5 * middle, middle, last, 15.0, 10.0]
        assert returns[seed].tolist() == pytest.approx(expected)


def test_value_learns_the_returns_and_they_follow_its_refresh() -> None:
    found = LambdaReturns(mix=0.5, refresh=3, rate=1e-2).build(sizes(), (16,), 0.5)
    found.look_at(DATA, 1.0)
    index = torch.arange(5)[None]
    batch = unpack(ROWS[index], 1, 1, index=index)
    seen = [found.update(batch)[0].clone() for _ in range(4)]
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[2], seen[3])
    for _ in range(400):
        _, value = found.update(batch)
    # Both episodes pass the states 0 and 1, the clock's one also 2: the fixed point of the mean.
    v2 = float(value[0, 2])
    g1 = 1.0 + 0.5 * (0.5 * v2 + 0.5 * float(found.returns[0, 2]))
    assert float(value[0, 1]) == pytest.approx((g1 + 5.0) / 2.0, abs=0.1)
    assert float(value[0, 1]) == pytest.approx(float(value[0, 4]))


@pytest.mark.parametrize("evaluation", [InSample(), LambdaReturns(refresh=2)])
def test_fit_goes_on_exactly_from_its_state(evaluation: InSample | LambdaReturns) -> None:
    fit = Fit(updates=8, batch=4, hidden=(8,))
    config = Adaptive(fit=fit, evaluation=evaluation, return_range=10.0)
    going = config.build(sizes(0, 3)).fitting(DATA)
    for _ in range(3):
        going.advance(1)
    resumed = config.build(sizes(0, 3)).fitting(DATA)
    resumed.load_state({name: tensor.clone() for name, tensor in going.state().items()})
    while not going.finished:
        going.advance(1)
        resumed.advance(1)
    assert resumed.finished
    assert going.facts() == resumed.facts()
    one, other = going.state(), resumed.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mix": 1.5}, "must lie in 0..1, not 1.5"), ({"refresh": 0}, "must be at least 1, not 0")],
)
def test_evaluation_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"evaluation.{next(iter(change))} {message}"):
        replace(LambdaReturns(), **change)


# -- the scale of rewards ------------------------------------------------------------------------


def test_rewards_are_scaled_so_that_returns_span_the_range() -> None:
    prior = Adaptive(fit=Network(hidden=(8,)), return_range=1000.0).build(sizes())
    prior.look_at(DATA)
    assert prior.evaluator is not None
    assert prior.evaluator.factor == pytest.approx(1000.0 / 7.0)
    assert prior.scale == pytest.approx(5.0 * 1000.0 / 7.0)


def test_scaled_rewards_are_what_the_critics_learn() -> None:
    index = torch.tensor([[4]])  # the terminal row, worth its reward of 5
    batch = unpack(ROWS[index], 1, 1, index=index)
    found = InSample(rate=3e-2, polyak=0.5).build(sizes(), (16,), 0.5)
    found.look_at(DATA, 3.0)
    for _ in range(150):
        q, _ = found.update(batch)
    assert float(q) == pytest.approx(15.0, abs=0.5)


def test_range_of_returns_that_are_all_the_same_is_refused() -> None:
    prior = Adaptive(fit=Network(hidden=(8,)), return_range=1000.0).build(sizes())
    with pytest.raises(UserError, match="has the same return, so rewards cannot be scaled"):
        prior.look_at(Data(ROWS[:3], ENDS[:3]))


def test_effective_share_counts_how_much_of_a_batch_is_copied() -> None:
    prior = Adaptive(weighting=Indicator(), fit=Network(hidden=(8,))).build(sizes())
    index = torch.arange(4)[None]
    assert prior.evaluator is not None
    half = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    prior.evaluator.update = lambda batch: (half, torch.zeros(1, 4))  # type: ignore[method-assign]
    _, metrics = prior._weigh(unpack(ROWS[index], 1, 1, index=index))
    assert float(metrics["effective_share"]) == pytest.approx(0.5)


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InSample, LambdaReturns])
def test_evaluation_has_the_prior_s_widths_or_its_own(kind: Any) -> None:
    for hidden, expected in ((None, (7, 5)), ((3,), (3,))):
        found = kind(hidden=hidden).build(sizes(), (7, 5), 0.9)
        assert tuple(weight.shape[2] for weight in found.value.weights) == (*expected, 1)
