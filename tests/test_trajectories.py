"""Whole trajectories in a model whose every step is known, and where they are halted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from mabe_transfer.errors import UserError
from mabe_transfer.parts.rollouts import RolloutPool, Rollouts
from mabe_transfer.parts.trajectories import Player, WholeRollouts
from mabe_transfer.parts.uncertainty import Detector, Halt, StdPenalty, disagreement
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from mabe_transfer.imagination import Moments


class Counter:
    """The state grows by the action; reward is the state before. Two members, which disagree.

    Their predicted successors lie half of the state's square apart, their rewards far apart.
    """

    def __init__(self, seeds: int = 1, spread: float = 1.0) -> None:
        self.elites, self.spread = torch.zeros(seeds, 1, dtype=torch.int64), spread

    def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> Moments:
        del members
        mean = torch.cat((action, observation), -1)
        return mean, torch.full_like(mean, self.spread)

    def predict(self, observation: Tensor, action: Tensor) -> Moments:
        one = torch.cat((action, observation), -1)
        other = torch.cat((action + 0.5 * observation.square(), observation + 1e6), -1)
        mean = torch.stack((one, other), 1)
        return mean, torch.full_like(mean, self.spread)


class Below:
    """The task ends at or above a limit; observations are clipped to +-90."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def terminated(self, state: Tensor) -> Tensor:
        return state[..., 0] >= self.limit

    def clip(self, observation: Tensor) -> Tensor:
        return observation.clamp(-90.0, 90.0)


def sizes(*seeds: int) -> Sizes:
    return Sizes(seeds=seeds or (0,), observation=1, action=1)


def one_step(observation: Tensor, noise: Tensor) -> Tensor:
    del noise
    return torch.ones_like(observation)


def player(
    *seeds: int, limit: float = 5.0, horizon: int = 4, starts: int = 2, **changes: Any
) -> Player:
    config = WholeRollouts(horizon=horizon, starts=starts, **changes)
    return Player(config, sizes(*seeds), Below(limit), 1)


def starts(*numbers: float) -> Tensor:
    return torch.tensor(numbers)[None, :, None]


# -- whole trajectories --------------------------------------------------------------------------


def test_trajectory_goes_on_from_its_own_successors_and_is_cut_at_the_horizon() -> None:
    found = player(limit=1e9).play(Counter(), one_step, starts(1.0, -3.0), None)
    assert found.observation[0, :, :, 0].T.tolist() == [[1, 2, 3, 4, 5], [-3, -2, -1, 0, 1]]
    assert found.reward[0].T.tolist() == [[1, 2, 3, 4], [-3, -2, -1, 0]]
    assert not bool(found.terminal.any())
    assert bool(found.alive.all())
    assert found.metrics["model_return"].tolist() == [(10.0 - 6.0) / 2]
    assert found.metrics["model_length"].tolist() == [4.0]


def test_trajectory_ends_by_the_task_s_rule_and_earns_nothing_after_it() -> None:
    found = player(limit=5.0).play(Counter(), one_step, starts(3.0, 0.0), None)
    assert found.alive[0].T.tolist() == [[True, True, False, False], [True] * 4]
    assert found.reward[0].T.tolist() == [[3, 4, 0, 0], [0, 1, 2, 3]]
    assert (found.terminal * found.alive)[0].T.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.observation[0, 2, 0].tolist() == [5.0]
    assert found.metrics["model_length"].tolist() == [3.0]


def test_play_stops_when_every_trajectory_has_ended() -> None:
    found = player(limit=5.0, horizon=50).play(Counter(), one_step, starts(3.0, 2.0), None)
    assert found.observation.shape == (1, 4, 2, 1)
    assert found.noise.shape == (1, 3, 2, 1)
    assert found.reward.shape == found.terminal.shape == found.alive.shape == (1, 3, 2)


def test_trajectory_that_blows_up_is_cut_before_that_step() -> None:
    def leap(observation: Tensor, noise: Tensor) -> Tensor:
        del noise
        return torch.where(observation < 2.0, 1.0, math.inf)

    found = player(limit=1e9).play(Counter(), leap, starts(0.0, 1.0), None)
    assert found.alive[0].T.tolist() == [[True, True, False], [True, False, False]]
    assert not bool((found.terminal * found.alive).any())
    assert found.observation[0, -1, :, 0].tolist() == [2.0, 2.0]
    assert bool(found.observation.isfinite().all())


