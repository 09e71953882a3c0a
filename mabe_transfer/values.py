"""What the data's own actions are worth: Q(s, a) and V(s), learned without any other action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer import losses, weights
from mabe_transfer.networks import Critics, Sizes, StackedMlp, generator, track

if TYPE_CHECKING:
    from mabe_transfer.batches import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class InSample:
    """V(s) regresses on Q(s, a) of the data's own actions, Q on r + gamma V(s').

    No action outside the data is ever evaluated (IQL, arXiv 2110.06169 Eq. 5 and 6).

    Attributes:
        expectile: Of the regression of V: 0.5 gives the behaviour's value, more a better policy's.
        polyak: Rate at which the target critics follow.
        rate: Adam's learning rate.
    """

    expectile: float = 0.5
    polyak: float = 0.005
    rate: float = 3e-4

    def build(self, sizes: Sizes, hidden: tuple[int, ...], discount: float) -> InSampleEvaluator:
        """Make untrained critics."""
        return InSampleEvaluator(self, sizes, hidden, discount)


class InSampleEvaluator(nn.Module):
    """Q-hat and V of the data's behaviour."""

    def __init__(
        self, config: InSample, sizes: Sizes, hidden: tuple[int, ...], discount: float
    ) -> None:
        super().__init__()
        self.config, self.discount = config, discount
        self.critics = Critics(sizes, hidden, 2, "prior/critics")
        self.targets = Critics(sizes, hidden, 2, "prior/critics").requires_grad_(False)
        self.value = StackedMlp(
            (sizes.observation, *hidden, 1),
            [generator(seed, "prior/value", sizes.device) for seed in sizes.seeds],
        )
        learned = [*self.critics.parameters(), *self.value.parameters()]
        self.adam = torch.optim.Adam(learned, lr=config.rate, fused=True)

    def update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step of policy evaluation; gives Q(s, a) and V(s) from before it, [S, B]."""
        with torch.no_grad():
            ahead = self.value.evaluate(batch.next_observation)[..., 0]
            discount = self.discount * (1.0 - batch.terminal)
            target = losses.soft_target(batch.reward, discount, ahead, torch.zeros_like(ahead))
            q = self.targets.values(batch.observation, batch.action).amin(1)
        value = self.value.evaluate(batch.observation)[..., 0]
        loss = losses.expectile_loss(q - value, self.config.expectile).sum()
        values = self.critics.values(batch.observation, batch.action)
        loss = loss + losses.td_loss(values, target).sum()
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()
        track(self.targets, self.critics, self.config.polyak)
        return q, value.detach()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        adam = weights.optimiser_state(self.adam)
        return {
            **weights.nested("networks", self.state_dict()),
            **weights.nested("adam", adam),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.load_state_dict(weights.under("networks", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
