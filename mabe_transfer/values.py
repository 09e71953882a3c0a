"""What the data's own actions are worth: Q(s, a) and V(s), learned without any other action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer import losses, weights
from mabe_transfer.descent import adam, descend, fused
from mabe_transfer.errors import UserError
from mabe_transfer.graphs import FOREVER, NEVER, Stretch
from mabe_transfer.networks import Critics, StackedMlp, track
from mabe_transfer.streams import Sizes, generator

if TYPE_CHECKING:
    from mabe_transfer.batches import Batch, Data

CHUNK = 65_536  # rows whose value is computed at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class InSample:
    """V(s) regresses on Q(s, a) of the data's own actions, Q on r + gamma V(s').

    No action outside the data is ever evaluated (IQL, arXiv 2110.06169 Eq. 5 and 6).

    Attributes:
        expectile: Of the regression of V: 0.5 gives the behaviour's value, more a better policy's.
        polyak: Rate at which the target critics follow.
        rate: Adam's learning rate.
        hidden: Widths of the hidden layers; none takes the prior's.
    """

    expectile: float = 0.5
    polyak: float = 0.005
    rate: float = 3e-4
    hidden: tuple[int, ...] | None = None

    def build(self, sizes: Sizes, hidden: tuple[int, ...], discount: float) -> InSampleEvaluator:
        """Make untrained critics."""
        return InSampleEvaluator(self, sizes, self.hidden or hidden, discount)


@dataclass(frozen=True, kw_only=True, slots=True)
class LambdaReturns:
    """V regresses on TD(lambda) returns of the recorded episodes, which stand for Q (AWR).

    Peng et al. 2019 (arXiv 1910.00177). Whole episodes are needed, and actions of one policy: over
    a mixture, what followed an action also tells who took it.

    Attributes:
        mix: Lambda.
        refresh: Updates between two computations of all returns from the V of then.
        rate: Adam's learning rate.
        hidden: Widths of the hidden layers; none takes the prior's.
    """

    mix: float = 0.95
    refresh: int = 500
    rate: float = 1e-3
    hidden: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a mix that is no share, and a refresh that never comes."""
        if not 0.0 <= self.mix <= 1.0:
            raise UserError(f"evaluation.mix must lie in 0..1, not {self.mix}.")
        if self.refresh < 1:
            raise UserError(f"evaluation.refresh must be at least 1, not {self.refresh}.")

    def build(self, sizes: Sizes, hidden: tuple[int, ...], discount: float) -> ReturnEvaluator:
        """Make an untrained value function."""
        return ReturnEvaluator(self, sizes, self.hidden or hidden, discount)


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
        self.adam = fused(self._learned(), config.rate)
        self.factor = 1.0  # of the rewards

    def _learned(self) -> list[nn.Parameter]:
        return [*self.critics.parameters(), *self.value.parameters()]

    def look_at(self, data: Data, factor: float) -> None:
        """Take the factor by which rewards are multiplied."""
        del data
        self.factor = factor

    def stretch(self) -> Stretch:
        """All updates are the same."""
        return Stretch(FOREVER)

    def update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step of policy evaluation; gives Q(s, a) and V(s) from before it, [S, B]."""
        with torch.no_grad():
            reward = self.factor * batch.reward
            ahead = self.value.evaluate(batch.next_observation)[..., 0]
            discount = self.discount * (1.0 - batch.terminal)
            target = losses.soft_target(reward, discount, ahead, torch.zeros_like(ahead))
            q = self.targets.values(batch.observation, batch.action).amin(1)
        value = self.value.evaluate(batch.observation)[..., 0]
        loss = losses.expectile_loss(q - value, self.config.expectile)
        values = self.critics.values(batch.observation, batch.action)
        loss = loss + losses.td_loss(values, target).sum(-1)
        descend(loss, self._learned(), self.adam)
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


class ReturnEvaluator(nn.Module):
    """V of the data's behaviour, and the returns that followed each of the data's actions."""

    def __init__(
        self, config: LambdaReturns, sizes: Sizes, hidden: tuple[int, ...], discount: float
    ) -> None:
        super().__init__()
        self.config, self.sizes, self.discount = config, sizes, discount
        self.value = StackedMlp(
            (sizes.observation, *hidden, 1),
            [generator(seed, "prior/value", sizes.device) for seed in sizes.seeds],
        )
        self.adam = adam(self.value, config.rate)
        self.returns = torch.zeros(sizes.stack, 0, device=sizes.device)
        self.updates, self.factor = 0, 1.0
        self.data: Data | None = None

    def look_at(self, data: Data, factor: float) -> None:
        """Take the episodes, and the factor by which rewards are multiplied."""
        self.data, self.factor = data, factor

    def stretch(self) -> Stretch:
        """Each update is taken by itself: now and then the returns are made anew."""
        return NEVER

    def update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step of V; gives the returns and V(s) from before it, [S, B]."""
        assert batch.index is not None
        if self.updates % self.config.refresh == 0:
            self.returns = self._compute()
        self.updates += 1
        found = torch.gather(self.returns, 1, batch.index)
        value = self.value.evaluate(batch.observation)[..., 0]
        loss = losses.expectile_loss(found - value, 0.5)
        descend(loss, self.value.parameters(), self.adam)
        return found, value.detach()

    @torch.no_grad()
    def _compute(self) -> Tensor:
        """Returns of every row of the data, [S, N]."""
        assert self.data is not None
        whole = self.data.columns(self.sizes)
        after = whole.next_observation.expand(self.sizes.stack, -1, -1)
        ahead = [
            self.value.evaluate(after[:, first : first + CHUNK])[..., 0]
            for first in range(0, after.shape[1], CHUNK)
        ]
        discount = self.discount * (1.0 - whole.terminal)
        reward = self.factor * whole.reward
        return losses.lambda_returns(
            reward, discount, torch.cat(ahead, 1), self.data.ends, self.config.mix
        )

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("networks", self.state_dict()),
            **weights.nested("adam", weights.optimiser_state(self.adam)),
            "returns": self.returns,
            "updates": torch.tensor(self.updates),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.load_state_dict(weights.under("networks", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
        self.returns = state["returns"].to(self.returns.device)
        self.updates = int(state["updates"])