def test_model_that_blows_up_at_once_is_refused() -> None:
    def leap(observation: Tensor, noise: Tensor) -> Tensor:
        del noise
        return torch.full_like(observation, 500.0)

    with pytest.raises(UserError, match="Every rollout of the dynamics model blew up"):
        player().play(Counter(), leap, starts(0.0, 1.0), None)


def scaled(observation: Tensor, noise: Tensor) -> Tensor:
    del observation
    return 0.1 * noise


def test_noise_is_what_the_actions_were_sampled_with() -> None:
    found = player(limit=1e9).play(Counter(), scaled, starts(0.0, 0.0), None)
    steps = found.observation[:, 1:] - found.observation[:, :-1]
    torch.testing.assert_close(steps, 0.1 * found.noise)
    assert float(found.noise.std()) > 0.1


def test_successors_are_the_means_unless_they_are_to_be_sampled() -> None:
    mean = player(limit=1e9).play(Counter(), one_step, starts(0.0, 0.0), None)
    drawn = player(limit=1e9, sampled=True).play(Counter(), one_step, starts(0.0, 0.0), None)
    assert mean.observation[0, 1, :, 0].tolist() == [1.0, 1.0]
    assert drawn.observation[0, 1, 0] != drawn.observation[0, 1, 1]
    assert torch.equal(mean.noise, drawn.noise)


def test_seed_plays_the_same_alone_and_beside_one_whose_trajectories_end_at_once() -> None:
    both, alone = player(0, 7, limit=5.0), player(7, limit=5.0)
    start = torch.tensor([[[4.999], [4.999]], [[-50.0], [-60.0]]])
    for _ in range(2):
        found = both.play(Counter(seeds=2), one_step, start, None)
        one = alone.play(Counter(), one_step, start[1:], None)
        assert torch.equal(found.observation[1:], one.observation)
        assert torch.equal(found.noise[1:], one.noise)
    for_alone = player(0, limit=5.0)
    for _ in range(2):
        one = for_alone.play(Counter(), one_step, start[:1], None)
    length = one.noise.shape[1]
    assert length == 1
    assert torch.equal(found.noise[:1, :length], one.noise)


def test_player_goes_on_exactly_from_its_state() -> None:
    going, resumed = (player(0, 1, sampled=True) for _ in range(2))
    start = torch.zeros(2, 2, 1)
    going.play(Counter(seeds=2), scaled, start, None)
    resumed.load_state({name: t.clone() for name, t in going.state().items()})
    one, other = (found.play(Counter(seeds=2), scaled, start, None) for found in (going, resumed))
    assert torch.equal(one.observation, other.observation)


def test_starts_are_a_multiple_of_the_elites() -> None:
    config = WholeRollouts(starts=13)
    assert Player(config, sizes(), Below(5.0), 5).starts == 10
    assert Player(replace(config, starts=2), sizes(), Below(5.0), 5).starts == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "rollouts.horizon must be at least 1, not 0"),
        ({"starts": 0}, "rollouts.starts must be at least 1, not 0"),
        ({"prior_start_share": 1.5}, r"rollouts.prior_start_share must lie in 0..1, not 1.5"),
    ],
)
def test_number_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(WholeRollouts(), **changes)


# -- the detector --------------------------------------------------------------------------------


def test_disagreement_is_the_largest_distance_between_two_members_in_the_state() -> None:
    # three members at (0, 0), (3, 4) and (0, 1); the last column is the reward, which is no state
    first = torch.tensor([[0.0, 0.0, 50.0], [3.0, 4.0, 0.0], [0.0, 1.0, -50.0]])
    second = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 9.0], [1.0, 1.0, 0.0]])
    mean = torch.stack((first, second), 1)[None]
    found = disagreement((mean, torch.ones_like(mean)))
    assert found.tolist() == [[5.0, 0.0]]


# Positions -4..2 with rewards 10, 20, ...: the members disagree by half of their squares.
POSITIONS = torch.tensor([-4.0, -2.0, -1.0, 0.0, 2.0])
D1 = torch.stack(
    (POSITIONS, 0 * POSITIONS, torch.arange(10.0, 60.0, 10.0), POSITIONS, 0 * POSITIONS), 1
)


@pytest.mark.parametrize(
    ("config", "threshold"),
    [
        (Halt(), 8.0),
        (Halt(scale=0.5), 4.0),
        (Halt(quantile=0.75), 2.0),
        (Halt(quantile=0.0), 0.0),
        (Halt(sample=2), 8.0),  # every third row: -4 and 0
    ],
)
def test_threshold_follows_from_the_disagreement_on_the_data(
    config: Halt, threshold: float
) -> None:
    found = config.build(Counter(), D1, sizes(0, 1))
    assert found.threshold.tolist() == [threshold] * 2


