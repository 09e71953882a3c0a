"""Advantages by hand, and the value that they are measured against."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mabe_transfer import advantages
from mabe_transfer.baseline import Baseline, ValueBaseline
from mabe_transfer.streams import Sizes

YES, NO = True, False


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def advantage(
    terminal: list[float], alive: list[bool], trace: float = 0.5, discount: float = 0.5
) -> list[float]:
    """Of one trajectory with rewards 1, 2, 3, 4 and values 1, 2, 3, 4, 5."""

    def column(numbers: list[float]) -> Tensor:
        return torch.tensor(numbers)[None, :, None]

    found = advantages.generalised_advantage(
        column([1.0, 2.0, 3.0, 4.0]),
        discount * (1.0 - column(terminal)),
        column([1.0, 2.0, 3.0, 4.0, 5.0]),
        torch.tensor(alive)[None, :, None],
        trace,
    )
    numbers: list[float] = found[0, :, 0].tolist()
    return numbers


@pytest.mark.parametrize(
    ("terminal", "alive", "expected"),
    [
        # errors r + V'/2 - V are 1, 1.5, 2, 2.5, and a quarter of what follows is added
        ([0, 0, 0, 0], [YES] * 4, [1.5390625, 2.15625, 2.625, 2.5]),
        # the last error is 4 - 4 where nothing follows
        ([0, 0, 0, 1], [YES] * 4, [1.5, 2.0, 2.0, 0.0]),
        # it ended at the second step, whose error is 2 - 2
        ([0, 1, 0, 0], [YES, YES, NO, NO], [1.0, 0.0, 0.0, 0.0]),
        # it was cut after the second step, whose error is 2 + 3/2 - 2
        ([0, 0, 0, 0], [YES, YES, NO, NO], [1.375, 1.5, 0.0, 0.0]),
    ],
    ids=["cut at the horizon", "terminal", "terminal before the horizon", "cut before it"],
)
def test_advantage_of_a_trajectory_by_hand(
    terminal: list[float], alive: list[bool], expected: list[float]
) -> None:
    assert advantage(terminal, alive) == pytest.approx(expected)


def test_trace_zero_is_the_one_step_error() -> None:
    assert advantage([0, 0, 0, 0], [YES] * 4, trace=0.0) == pytest.approx([1.0, 1.5, 2.0, 2.5])


def test_trace_one_is_the_discounted_return_less_the_value() -> None:
    found = advantage([0, 0, 0, 0], [YES] * 4, trace=1.0)
    ahead = 1.0 + 2.0 / 2 + 3.0 / 4 + 4.0 / 8 + 5.0 / 16
    assert found[0] == pytest.approx(ahead - 1.0)


def test_numbers_after_the_end_reach_no_advantage() -> None:
    shape = (1, 3, 1)
    reward, value = torch.ones(shape), torch.zeros(1, 4, 1)
    reward[0, 2], value[0, 3] = float("nan"), float("nan")
    alive = torch.tensor([YES, YES, NO]).view(shape)
    found = advantages.generalised_advantage(reward, torch.ones(shape), value, alive, 1.0)
    assert found.flatten().tolist() == [2.0, 1.0, 0.0]


def test_surrogate_and_mean_count_only_what_is_alive() -> None:
    alive = torch.tensor([[YES, YES, NO]])
    ratio, gain = torch.tensor([[1.0, 3.0, float("inf")]]), torch.tensor([[4.0, 2.0, 9.0]])
    assert advantages.surrogate(ratio, gain, alive).tolist() == [5.0]
    assert advantages.masked_mean(gain, alive).tolist() == [3.0]


# -- the value -----------------------------------------------------------------------------------

SMALL = Baseline(hidden=(16,), rate=1e-2, updates=100, batch=64)


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds, observation=2, action=1)


def fitted(*seeds: int, config: Baseline = SMALL) -> tuple[ValueBaseline, Tensor]:
    """Fitted to returns 1000 + 50 x of the first observation, on trajectories of 4 steps."""
    found = config.build(sizes(*seeds))
    observation = normal(0, 1, 4, 100, 2).expand(len(seeds), -1, -1, -1)
    alive = torch.ones(observation.shape[:-1], dtype=torch.bool)
    error = found.fit(observation, 1000.0 + 50.0 * observation[..., 0], alive)
    return found, error


def test_value_is_regressed_on_returns_of_any_scale() -> None:
    found, error = fitted(0, 1)
    at = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.5]]]).expand(2, -1, -1)
    expected = torch.tensor([1000.0, 1050.0, 950.0]).expand(2, -1)
    torch.testing.assert_close(found.values(at), expected, atol=12.0, rtol=0.0)
    assert error.shape == (2,)
    assert bool((error < 0.5).all())


def test_state_after_the_end_is_not_fitted() -> None:
    found = SMALL.build(sizes(0))
    observation, target = normal(0, 1, 2, 50, 2), torch.full((1, 2, 50), 7.0)
    observation[0, 1], target[0, 1] = float("nan"), float("nan")
    alive = torch.ones(1, 2, 50, dtype=torch.bool)
    alive[0, 1] = False
    found.fit(observation, target, alive)
    assert found.values(torch.zeros(1, 1, 2)).item() == pytest.approx(7.0, abs=0.01)


def test_return_to_predict_is_the_advantage_plus_the_value() -> None:
    found, _ = fitted(0)
    observation = normal(1, 1, 4, 5, 2)
    reward, terminal = normal(2, 1, 3, 5), torch.zeros(1, 3, 5)
    terminal[0, 2] = 1.0
    alive = torch.ones(1, 3, 5, dtype=torch.bool)
    advantage, target = found.judge(observation, reward, terminal, alive)
    value = found.values(observation.flatten(1, 2)).view(1, 4, 5)
    torch.testing.assert_close(target, advantage + value[:, :-1])
    torch.testing.assert_close(target[:, 2], reward[:, 2], atol=1e-3, rtol=0.0)


def test_baseline_of_a_seed_is_the_same_alone_and_among_three() -> None:
    config = Baseline(hidden=(16,), updates=5, batch=16)
    alone, among = fitted(2, config=config)[0], fitted(0, 1, 2, config=config)[0]
    for one, three in zip(alone.net.parameters(), among.net.parameters(), strict=True):
        torch.testing.assert_close(one[0], three[2], atol=1e-6, rtol=1e-6)
