"""Two datasets as one, and DARA's correction: closed forms, numbers by hand, what is written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mabe_transfer import collect as collecting
from mabe_transfer import domains
from mabe_transfer.algorithms import MOPO
from mabe_transfer.behaviour import RandomPolicy
from mabe_transfer.errors import UserError
from mabe_transfer.library import location, open_dataset
from mabe_transfer.parts.correction import Correction, classification, log_ratio
from mabe_transfer.pooling import Pool, corrected, pool
from mabe_transfer.store import StoreWriter
from mabe_transfer.store.format import GIVEN
from mabe_transfer.store.whole import write_whole
from mabe_transfer.streams import Sizes
from mabe_transfer.transfer import sources
from mabe_transfer.transitions import Transitions
from mabe_transfer.verify import verify

LINE = Sizes(seeds=(0,), observation=1, action=1)
TINY = Correction(updates=3, batch=8, hidden=(8,))


# -- the correction ------------------------------------------------------------------------------


def test_log_ratio_is_the_difference_of_the_log_odds_within_its_bound() -> None:
    """Bayes by hand: p(target | s, a, s') = 0.9 and p(target | s, a) = 0.6 give 9 / 1.5 = 6."""
    whole, pair = torch.tensor([[9.0, 9.0, 1e-9]]).log(), torch.tensor([[1.5, 9.0, 1.0]]).log()
    found = log_ratio(whole, pair, limit=10.0)
    assert found[0].tolist() == pytest.approx([math.log(6.0), 0.0, -10.0])


def test_classification_is_the_mean_surprise_at_what_is_so() -> None:
    """Odds of 3 : 1 for the target: log(4 / 3) where it is the target, log 4 where it is not."""
    logit = torch.full((1, 2), math.log(3.0))
    found = classification(logit, torch.tensor([[1.0, 0.0]]))
    assert found.tolist() == pytest.approx([0.5 * (math.log(4.0 / 3.0) + math.log(4.0))])


def shifted(seed: int, count: int, drift: float, bias: float) -> Tensor:
    """Transitions of s' = s + a + drift + 0.5 noise, whose behaviour prefers actions about bias."""
    noise = torch.randn(3, count, generator=torch.Generator().manual_seed(seed))
    state, action = noise[0], noise[1] * 0.7 + bias
    after = state + action + drift + 0.5 * noise[2]
    flat = torch.zeros(count)
    return torch.stack((state, action, flat, after, flat), dim=1)


def test_log_ratio_is_the_closed_form_of_two_gaussian_worlds_whatever_they_do() -> None:
    """Mean changes of a + 0.25 and a - 0.25, deviation 0.5: the ratio is 2 (s' - s - a).

    The two behaviours differ by more than a standard deviation, which the ratio must not see.
    """
    config = Correction(updates=250, batch=256, hidden=(16, 16), rate=1e-2, noise=0.0)
    target, source = shifted(0, 10_000, 0.25, 0.4), shifted(1, 10_000, -0.25, -0.4)
    fit = config.build(LINE).fitting(target, source)
    while not fit.finished:
        fit.step()
    shown = shifted(2, 2_000, 0.0, 0.0)
    exact = 2.0 * (shown[:, 3] - shown[:, 0] - shown[:, 1])
    found = fit.part.log_ratio(shown)[0]
    assert float((found - exact).abs().mean()) < 0.2
    assert float(exact.abs().mean()) > 0.7


def test_fit_of_classifiers_goes_on_as_if_it_had_not_stopped() -> None:
    rows = shifted(0, 50, 0.2, 0.1), shifted(1, 50, -0.2, 0.1)
    whole, first, second = (TINY.build(LINE).fitting(*rows) for _ in range(3))
    for _ in range(3):
        whole.step()
    first.step()
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    while not second.finished:
        second.step()
    assert torch.equal(whole.part.log_ratio(rows[0]), second.part.log_ratio(rows[0]))


def test_corrected_reward_adds_the_weighted_ratio_and_keeps_it() -> None:
    rows = Transitions(
        observations=np.zeros((2, 1), np.float32),
        actions=np.zeros((2, 1), np.float32),
        rewards=np.array([1.0, 2.0], np.float32),
        next_observations=np.zeros((2, 1), np.float32),
        terminals=np.zeros(2, np.bool_),
        timeouts=np.array([False, True]),
    )
    found = corrected(rows, np.array([-10.0, 4.0], np.float32), 0.1)
    assert found.rewards.tolist() == pytest.approx([0.0, 2.4])
    assert found.reward_terms["correction"].tolist() == [-10.0, 4.0]


# -- pools ---------------------------------------------------------------------------------------


@pytest.fixture
def stores(data_root: object, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Forward data of normal ground and backward data of ice, in episodes of five steps."""
    del data_root
    monkeypatch.setattr(collecting, "BLOCK", 4)
    for name, count in (("hopper", 12), ("hopper-ice-backward", 7)):
        domain = domains.domain(name)
        collecting.collect(
            replace(domain, robot=replace(domain.robot, max_episode_steps=5)),
            [collecting.Share(RandomPolicy(), count, "random")],
            seed=3,
            location=location(name),
            facts={"quality": "random", "behaviour": {}, "recipe": {}},
            title=name,
        )
    return "hopper", "hopper-ice-backward"


def request(stores: tuple[str, str], correction: Correction | None = None) -> Pool:
    target = domains.domain("hopper-backward")
    out = "pool" if correction is None else "corrected"
    return Pool(dynamics=stores[0], prior=stores[1], target=target, out=out, correction=correction)


def test_pool_is_both_data_relabelled_for_the_target(stores: tuple[str, str]) -> None:
    pool(request(stores))
    found = open_dataset("pool")
    assert found.domain == domains.domain("hopper-backward")
    rows = found.store.load()
    one, other = (open_dataset(name).store.load() for name in stores)
    assert len(rows) == 12 + 7
    assert np.array_equal(rows.observations, np.concatenate((one.observations, other.observations)))
    weights = found.domain.weights
    terms = one.reward_terms
    backward = sum(weights[name] * terms[name].astype(np.float64) for name in sorted(weights))
    assert rows.rewards[:12] == pytest.approx(backward, abs=1e-5)
    assert np.array_equal(rows.rewards[12:], other.rewards)


def test_episode_that_the_first_data_leave_open_ends_where_the_others_begin(
    stores: tuple[str, str],
) -> None:
    one = open_dataset(stores[0]).store
    rows = one.load()
    rows.timeouts[-1] = rows.terminals[-1] = False
    write_whole(location("open"), rows, {name: one.attributes[name] for name in GIVEN})
    pool(request(("open", stores[1])))
    found = open_dataset("pool").store.load()
    assert found.timeouts[11]
    assert not found.terminals[11]


@pytest.mark.parametrize("correction", [None, TINY])
def test_pool_passes_every_check(stores: tuple[str, str], correction: Correction | None) -> None:
    found = verify(open_dataset(pool(request(stores, correction))).store)
    assert [finding.detail for finding in found if not finding.passed] == []


def test_correction_touches_the_other_world_s_rewards_alone_and_reaches_the_row(
    stores: tuple[str, str],
) -> None:
    plain, made = pool(request(stores)), pool(request(stores, TINY))
    rows, before = (open_dataset(name).store.load() for name in (made, plain))
    assert np.array_equal(rows.rewards[:12], before.rewards[:12])
    paid = rows.rewards[12:] - before.rewards[12:]
    assert paid == pytest.approx(0.1 * rows.reward_terms["correction"][12:], abs=1e-5)
    assert np.abs(paid).max() > 0.0
    found = sources(MOPO, made, None, None)
    assert found.target.name == "hopper-backward"
    packed = found.data(found.real, torch.device("cpu")).rows
    assert np.array_equal(packed[:, 11 + 3].numpy(), rows.rewards)


def test_pool_is_found_again_and_never_taken_for_another(stores: tuple[str, str]) -> None:
    pool(request(stores))
    made = open_dataset("pool").store.attributes["created"]
    pool(request(stores))
    assert open_dataset("pool").store.attributes["created"] == made
    with pytest.raises(UserError, match=r"is a pool with another "):
        pool(replace(request(stores, TINY), out="pool"))


def test_pool_of_two_robots_is_refused(stores: tuple[str, str]) -> None:
    wrong = replace(request(stores), target=domains.domain("walker2d-backward"))
    with pytest.raises(UserError, match="hopper is of hopper; it cannot be pooled"):
        pool(wrong)


def test_pool_whose_writing_was_cut_is_finished(
    stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shards(StoreWriter):
        """A writer of four rows at a time, which is killed at its end."""

        @classmethod
        def open(cls, *given: Any, **named: Any) -> Any:
            return super().open(*given, **named, shard_rows=4)

        def finish(self) -> Any:
            if killed.pop():
                raise KeyboardInterrupt
            return super().finish()

    whole = pool(replace(request(stores), out="whole"))
    killed = [False, True]
    monkeypatch.setattr("mabe_transfer.store.whole.StoreWriter", Shards)
    with pytest.raises(KeyboardInterrupt):
        pool(request(stores))
    pool(request(stores))
    assert killed == []
    one, other = (open_dataset(name).store for name in (whole, "pool"))
    assert np.array_equal(one.load().rewards, other.load().rewards)
    assert np.array_equal(one.episodes().length, other.episodes().length)