def test_threshold_on_a_sample_leaves_the_rest_of_the_data_out() -> None:
    assert Halt(sample=2).build(Counter(), D1[1:], sizes()).threshold.tolist() == [2.0]
    # rows -2 and 0 of -2, -1, 0, 2


def test_halt_is_rewarded_with_the_data_s_smallest_reward_less_the_penalty() -> None:
    assert Halt(penalty=25.0).build(Counter(), D1, sizes()).reward == 10.0 - 25.0


def test_pair_beyond_the_threshold_is_unknown_and_so_is_one_that_is_no_number() -> None:
    found = Halt(penalty=25.0).build(Counter(), D1, sizes())
    at = starts(-4.0, 4.0, 4.1, math.nan, 0.0)
    predicted = Counter().predict(at, torch.zeros_like(at))
    paid, halted = found.charge(predicted, torch.full((1, 5), 3.0))
    assert halted.tolist() == [[False, False, True, True, False]]
    assert paid.tolist() == [[3.0, 3.0, -15.0, -15.0, 3.0]]


def test_each_seed_has_its_own_threshold() -> None:
    detector = Detector(torch.tensor([1.0, 3.0]), -1.0)
    at = torch.full((2, 1, 1), 2.0)  # a disagreement of 2
    _, halted = detector.charge(Counter().predict(at, at), torch.zeros(2, 1))
    assert halted.tolist() == [[True], [False]]


def test_deviation_penalty_halts_nothing() -> None:
    at = starts(0.0, 1.0)
    predicted = Counter(spread=0.5).predict(at, at)
    paid, halted = StdPenalty(weight=2.0).charge(predicted, torch.ones(1, 2))
    torch.testing.assert_close(paid, torch.full((1, 2), 1.0 - math.sqrt(2.0)))
    assert not bool(halted.any())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantile": 1.1}, r"uncertainty.quantile must lie in 0..1, not 1.1"),
        ({"scale": -1.0}, "uncertainty.scale must not be negative, not -1.0"),
        ({"sample": 0}, "uncertainty.sample must be at least 1, not 0"),
    ],
)
def test_halt_with_numbers_that_make_no_sense_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(Halt(), **changes)


# -- halts in rollouts ---------------------------------------------------------------------------


HALT = Detector(torch.tensor([2.0]), -7.0)  # beyond a state of 2, the pair is unknown


def test_halted_trajectory_is_punished_once_and_ends() -> None:
    found = player(limit=1e9).play(Counter(), one_step, starts(1.0, -9.0), HALT)
    assert found.alive[0].T.tolist() == [[True] * 3, [True, False, False]]
    assert found.reward[0].T.tolist() == [[1.0, 2.0, -7.0], [-7.0, 0.0, 0.0]]
    assert (found.terminal * found.alive)[0].T.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert found.metrics["halted"].tolist() == [1.0]
    assert found.metrics["model_return"].tolist() == [1.5]  # as predicted: 1 + 2, and nothing


def test_share_of_halted_trajectories_is_measured() -> None:
    found = player(limit=1e9, horizon=2).play(Counter(), one_step, starts(2.0, -2.0), HALT)
    assert found.metrics["halted"].tolist() == [0.5]


def test_unknown_pair_is_punished_even_where_its_prediction_is_no_state() -> None:
    def leap(observation: Tensor, noise: Tensor) -> Tensor:
        del noise
        return torch.where(observation < 3.0, 1.0, math.inf)

    found = player(limit=1e9).play(Counter(), leap, starts(3.0, 1.0), HALT)
    assert found.reward[0, 0].tolist() == [-7.0, 1.0]
    assert bool(found.observation.isfinite().all())


def test_halt_ends_a_short_rollout_in_the_pool_as_well() -> None:
    found = RolloutPool(Rollouts(horizon=4, starts=1, kept=1), sizes(), Below(1e9), 1)
    mean = found.fill(Counter(spread=0.0), one_step, starts(1.0), HALT)
    rows = found.rows[0, : int(found.filled[0])].tolist()
    assert rows == [[1, 1, 1, 2, 0], [2, 1, 2, 3, 0], [3, 1, -7, 3, 1]]
    assert mean.tolist() == [1.5]  # of the two steps that were predicted
