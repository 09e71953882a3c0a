"""Coverage, forecast and verdict: numbers worked by hand, thresholds, and worlds that are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor

from mabe_transfer import collect as collecting
from mabe_transfer import domains
from mabe_transfer.batches import unpack
from mabe_transfer.behaviour import RandomPolicy
from mabe_transfer.config import from_json, to_json
from mabe_transfer.coverage import Support, apart, spaced
from mabe_transfer.errors import UserError
from mabe_transfer.forecast import Effort, Forecast, forecast, one_step, roll_out, spread
from mabe_transfer.library import location
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.prior import Fit
from mabe_transfer.streams import Sizes
from mabe_transfer.verdict import KNOWN, LEARNED, PARTLY, Coverage, Drift, Pair, judge

if TYPE_CHECKING:
    from mabe_transfer.parts.dynamics import EnsembleModel

SIZES = Sizes(seeds=(0,), observation=1, action=1)


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- coverage ------------------------------------------------------------------------------------


def test_radius_is_the_quantile_of_held_out_distances_in_the_data_s_deviations() -> None:
    """Data at -2 and 2: mean 0, deviation 2. Held out at -1, 2 and 5: 0.5, 0 and 1.5 away."""
    known, held = column(-2.0, 2.0), column(-1.0, 2.0, 5.0)
    support = Support(known, held, quantile=0.5)
    assert support.distance(held).tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert support.radius == pytest.approx(0.5)
    assert support.covers(column(2.9, 3.1, -2.9, 0.9, 1.1)).tolist() == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert support.share(column(2.9, 3.1, 0.0, 0.1)) == 0.25


def test_coverage_does_not_depend_on_units() -> None:
    rows = torch.randn(300, 3, generator=generator())
    scale = torch.tensor([1.0, 100.0, 0.01])
    one = Support(rows[:100], rows[100:200])
    other = Support(rows[:100] * scale, rows[100:200] * scale)
    shown = 1.5 * rows[200:]
    assert torch.equal(one.covers(shown), other.covers(shown * scale))


def test_data_cover_what_they_say_of_themselves_and_nothing_far_away() -> None:
    rows = torch.randn(3_000, 2, generator=generator())
    support = Support(rows[:1_000], rows[1_000:2_000])
    assert support.share(rows[2_000:]) == pytest.approx(0.95, abs=0.02)
    assert support.share(rows[2_000:] + 10.0) == 0.0


def test_hole_in_the_middle_is_not_covered() -> None:
    """A ring: its centre is the mean of the data, where a Gaussian would see most of them."""
    angle = torch.rand(400, generator=generator()) * 2.0 * math.pi
    ring = torch.stack((angle.cos(), angle.sin()), 1)
    assert Support(ring[:200], ring[200:]).share(torch.zeros(1, 2)) == 0.0


def test_whole_episodes_are_held_out() -> None:
    ends = torch.tensor([False, True, False, False, True, True, False])
    held = apart(ends, 0.25, generator())
    episodes = [held[:2], held[2:5], held[5:6], held[6:]]
    assert sorted(float(rows.double().mean()) for rows in episodes) == [0.0, 0.0, 0.0, 1.0]


def test_of_a_single_episode_the_last_part_is_held_out() -> None:
    ends = torch.tensor([False] * 9 + [True])
    assert apart(ends, 0.2, generator()).tolist() == [False] * 8 + [True] * 2


def test_rows_are_taken_evenly() -> None:
    assert spaced(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert spaced(torch.arange(3), 4).tolist() == [0, 1, 2]


def test_empty_data_cover_nothing_and_are_refused() -> None:
    with pytest.raises(UserError, match="two episodes"):
        Support(column(1.0), torch.empty(0, 1))


# -- the model's side ----------------------------------------------------------------------------


class TwoMembers:
    """Members that say s' = s + 1 and s' = s + 3, rewards 1 and 1; deviation of the targets 2."""

    elites = torch.tensor([[0, 1]])
    target_std = torch.tensor([2.0, 2.0])
    sizes = SIZES

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        del action
        means = torch.tensor([[1.0, 1.0], [3.0, 1.0]])[None, :, None]
        mean = means.expand(1, 2, observation.shape[1], 2)
        return mean, torch.ones_like(mean)

    def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        del action, members
        mean = torch.tensor([1.0, 0.5]).expand(*observation.shape[:2], 2)
        return mean, torch.zeros_like(mean)


def two_members() -> EnsembleModel:
    return cast("EnsembleModel", TwoMembers())


def test_spread_and_error_by_hand() -> None:
    """Changes 1 and 3 are 0.5 and 1.5 deviations: 0.5 about their mean, and rewards agree.

    Their mean, 2, misses changes of 2 and 6 by 0 and 4, which are 0 and 2 deviations.
    """
    rows = torch.tensor([[0.0, 0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 6.0, 0.0]])
    batch = unpack(rows, 1, 1)
    assert spread(two_members(), batch) == pytest.approx(math.sqrt(0.125))
    assert one_step(two_members(), batch, [0]) == pytest.approx(math.sqrt(2.0))


class Walls:
    """A task that ends at 4, of a robot without a table of observations."""

    robot = type("Robot", (), {"observation": ()})

    def terminated(self, state: Tensor) -> Tensor:
        return state[..., 0] >= 4.0

    def clip(self, observation: Tensor) -> Tensor:
        return observation


def test_free_rollouts_are_counted_until_the_task_ends_them() -> None:
    """From 0 and 2 by 1 a step, the end at 4: 4 and 2 steps of 0.5; D1 lies in 0 +- 1.9."""
    support = Support(column(-1.0, 1.0), column(-1.9, 0.0, 1.9), quantile=1.0)
    batch = unpack(torch.tensor([[0.0, 0.0, 7.0, 0.0, 0.0], [2.0, 0.0, 9.0, 0.0, 0.0]]), 1, 1)
    clone = type("Still", (), {"act": lambda _, observation: torch.zeros_like(observation)})()
    found = roll_out(
        two_members(),
        cast("Any", clone),
        cast("Any", Walls()),
        batch,
        support,
        Effort(horizon=6, rollouts=2),
    )
    assert found.reward == pytest.approx(0.5)
    assert found.recorded == 8.0
    assert found.ended == 1.0
    assert found.left_after == 3  # (0, 2), then one of two inside at (1, 3) and (2, 4), then none
    assert found.farthest == "observation 0"
    assert found.distance == pytest.approx(3.0)


# -- the verdict ---------------------------------------------------------------------------------

DRIFT = Drift(
    horizon=50, reward=0.5, recorded=1.5, left_after=7, ended=0.1, farthest="hip", distance=2.5
)
EVEN = Pair(there=0.4, home=0.2)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        (0.5, "known"),
        (KNOWN, "known"),
        (KNOWN + 0.01, "partly known"),
        (PARTLY, "partly known"),
        (PARTLY + 0.01, "not known"),
        (9.0, "not known"),
    ],
)
def test_verdict_follows_the_error_of_a_step_whatever_else_is_said(ratio: float, word: str) -> None:
    error = Pair(there=ratio * LEARNED, home=LEARNED)
    calm, wild = Pair(there=0.1, home=0.1), Pair(there=9.0, home=0.1)
    for both, other in ((0.0, wild), (1.0, calm)):
        coverage = Coverage(states=1.0, both=both, distance=1.0)
        for shared in (None, other):
            assert judge(coverage, other, shared, error, DRIFT).word == word


def test_nothing_is_foretold_by_a_model_that_does_not_know_its_own_world() -> None:
    coverage = Coverage(states=1.0, both=1.0, distance=0.5)
    found = judge(coverage, EVEN, EVEN, Pair(there=0.6, home=LEARNED + 0.01), DRIFT)
    assert found.word == "no forecast"
    assert "collect more of D1" in found.sentences[1]


def test_verdict_says_its_numbers() -> None:
    found = judge(
        Coverage(states=0.5, both=0.2, distance=3.0), Pair(there=0.3, home=0.2), EVEN, EVEN, DRIFT
    )
    text = " ".join(found.sentences)
    for number in (
        "D1 covers 50 % of D2's states, and 20 %",
        "farther than 3.0 times D1's own reach",
        "partly known",
        "which stays near",
        "2.0 times the error",
        "1.5 times as much",
        "that they agree proves nothing",
        "leaves D1's states after 7 of 50 steps",
        "earns 0.50 a step (in D2 1.50)",
    ):
        assert number in text
    unknown = judge(Coverage(states=0.5, both=0.2, distance=3.0), EVEN, None, EVEN, DRIFT)
    assert "is not known" in " ".join(unknown.sentences)


# -- the whole -----------------------------------------------------------------------------------

SMALL = Effort(
    rows=300,
    asked=100,
    model=Ensemble(members=2, elites=2, hidden=(16,), max_epochs=3, batch=64),
    clone=Fit(updates=20, batch=32, hidden=(16,)),
    horizon=5,
    rollouts=20,
)


@pytest.fixture
def stores(data_root: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random behaviour forward on normal ground and backward on ice."""
    del data_root
    monkeypatch.setattr(collecting, "BLOCK", 16)
    counts = {"hopper": 200, "hopper-ice-backward": 200, "walker2d": 20, "hopper-gravity=2": 3}
    for seed, (name, count) in enumerate(counts.items()):
        collecting.collect(
            domains.domain(name),
            [collecting.Share(RandomPolicy(), count, "random")],
            seed=seed,
            location=location(f"{name}-random"),
            facts={"quality": "random", "behaviour": {}, "recipe": {}},
            title=name,
        )


@pytest.mark.usefixtures("stores")
def test_forecast_of_one_behaviour_in_two_worlds_is_covered_and_comes_back_from_json() -> None:
    found = forecast("hopper-random", "hopper-ice-backward-random", effort=SMALL)
    assert found.target == "hopper-backward"
    assert found.coverage.states > 0.6
    assert found.shared is not None
    assert found.shared.ratio < 2.0
    assert found.drift.farthest in {q.name for q in domains.domain("hopper").robot.observation}
    assert forecast("hopper-random", "hopper-ice-backward-random", effort=SMALL) == found
    assert from_json(Forecast, to_json(found), "here") == found


@pytest.mark.usefixtures("stores")
def test_data_that_a_forecast_cannot_use_are_refused() -> None:
    with pytest.raises(UserError, match="not between robots"):
        forecast("hopper-random", "walker2d-random", effort=SMALL)
    few = replace(SMALL, rows=10)
    with pytest.raises(UserError, match="a forecast needs more"):
        forecast("hopper-random", "hopper-ice-backward-random", effort=few)
    with pytest.raises(
        UserError, match="hopper-gravity=2-random has 3 transitions; a forecast needs 20"
    ):
        forecast("hopper-random", "hopper-gravity=2-random", effort=SMALL)
