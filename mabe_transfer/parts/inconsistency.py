"""Critics that pay where a model's members disagree about the value of what comes next.

MOBILE (Sun et al., ICML 2023). The price is found at every update from the critics of that moment,
and not in the rollout as MOPO's is: it is a spread of values, and values change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mabe_transfer import losses, pessimism
from mabe_transfer.errors import UserError
from mabe_transfer.streams import Streams

if TYPE_CHECKING:
    from mabe_transfer.parts import ActorCritic, Batch, Metrics
    from mabe_transfer.streams import Sizes


class Model(Protocol):
    """A model whose best members each predict a Gaussian of the change of observation."""

    elites: Tensor  # [S, E], the members that count

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of [change, reward], both [S, M, B, O + 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inconsistency:
    """MOBILE: on the model's transitions, the target pays weight * Bellman inconsistency.

    Attributes:
        weight: Beta; published ones lie in 0.1..1.5.
        samples: Successors drawn from each elite.
        least_target: Lower bound of every target, or none. The published code has 0, which is
            right only where no reward is negative.
    """

    weight: float = 1.0
    samples: int = 10
    least_target: float | None = None

    def __post_init__(self) -> None:
        """Refuse a mean over nothing, and a reward for what is to be paid."""
        if self.samples < 1:
            raise UserError(f"critic.samples must be at least 1, not {self.samples}.")
        if self.weight < 0.0:
            raise UserError(f"critic.weight must not be negative, and is {self.weight}.")

    def build(self, sizes: Sizes, model: Model | None) -> InconsistencyLoss:
        """Make the critics' loss around a fitted model.

        Raises:
            UserError: The row has no model.
        """
        if model is None:
            raise UserError("The critic Inconsistency needs dynamics, and this row has none.")
        return InconsistencyLoss(self, model, Streams(sizes, "inconsistency/successors"))


class InconsistencyLoss:
    """The TD error to a penalised target: target - weight * inconsistency.

    As in the published code, the values are of successors as the elites predict them, neither
    clipped nor ended as the simulator would; reward and discount are not in the spread.
    """

    def __init__(self, config: Inconsistency, model: Model, streams: Streams) -> None:
        self.config, self.model, self.streams = config, model, streams

    def loss(
        self, learner: ActorCritic, batch: Batch, value: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss of each seed's critics, [S]."""
        first = batch.real
        spread = self._spread(learner, batch.observation[:, first:], batch.action[:, first:])
        penalised = target[:, first:] - self.config.weight * spread
        target = torch.cat((target[:, :first], penalised), 1)
        if self.config.least_target is not None:
            target = target.clamp_min(self.config.least_target)
        loss = losses.td_loss(value, target).sum(-1)
        return loss, {"inconsistency": spread.sum(-1) / max(1, spread.shape[1])}

    @torch.no_grad()
    def _spread(self, learner: ActorCritic, observation: Tensor, action: Tensor) -> Tensor:
        """The inconsistency at the model's transitions, [S, B]."""
        (seeds, rows, width), elites = observation.shape, self.model.elites
        samples, members = self.config.samples, elites.shape[1]
        noise = self.streams.normal(samples, members, rows, width + action.shape[-1])
        chosen = elites[:, :, None, None].expand(-1, -1, rows, width)
        mean, std = (
            torch.gather(moment[..., :width], 1, chosen)[:, None]
            for moment in self.model.predict(observation, action)
        )
        successor = observation[:, None, None] + mean + std * noise[..., :width]
        successor = successor.flatten(1, 3)  # [S, N E B, O]
        policy = learner.actor.distribution(successor)
        after = policy.sample(noise[..., width:].flatten(1, 3)).action()
        value = learner.targets.values(successor, after).amin(1)
        return pessimism.bellman_inconsistency(value.view(seeds, samples, members, rows))

    def state(self) -> dict[str, Tensor]:
        """The stream of successors."""
        return self.streams.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.streams.load_state(state)
