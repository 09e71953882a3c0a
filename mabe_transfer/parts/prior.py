"""Behaviour priors p(a | s): maximum likelihood, plain (MABE Eq. 3) or weighted (MABE Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mabe_transfer import losses
from mabe_transfer.networks import (
    Actor,
    Critics,
    Sizes,
    SquashedNormal,
    StackedMlp,
    Streams,
    generator,
    track,
)
from mabe_transfer.parts import Batch, unpack

Report = Callable[[int, str], None]
"""Called now and then with the number of updates made since the last call, and a note."""

REPORT_EVERY = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How a prior's networks are fitted."""

    updates: int = 50_000
    rate: float = 5e-4
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalisedQ:
    """The paper's weight, exp(omega / eta) with omega = Q(s, a) (1 - gamma) / r_max.

    Differs from print: where the largest reward is not positive, r_max is the largest magnitude, so
    that a better action never weighs less. omega differs more between states than between the
    actions of one; `Advantage` is the weighting that compares actions.
    """

    temperature: float = 0.2

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del value
        omega = q * (1.0 - discount) / scale
        return torch.exp((omega - omega.amax(-1, keepdim=True)) / self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantage:
    """exp(A / eta), A = Q - V standardised in the batch, clipped (AWR, arXiv 1910.00177)."""

    temperature: float = 1.0
    clip: float = 20.0

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del discount, scale
        advantage = q - value
        centred = advantage - advantage.mean(-1, keepdim=True)
        scores = centred / advantage.std(-1, keepdim=True).clamp_min(1e-6)
        return torch.exp(scores / self.temperature).clamp_max(self.clip)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unweighted:
    """The flat prior: every transition counts the same (MABE Eq. 3)."""

    fit: Fit = Fit()

    def build(self, sizes: Sizes) -> BehaviourPrior:
        """Make an unfitted prior."""
        return BehaviourPrior(sizes, self.fit, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive:
    """The adaptive prior: transitions weighted by how good their action is (MABE Eq. 5).

    Q is learned in-sample: V(s) regresses on Q(s, a) of the data's own actions, Q on
    r + gamma V(s'). No action outside the data is ever evaluated.

    Attributes:
        weighting: The paper's normalised Q, or the advantage.
        fit: How the networks are fitted.
        expectile: Of the regression of V: 0.5 gives the behaviour's value, more a better policy's.
        discount: Gamma.
        polyak: Rate at which the target critics follow.
    """

    weighting: NormalisedQ | Advantage = NormalisedQ()
    fit: Fit = Fit()
    expectile: float = 0.5
    discount: float = 0.99
    polyak: float = 0.005

    def build(self, sizes: Sizes) -> BehaviourPrior:
        """Make an unfitted prior."""
        return BehaviourPrior(sizes, self.fit, self)


class BehaviourPrior:
    """S behaviour priors, fitted together."""

    def __init__(self, sizes: Sizes, fit: Fit, adaptive: Adaptive | None) -> None:
        self.sizes, self.config, self.adaptive = sizes, fit, adaptive
        self.actor = Actor(sizes, fit.hidden, "prior")

    def distribution(self, observation: Tensor) -> SquashedNormal:
        """The priors' distributions at [S, B, O]."""
        return self.actor.distribution(observation)

    def fit(self, rows: Tensor, report: Report = lambda updates, note: None) -> dict[str, float]:
        """Fit to packed transitions [N, O + A + 1 + O + 1].

        Returns:
            `likelihood`: mean log p(a | s) over the last updates, averaged over seeds.
        """
        evaluator = None
        if self.adaptive is not None:
            evaluator = Evaluator(self.sizes, self.adaptive, self.config, rows)
        adam = torch.optim.Adam(self.actor.parameters(), lr=self.config.rate, fused=True)
        streams = Streams(self.sizes, "prior/batches")
        likelihood = torch.zeros(self.sizes.stack, device=rows.device)
        for update in range(1, self.config.updates + 1):
            picked = streams.integers(len(rows), self.config.batch)
            batch = unpack(rows[picked], self.sizes.observation, self.sizes.action)
            log_prob = self.distribution(batch.observation).log_prob(batch.action)
            weight = torch.ones_like(log_prob) if evaluator is None else evaluator.update(batch)
            loss = losses.weighted_likelihood(log_prob, weight).sum()
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
            likelihood = likelihood.lerp(log_prob.detach().mean(-1), 0.01)
            if update % REPORT_EVERY == 0 or update == self.config.updates:
                new = (update - 1) % REPORT_EVERY + 1
                report(new, f"log-likelihood {float(likelihood.mean()):.2f}")
        return {"likelihood": float(likelihood.mean())}

    def state(self) -> dict[str, Tensor]:
        """The fitted prior as tensors."""
        return dict(self.actor.state_dict())

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take a fitted prior back."""
        self.actor.load_state_dict(state)


class Evaluator(nn.Module):
    """Q-hat and V of the data's behaviour, and the weights that follow from them."""

    def __init__(self, sizes: Sizes, config: Adaptive, fit: Fit, rows: Tensor) -> None:
        super().__init__()
        self.config = config
        self.critics = Critics(sizes, fit.hidden, 2, "prior/critics")
        self.targets = Critics(sizes, fit.hidden, 2, "prior/critics").requires_grad_(False)
        self.value = StackedMlp(
            (sizes.observation, *fit.hidden, 1),
            [generator(seed, "prior/value", sizes.device) for seed in sizes.seeds],
        )
        learned = [*self.critics.parameters(), *self.value.parameters()]
        self.adam = torch.optim.Adam(learned, lr=3e-4, fused=True)
        reward = rows[:, sizes.observation + sizes.action]
        largest = float(reward.max())
        self.scale = largest if largest > 0.0 else max(float(reward.abs().max()), 1e-6)

    def update(self, batch: Batch) -> Tensor:
        """One step of in-sample policy evaluation; gives the batch's weights, [S, B]."""
        with torch.no_grad():
            ahead = self.value.evaluate(batch.next_observation)[..., 0]
            discount = self.config.discount * (1.0 - batch.terminal)
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
        weighting = self.config.weighting
        return weighting.weigh(q, value.detach(), self.config.discount, self.scale)
