"""Updates on batches that come from outside, put where a replay finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mabe_transfer.graphs import Stepper, Stretch, recorder_for
from mabe_transfer.parts import unpack

if TYPE_CHECKING:
    from torch import Tensor

    from mabe_transfer.parts.sac import SacLearner
    from mabe_transfer.streams import Sizes


class Fed:
    """Takes updates of a learner on one batch after the other, by replays where it can.

    Args:
        learner: Whose updates; its state is loaded before the first.
        sizes: Of its seeds, observations and actions.
        batch: Transitions of a batch.
    """

    def __init__(self, learner: SacLearner, sizes: Sizes, batch: int) -> None:
        self._learner, self._sizes = learner, sizes
        width = 2 * sizes.observation + sizes.action + 2
        self._rows = torch.zeros(sizes.stack, batch, width, device=sizes.device)
        self._stepper = Stepper(self, recorder_for(sizes.device))

    def update(self, rows: Tensor) -> None:
        """Take an update on packed transitions, [S, B, O + A + 1 + O + 1]."""
        self._rows.copy_(rows)
        self._stepper.advance(1)

    def prepare(self) -> None:
        """Nothing: the batch is there."""

    def step(self) -> None:
        """Take an update on the batch that is there."""
        self._learner.update(unpack(self._rows, self._sizes.observation, self._sizes.action))

    def stretch(self) -> Stretch:
        """How far the updates ahead are the same."""
        return self._learner.stretch()

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""
        self._learner.skip(count)
