"""The one currency of data: its shapes, its episodes and its relabelling."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mabe_transfer.errors import UserError
from mabe_transfer.transitions import Episodes, Transitions, relabel


def example(ends: str = "..t..T.", **changes: Any) -> Transitions:
    """Transitions with one row a character: `t` a terminal, `T` a timeout, `.` neither."""
    n = len(ends)
    fields: dict[str, Any] = {
        "observations": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "actions": np.linspace(-1, 1, n, dtype=np.float32).reshape(n, 1),
        "rewards": np.arange(1, n + 1, dtype=np.float32),
        "next_observations": np.arange(2 * n, dtype=np.float32).reshape(n, 2) + 100,
        "terminals": np.array([c == "t" for c in ends], bool),
        "timeouts": np.array([c == "T" for c in ends], bool),
        "qpos": np.arange(n, dtype=np.float64).reshape(n, 1),
        "qvel": np.zeros((n, 3)),
        "reward_terms": {"forward": np.ones(n, np.float32), "control": np.zeros(n, np.float32)},
    }
    return Transitions(**fields | changes)


def assert_same(one: Transitions, other: Transitions) -> None:
    assert one.arrays().keys() == other.arrays().keys()
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name], strict=True)


def test_length_is_the_number_of_rows() -> None:
    assert len(example("..t")) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((7, 2))}, "observations must be float32, not float64"),
        ({"actions": [[0.0]] * 7}, "actions must be float32, not list"),
        ({"rewards": np.zeros((7, 1), np.float32)}, r"rewards has shape \[7, 1\], expected \[7\]"),
        ({"terminals": np.zeros(7, np.uint8)}, "terminals must be bool, not uint8"),
        ({"timeouts": np.zeros(6, bool)}, r"timeouts has shape \[6\], expected \[7\]"),
        ({"actions": np.zeros(7, np.float32)}, r"actions has shape \[7\], expected \[7, ·\]"),
        ({"qpos": np.zeros((7, 1), np.float32)}, "qpos must be float64, not float32"),
        ({"qvel": np.zeros((8, 3))}, r"qvel has shape \[8, 3\], expected \[7, ·\]"),
        ({"next_observations": np.zeros((7, 3), np.float32)}, "next_observations has shape"),
        ({"reward_terms": {"a": np.zeros(7)}}, "reward term 'a' must be float32, not float64"),
        ({"rewards": np.array([None] * 7)}, "rewards must be float32, not object"),
    ],
)
def test_field_of_another_form_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example(**changes)


def test_episode_ends_at_a_terminal_and_at_a_timeout() -> None:
    episodes = example("..t..T").episodes()
    assert episodes.start.tolist() == [0, 3]
    assert episodes.length.tolist() == [3, 3]


def test_open_last_episode_counts() -> None:
    episodes = example("..t..T.").episodes()
    assert episodes.start.tolist() == [0, 3, 6]
    assert episodes.length.tolist() == [3, 3, 1]


def test_no_rows_are_no_episodes() -> None:
    assert len(example("").episodes()) == 0
    assert example("").episode_returns().tolist() == []


def test_episode_returns_are_undiscounted_sums() -> None:
    assert example("..t..T.").episode_returns().tolist() == [6.0, 15.0, 7.0]


def test_episode_return_is_summed_in_float64() -> None:
    rewards = np.array([2.0**24, 1.0, 1.0], np.float32)  # in float32 the ones would vanish
    assert example("..t", rewards=rewards).episode_returns().tolist() == [2.0**24 + 2]


@given(st.lists(st.booleans()))
def test_episodes_tile_the_rows(ends: list[bool]) -> None:
    episodes = Episodes.between(np.array(ends, bool))
    covered = [
        row
        for start, length in zip(episodes.start.tolist(), episodes.length.tolist(), strict=True)
        for row in range(start, start + length)
    ]
    assert covered == list(range(len(ends)))
    assert (episodes.length > 0).all()


@given(st.lists(st.booleans(), min_size=1))
def test_only_the_last_row_of_an_episode_ends_it(ends: list[bool]) -> None:
    episodes = Episodes.between(np.array(ends, bool))
    last = set((episodes.start + episodes.length - 1).tolist())
    assert last == {row for row, end in enumerate(ends) if end} | {len(ends) - 1}


def test_rows_of_a_slice_are_views() -> None:
    data = example()
    part = data.rows(slice(2, 5))
    assert part.rewards.tolist() == [3.0, 4.0, 5.0]
    assert np.shares_memory(part.observations, data.observations)


def test_rows_of_an_index_come_in_its_order() -> None:
    part = example().rows(np.array([4, 0]))
    assert part.rewards.tolist() == [5.0, 1.0]
    assert part.qpos is not None
    assert part.qpos[:, 0].tolist() == [4.0, 0.0]
    assert part.reward_terms["forward"].tolist() == [1.0, 1.0]


@given(st.lists(st.integers(0, 7), max_size=4))
def test_concatenated_pieces_are_the_whole(cuts: list[int]) -> None:
    data = example()
    edges = [0, *sorted(cuts), 7]
    pieces = [data.rows(slice(a, b)) for a, b in pairwise(edges)]
    assert_same(Transitions.concatenate(pieces), data)


def test_concatenation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Transitions.concatenate([])


def test_concatenation_with_and_without_states_is_refused() -> None:
    with pytest.raises(ValueError, match="Only some of the parts have qpos"):
        Transitions.concatenate([example(), example(qpos=None)])


def test_new_rewards_leave_the_rest_as_it_was() -> None:
    data = example()
    other = data.with_rewards(np.zeros(7, np.float32))
    assert_same(other.with_rewards(data.rewards), data)
    assert other.rewards.sum() == 0


def test_packed_rows_hold_observation_action_reward_next_observation_terminal() -> None:
    packed = example(".t").packed()
    assert packed.dtype == np.float32
    assert packed.tolist() == [
        [0, 1, -1, 1, 100, 101, 0],
        [2, 3, 1, 2, 102, 103, 1],
    ]


def test_timeout_is_not_packed_as_a_terminal() -> None:
    assert example("T").packed()[0, -1] == 0


def test_relabelled_reward_is_the_weighted_sum_of_the_terms() -> None:
    terms = {
        "forward": np.array([2.0, -1.0], np.float32),
        "healthy": np.array([1.0, 0.0], np.float32),
        "control": np.array([0.5, 0.25], np.float32),
    }
    data = example("..", reward_terms=terms)
    backward = relabel(data, {"forward": -1.0, "healthy": 1.0, "control": -1.0})
    assert backward.rewards.tolist() == [-1.5, 0.75]
    assert backward.rewards.dtype == np.float32


def test_relabelling_sums_in_float64() -> None:
    terms = {
        "a": np.array([2.0**24], np.float32),
        "b": np.array([1.0], np.float32),
        "c": np.array([1.0], np.float32),
    }
    data = example(".", reward_terms=terms)
    assert relabel(data, {"a": 1.0, "b": 1.0, "c": 1.0}).rewards.tolist() == [2.0**24 + 2]


@given(st.permutations(["a", "b", "c"]), st.integers(0, 2**32 - 1))
def test_relabelling_does_not_depend_on_the_order_of_the_weights(
    order: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scales = {"a": 1e-4, "b": 1.0, "c": 1e8}
    terms = {k: (rng.standard_normal(3) * s).astype(np.float32) for k, s in scales.items()}
    weights = {"a": 0.1, "b": -1.0, "c": 0.3}
    data = example("...", reward_terms=terms)
    one = relabel(data, weights).rewards
    np.testing.assert_array_equal(one, relabel(data, {k: weights[k] for k in order}).rewards)


def test_term_without_a_weight_counts_nothing() -> None:
    assert relabel(example(), {"control": 5.0}).rewards.tolist() == [0.0] * 7


def test_relabelling_by_an_unknown_term_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no reward term 'forwards'.*Did you mean 'forward'"):
        relabel(example(), {"forwards": 1.0})


def test_relabelling_without_terms_is_refused() -> None:
    with pytest.raises(UserError, match="carry no reward terms"):
        relabel(example(reward_terms={}), {"forward": 1.0})
