"""Transitions as tensors: the whole data that a part learns from, and the batch of an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from mabe_transfer.streams import Sizes, Streams

Metrics = dict[str, Tensor]
"""Named measurements of a step, each [S] and without gradient."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions of S seeds: what every update takes."""

    observation: Tensor  # [S, B, O]
    action: Tensor  # [S, B, A]
    reward: Tensor  # [S, B]
    next_observation: Tensor  # [S, B, O]
    terminal: Tensor  # [S, B], 1.0 where the task ended; the clock never sets it
    real: int  # how many of the B come from the data, the first ones; the others from the model
    index: Tensor | None = None  # [S, real], which rows of the data those are, where it is known


def unpack(
    rows: Tensor,
    observation: int,
    action: int,
    real: int | None = None,
    index: Tensor | None = None,
) -> Batch:
    """Split packed transitions [..., B, O + A + 1 + O + 1] into their columns, as views.

    The first `real` of them come from the data; all, unless said otherwise. `index` says which
    rows of the data they are.
    """
    first, second = observation, observation + action
    return Batch(
        rows[..., :first],
        rows[..., first:second],
        rows[..., second],
        rows[..., second + 1 : second + 1 + observation],
        rows[..., second + 1 + observation],
        rows.shape[-2] if real is None else real,
        index,
    )


def at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows of [N, W] at indices [S, B], as [S, B, W]."""
    return rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[-1])


class Data:
    """All transitions that a part learns from, in the order of their recording.

    Args:
        rows: Packed transitions, [N, O + A + 1 + O + 1].
        ends: True on the last row of each episode, booleans [N]. Where nothing is known of the
            episodes, every row is one of its own.
    """

    def __init__(self, rows: Tensor, ends: Tensor | None = None) -> None:
        self.rows = rows
        self.ends = torch.ones_like(rows[:, 0], dtype=torch.bool) if ends is None else ends
        assert self.ends.shape == rows.shape[:1]

    def columns(self, sizes: Sizes) -> Batch:
        """The whole data without the axis of seeds: observations [N, O], rewards [N], ..."""
        return unpack(self.rows, sizes.observation, sizes.action)

    def next_action(self, sizes: Sizes, index: Tensor) -> tuple[Tensor, Tensor]:
        """What the behaviour did next after some rows, and whether that is known.

        Args:
            sizes: Widths.
            index: Rows, [S, B].

        Returns:
            Actions [S, B, A], and booleans [S, B] that are False on the last rows of episodes.
        """
        after = (index + 1).clamp_max(len(self.rows) - 1)
        first = sizes.observation
        return self.rows[:, first : first + sizes.action][after], ~self.ends[index]

    def return_span(self, sizes: Sizes) -> float:
        """The largest return of an episode less the smallest, undiscounted.

        Raises:
            UserError: All are the same, so that nothing can be scaled by their range.
        """
        reward = self.columns(sizes).reward.double()
        after = torch.cat((self.ends.new_zeros(1), self.ends[:-1])).cumsum(0)
        returns = reward.new_zeros(int(after[-1]) + 1).index_add_(0, after, reward)
        span = float(returns.max() - returns.min())
        if span <= 0.0:
            raise UserError(
                "Every episode of the prior's data has the same return, so rewards cannot be "
                "scaled by their range; use --set prior.return_range=none."
            )
        return span


def bootstraps(
    count: int, streams: Streams, *, members: int, holdout: float
) -> tuple[Tensor, Tensor]:
    """Which of `count` rows each of M members learns from, and which are held out.

    A share of the rows is held out for each seed, 1,000 at the most; every member draws as many as
    are left, with replacement.

    Returns:
        Indices [S M, n] and [S, m].
    """
    held = min(max(1, int(count * holdout)), 1000)
    order = streams.permutation(count)
    train = order[:, held:]
    picked = streams.integers(train.shape[1], members, train.shape[1])
    drawn = torch.gather(train[:, None].expand_as(picked), 2, picked)
    return drawn.flatten(0, 1), order[:, :held]
