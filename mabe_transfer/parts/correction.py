"""DARA's reward correction: data of another world pay for steps that the target would not take.

Two classifiers tell D1 from D2, one from (s, a, s'), one from (s, a). The difference of their log
odds is the log ratio of the two worlds' transition densities, whatever the two behaviours did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer import weights
from mabe_transfer.batches import at, unpack
from mabe_transfer.descent import adam, descend
from mabe_transfer.errors import UserError
from mabe_transfer.networks import StackedMlp
from mabe_transfer.streams import Streams, generator

if TYPE_CHECKING:
    from mabe_transfer.streams import Sizes

CHUNK = 65_536  # rows judged at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """How rewards of another world are corrected, after DARA (arXiv 2203.06662).

    r' = r + weight log [p_target(s' | s, a) / p_source(s' | s, a)], the ratio bounded by `limit`.
    Weight, limit and noise are this project's choices and were not compared with print.

    Where the two data share no states, as where their tasks differ too, both classifiers are
    certain from (s, a) alone, and the difference of two saturated odds says next to nothing.

    Differs from print: (s, a, s' - s) in place of (s, a, s'), which has the same odds and can be
    standardised; one classifier of each kind, whose inputs are standardised over both data.

    Attributes:
        weight: Eta, the share of the correction that is paid.
        limit: Bound of the log ratio, in nats.
        updates: Steps of both classifiers.
        batch: Transitions of a step, half of them from each world.
        hidden: Widths of the hidden layers.
        rate: Adam's learning rate.
        noise: Standard deviation of the normal noise on the inputs, in their own deviations.
            Without any, worlds that are all but deterministic are told apart perfectly, and the
            ratio is infinite.
    """

    weight: float = 0.1
    limit: float = 10.0
    updates: int = 5_000
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    rate: float = 3e-4
    noise: float = 0.1

    def __post_init__(self) -> None:
        """Refuse counts below one and a limit that is none."""
        if self.updates < 1 or self.batch < 2:
            raise UserError("correction.updates must be at least 1, correction.batch at least 2.")
        if self.limit <= 0.0 or self.noise < 0.0:
            raise UserError("correction.limit must be above 0, correction.noise not below it.")

    def build(self, sizes: Sizes) -> Classifiers:
        """Make unfitted classifiers, one pair a seed."""
        return Classifiers(self, sizes)


class Classifiers(nn.Module):
    """S pairs of classifiers, of (s, a, s') and of (s, a)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Correction, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        pair = sizes.observation + sizes.action
        self.whole = self._network(pair + sizes.observation, "whole")
        self.pair = self._network(pair, "pair")
        self.register_buffer("mean", torch.zeros(pair + sizes.observation, device=sizes.device))
        self.register_buffer("std", torch.ones(pair + sizes.observation, device=sizes.device))

    def _network(self, width: int, name: str) -> StackedMlp:
        sizes = self.sizes
        return StackedMlp(
            (width, *self.config.hidden, 1),
            [generator(seed, f"correction/{name}", sizes.device) for seed in sizes.seeds],
        )

    def fitting(self, target: Tensor, source: Tensor) -> ClassifierFit:
        """Begin a fit to packed transitions of the target's world [N, W] and the other [n, W]."""
        return ClassifierFit(self, target, source)

    def logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log odds of the target's world at standardised inputs [S, B, 2 O + A], both [S, B]."""
        pair = inputs[..., : self.sizes.observation + self.sizes.action]
        return self.whole.evaluate(inputs)[..., 0], self.pair.evaluate(pair)[..., 0]

    @torch.no_grad()
    def log_ratio(self, rows: Tensor) -> Tensor:
        """Of packed transitions: log p_target(s' | s, a) - log p_source(s' | s, a), within bounds.

        Args:
            rows: [N, W].

        Returns:
            [S, N].
        """
        parts = []
        for part in torch.split(rows, CHUNK):
            inputs = (self.inputs(part) - self.mean) / self.std
            whole, pair = self.logits(inputs.expand(self.sizes.stack, -1, -1))
            parts.append(log_ratio(whole, pair, self.config.limit))
        return torch.cat(parts, dim=1)

    def inputs(self, rows: Tensor) -> Tensor:
        """Observation, action and change of observation of packed transitions, [N, 2 O + A]."""
        batch = unpack(rows, self.sizes.observation, self.sizes.action)
        change = batch.next_observation - batch.observation
        return torch.cat((batch.observation, batch.action, change), dim=-1)


class ClassifierFit:
    """The fit of the classifiers, update by update."""

    def __init__(self, part: Classifiers, target: Tensor, source: Tensor) -> None:
        self.part, self.config = part, part.config
        worlds = [part.inputs(rows) for rows in (target, source)]
        both = torch.cat(worlds)
        part.mean, part.std = both.mean(0), both.std(0).clamp_min(1e-6)
        self.worlds = [(inputs - part.mean) / part.std for inputs in worlds]
        self.streams = Streams(part.sizes, "correction/batches")
        self.noise = Streams(part.sizes, "correction/noise")
        self.adam = adam(part, self.config.rate)
        self.loss = torch.zeros(part.sizes.stack, device=target.device)
        self.done = 0

    @property
    def finished(self) -> bool:
        """Whether every update was made."""
        return self.done >= self.config.updates

    def step(self) -> None:
        """Take one update on as many transitions of one world as of the other."""
        half = self.config.batch // 2
        inputs = torch.cat(
            [at(inputs, self.streams.integers(len(inputs), half)) for inputs in self.worlds], dim=1
        )
        inputs = inputs + self.config.noise * self.noise.normal(*inputs.shape[1:])
        is_target = torch.zeros(inputs.shape[:2], device=inputs.device)
        is_target[:, :half] = 1.0
        losses = [classification(found, is_target) for found in self.part.logits(inputs)]
        descend(losses[0] + losses[1], self.part.parameters(), self.adam)
        self.loss = losses[0].detach()
        self.done += 1

    def note(self) -> str:
        """How well the worlds are told apart by now."""
        return f"cross-entropy {float(self.loss.mean()):.3f}"

    def facts(self) -> dict[str, float]:
        """Give `cross_entropy` of the last batch, from (s, a, s'), averaged over seeds."""
        return {"cross_entropy": float(self.loss.mean())}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("part", dict(self.part.state_dict())),
            **weights.nested("adam", weights.optimiser_state(self.adam)),
            **weights.nested("streams", self.streams.state()),
            **weights.nested("noise", self.noise.state()),
            "loss": self.loss,
            "done": torch.tensor(self.done),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.part.load_state_dict(weights.under("part", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
        self.streams.load_state(weights.under("streams", state))
        self.noise.load_state(weights.under("noise", state))
        self.loss = state["loss"].to(self.loss.device)
        self.done = int(state["done"])


def classification(logit: Tensor, is_target: Tensor) -> Tensor:
    """Cross-entropy of log odds [S, B] with what is so, 0 or 1 [S, B]: mean over the batch, [S]."""
    loss = nn.functional.binary_cross_entropy_with_logits(logit, is_target, reduction="none")
    return loss.mean(-1)


def log_ratio(whole: Tensor, pair: Tensor, limit: float) -> Tensor:
    """Bayes' rule twice: the log odds from (s, a, s') less those from (s, a), within +-`limit`.

    log p(target | s, a, s') / p(source | s, a, s') - log p(target | s, a) / p(source | s, a)
    = log p_target(s' | s, a) / p_source(s' | s, a).
    """
    return (whole - pair).clamp(-limit, limit)
