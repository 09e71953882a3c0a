"""Diverse critics: an ensemble whose members must not rise alike around the logged actions.

EDAC (arXiv 2110.01548). The smallest of many critics is pessimistic where they disagree, and they
disagree beyond the data only as far as their slopes differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mabe_transfer import losses, pessimism
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mabe_transfer.parts import ActorCritic, Batch, Metrics
    from mabe_transfer.streams import Sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """EDAC: weight * similarity of the critics' slopes.

    Attributes:
        weight: Eta; 1 for most of D4RL's locomotion, 5 for its medium-expert cheetah and walker.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a reward for what is to be paid."""
        if self.weight < 0.0:
            raise UserError(f"critic.weight must not be negative, and is {self.weight}.")

    def build(self, sizes: Sizes, model: object) -> DiverseLoss:
        """Make the critics' loss; a model is not used."""
        del sizes, model
        return DiverseLoss(self)


class DiverseLoss:
    """The TD error plus the similarity of slopes (EDAC Algorithm 1).

    Differs from print: the equation's squared error and similarity are both halved, so that a
    published weight means the same beside our halved TD error.
    """

    def __init__(self, config: Diversity) -> None:
        self.config = config

    def loss(
        self, learner: ActorCritic, batch: Batch, value: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss of each seed's critics, [S]."""
        slope = learner.critics.slopes(batch.observation, batch.action)
        similarity = pessimism.slope_similarity(slope)
        loss = losses.td_loss(value, target).sum(-1) + 0.5 * self.config.weight * similarity
        return loss, {"slope_similarity": similarity.detach()}

    def state(self) -> dict[str, Tensor]:
        """Nothing: it draws no numbers and keeps none."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to go on from."""
        assert not state
