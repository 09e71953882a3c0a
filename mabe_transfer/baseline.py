"""The state value that on-policy advantages are measured against (GAE, arXiv 1506.02438)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabe_transfer import advantages, losses, weights
from mabe_transfer.descent import fused
from mabe_transfer.networks import StackedMlp
from mabe_transfer.streams import Sizes, Streams, generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The state value that advantages are measured against, and how it is fitted.

    Attributes:
        hidden: Widths of the hidden layers.
        rate: Adam's learning rate.
        updates: Gradient steps of regression after every step of the policy; with `batch`, they
            pass some 2.5 times over 10,000 new transitions.
        batch: States of such a gradient step.
        discount: Gamma.
        trace: Lambda of the generalised advantage.
    """

    hidden: tuple[int, ...] = (256, 256)
    rate: float = 1e-3
    updates: int = 50
    batch: int = 512
    discount: float = 0.99
    trace: float = 0.95

    def build(self, sizes: Sizes) -> ValueBaseline:
        """Make an unfitted baseline."""
        return ValueBaseline(self, sizes)


class ValueBaseline:
    """V(s) of S policies, regressed on the returns of their trajectories.

    The networks predict in units of the returns' spread around their mean, both of which are
    measured anew at every fit, so that the step size suits every reward.
    """

    def __init__(self, config: Baseline, sizes: Sizes) -> None:
        self.config = config
        self.net = StackedMlp(
            (sizes.observation, *config.hidden, 1),
            [generator(seed, "baseline/weights", sizes.device) for seed in sizes.seeds],
        )
        self.mean = torch.zeros(sizes.stack, device=sizes.device)
        self.spread = torch.ones(sizes.stack, device=sizes.device)
        self.adam = fused(list(self.net.parameters()), config.rate)
        self.streams = Streams(sizes, "baseline/batches")

    @torch.no_grad()
    def values(self, observation: Tensor) -> Tensor:
        """V at [S, B, O], [S, B]."""
        found = self.net.evaluate(observation)[..., 0]
        return self.mean[:, None] + self.spread[:, None] * found

    def judge(
        self, observation: Tensor, reward: Tensor, terminal: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages of trajectories' steps, and the returns that V is to predict.

        Args:
            observation: [S, H + 1, B, O], with the state after the last step.
            reward: [S, H, B].
            terminal: 1.0 where a trajectory ended, [S, H, B].
            alive: Whether the step was taken, booleans, [S, H, B].

        Returns:
            Both [S, H, B].
        """
        value = self.values(observation.flatten(1, 2)).view(observation.shape[:-1])
        discount = self.config.discount * (1.0 - terminal)
        advantage = advantages.generalised_advantage(
            reward, discount, value, alive, self.config.trace
        )
        return advantage, advantage + value[:, :-1]

    def fit(self, observation: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        """Regress V on returns.

        Args:
            observation: [S, H, B, O].
            target: Of the states that count, [S, H, B].
            alive: Which of them count, booleans, [S, H, B].

        Returns:
            Mean squared error while it was fitted, in units of the returns' variance, [S].
        """
        observation, alive = observation.flatten(1, 2), alive.flatten(1, 2)
        returns = target.flatten(1, 2)
        self.mean = advantages.masked_mean(returns, alive)
        centred = returns - self.mean[:, None]
        self.spread = advantages.masked_mean(centred.square(), alive).sqrt().clamp_min(1e-6)
        returns = centred / self.spread[:, None]
        counts = [int(count) for count in alive.sum(-1)]
        first = (~alive).long().argsort(dim=1, stable=True)  # those that count come first
        total = torch.zeros_like(self.mean)
        for _ in range(self.config.updates):
            picked = first.gather(1, self.streams.integers(counts, self.config.batch))
            rows = picked[..., None].expand(-1, -1, observation.shape[-1])
            found = self.net.evaluate(observation.gather(1, rows)).transpose(1, 2)
            loss = losses.td_loss(found, returns.gather(1, picked))[:, 0]
            self.adam.zero_grad()
            torch.autograd.backward(loss.sum())
            self.adam.step()
            total += 2.0 * loss.detach()
        return total / self.config.updates

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            "mean": self.mean,
            "spread": self.spread,
            **weights.nested("net", self.net.state_dict()),
            **weights.nested("adam", weights.optimiser_state(self.adam)),
            **weights.nested("streams", self.streams.state()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.mean, self.spread = (state[name].to(self.mean.device) for name in ("mean", "spread"))
        self.net.load_state_dict(weights.under("net", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
        self.streams.load_state(weights.under("streams", state))
