"""Behaviour priors p(a | s): maximum likelihood, plain (MABE Eq. 3) or weighted (MABE Eq. 5).

A prior is fitted before the policy, or it is the policy itself (imitation) and learns in its place;
both are the same updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.batches import at
from mabe_transfer.descent import descend, fused
from mabe_transfer.graphs import FOREVER, Stepper, Stretch, recorder_for
from mabe_transfer.networks import Actor
from mabe_transfer.parts import Batch, Data, Experience, Metrics, unpack
from mabe_transfer.streams import Sizes, Streams
from mabe_transfer.values import InSample, InSampleEvaluator, LambdaReturns, ReturnEvaluator
from mabe_transfer.weighting import NormalisedAdvantage, Weighting, effective_share

if TYPE_CHECKING:
    from mabe_transfer.squashed import SquashedNormal


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A prior's networks where it is the policy: schedule and row say how long and on how much.

    Attributes:
        rate: Adam's learning rate.
        hidden: Widths of the hidden layers.
    """

    rate: float = 5e-4
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How a prior's networks are fitted before the policy.

    Attributes:
        updates: Of the prior, and of the critics that weigh its data.
        rate: Adam's learning rate.
        batch: Transitions of an update, for each seed.
        hidden: Widths of the hidden layers.
    """

    updates: int = 50_000
    rate: float = 5e-4
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unweighted:
    """The flat prior: every transition counts the same (MABE Eq. 3).

    Attributes:
        fit: How the networks are fitted.
    """

    fit: Fit | Network = Fit()

    def build(self, sizes: Sizes) -> BehaviourPrior:
        """Make an unfitted prior."""
        return BehaviourPrior(sizes, self.fit, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive:
    """The adaptive prior: transitions weighted by how good their action is (MABE Eq. 5).

    Attributes:
        weighting: How much a transition counts, given Q and V.
        evaluation: Where Q and V come from.
        fit: How the networks are fitted.
        discount: Gamma.
        return_range: Rewards are multiplied such that the returns of the data's episodes span
            this, as IQL does with 1,000; none leaves them as they are.
    """

    weighting: Weighting = NormalisedAdvantage()
    evaluation: InSample | LambdaReturns = InSample()
    fit: Fit | Network = Fit()
    discount: float = 0.99
    return_range: float | None = None

    def build(self, sizes: Sizes) -> BehaviourPrior:
        """Make an unfitted prior."""
        return BehaviourPrior(sizes, self.fit, self)


class BehaviourPrior:
    """S behaviour priors that learn together; as a policy, they act by their mode."""

    def __init__(self, sizes: Sizes, fit: Fit | Network, adaptive: Adaptive | None) -> None:
        self.sizes, self.config, self.adaptive = sizes, fit, adaptive
        self.actor = Actor(sizes, fit.hidden, "prior")
        self.adam = fused(list(self.actor.parameters()), fit.rate)
        self.evaluator: InSampleEvaluator | ReturnEvaluator | None = None
        if adaptive is not None:
            self.evaluator = adaptive.evaluation.build(sizes, fit.hidden, adaptive.discount)
        self.scale = 1.0  # of the rewards; 1 until the data are seen

    def distribution(self, observation: Tensor) -> SquashedNormal:
        """The priors' distributions at [S, B, O]."""
        return self.actor.distribution(observation)

    def look_at(self, data: Data) -> None:
        """Take from the data what the weights need to know of the whole of it.

        Raises:
            UserError: Returns are to span a range, but those of the data are all the same.
        """
        if self.evaluator is None or self.adaptive is None:
            return
        factor, reward = 1.0, data.columns(self.sizes).reward
        if self.adaptive.return_range is not None:
            factor = self.adaptive.return_range / data.return_span(self.sizes)
        largest = float(reward.max())
        self.scale = factor * (largest if largest > 0.0 else max(float(reward.abs().max()), 1e-6))
        self.evaluator.look_at(data, factor)

    def update(self, batch: Batch) -> Metrics:
        """Take one step of the evaluation and of the weighted likelihood.

        Returns:
            `likelihood`: mean log p(a | s) before the step; of an adaptive prior its critics'
            `value`, and the `effective_share` of its weights.
        """
        log_prob = self.distribution(batch.observation).log_prob(batch.action)
        weight, metrics = self._weigh(batch)
        loss = losses.weighted_likelihood(log_prob, weight)
        descend(loss, self.actor.parameters(), self.adam)
        return {"likelihood": log_prob.detach().mean(-1), **metrics}

    def _weigh(self, batch: Batch) -> tuple[Tensor, Metrics]:
        if self.evaluator is None or self.adaptive is None:
            return torch.ones_like(batch.reward), {}
        q, value = self.evaluator.update(batch)
        weight = self.adaptive.weighting.weigh(q, value, self.adaptive.discount, self.scale)
        return weight, {"value": value.mean(-1), "effective_share": effective_share(weight)}

    def fitting(self, data: Data) -> PriorFit:
        """Begin a fit to data, before the policy."""
        return PriorFit(self, data)

    def fit(self, rows: Tensor, ends: Tensor | None = None) -> dict[str, float]:
        """Fit to packed transitions [N, O + A + 1 + O + 1] in one go; see `Data` for `ends`.

        Returns:
            What `update` says, averaged over the last updates and over seeds.
        """
        fitting = self.fitting(Data(rows, ends))
        while not fitting.finished:
            fitting.advance(fitting.total)
        return fitting.facts()

    # -- as a policy (imitation) -----------------------------------------------------------------

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]: the mode, or a sample where noise [S, B, A] is given."""
        with torch.no_grad():
            found = self.distribution(observation)
            return found.mode() if noise is None else found.sample(noise).action()

    def stretch(self) -> Stretch:
        """Updates are the same, except that returns are computed now and then."""
        return Stretch(FOREVER) if self.evaluator is None else self.evaluator.stretch()

    def skip(self, count: int) -> None:
        """Nothing is counted."""

    def learn(self, experience: Experience) -> Metrics:
        """Take one step on the next batch."""
        return self.update(experience.transitions())

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Become a copy of a fitted prior."""
        self.actor.load_state_dict(prior)

    def policy_state(self) -> dict[str, Tensor]:
        """The fitted priors alone, as tensors."""
        return dict(self.actor.state_dict())

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        tensors = {
            **weights.nested("policy", self.policy_state()),
            **weights.nested("adam", weights.optimiser_state(self.adam)),
        }
        if self.evaluator is not None:
            tensors |= weights.nested("evaluator", self.evaluator.state())
        return tensors

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.start_from(weights.under("policy", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
        if self.evaluator is not None:
            self.evaluator.load_state(weights.under("evaluator", state))


class PriorFit:
    """The fit of a prior to its data, update by update."""

    def __init__(self, prior: BehaviourPrior, data: Data) -> None:
        prior.look_at(data)
        self.updates = updates = PriorUpdates(prior, data)
        self.state, self.load_state, self.facts = updates.state, updates.load_state, updates.facts
        self.stepper = Stepper(updates, recorder_for(prior.sizes.device))
        self.total = updates.config.updates

    @property
    def done(self) -> int:
        """Updates taken."""
        return self.updates.done

    @property
    def finished(self) -> bool:
        """Whether every update was made."""
        return self.updates.left == 0

    def advance(self, most: int) -> int:
        """Take one update or more; gives how many."""
        return self.stepper.advance(most)

    def note(self) -> str:
        """How likely the data are by now, and how much of them the weights leave."""
        facts = self.facts()
        share = facts.get("effective_share")
        weighed = "" if share is None else f", effective share {share:.3f}"
        return f"log-likelihood {facts['likelihood']:.2f}{weighed}"


class PriorUpdates:
    """The updates of a prior's fit, as they can be replayed (see `graphs`)."""

    def __init__(self, prior: BehaviourPrior, data: Data) -> None:
        assert isinstance(prior.config, Fit)
        self.prior, self.data, self.config = prior, data, prior.config
        self.streams = Streams(prior.sizes, "prior/batches")
        zero = torch.zeros(prior.sizes.stack, device=prior.sizes.device)
        self.means = {"likelihood": zero}  # over the last updates
        if prior.adaptive is not None:
            self.means["effective_share"] = zero + 1.0
        self.done = 0

    @property
    def left(self) -> int:
        """Updates that are to be taken yet."""
        return max(0, self.config.updates - self.done)

    def prepare(self) -> None:
        """Nothing is due."""

    def step(self) -> None:
        """Take one update on the next batch."""
        sizes, rows = self.prior.sizes, self.data.rows
        picked = self.streams.integers(len(rows), self.config.batch)
        batch = unpack(at(rows, picked), sizes.observation, sizes.action, index=picked)
        metrics = self.prior.update(batch)
        for name, mean in self.means.items():
            mean.lerp_(metrics[name], 0.01)
        self.done += 1

    def stretch(self) -> Stretch:
        """How far the updates ahead are the same."""
        return self.prior.stretch().within(self.left)

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""
        self.done += count

    def facts(self) -> dict[str, float]:
        """What `BehaviourPrior.fit` gives."""
        return {name: float(mean.mean()) for name, mean in self.means.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("prior", self.prior.state()),
            **weights.nested("streams", self.streams.state()),
            **self.means,
            "done": torch.tensor(self.done),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.prior.load_state(weights.under("prior", state))
        self.streams.load_state(weights.under("streams", state))
        for name, mean in self.means.items():
            mean.copy_(state.get(name, mean))  # earlier versions kept the likelihood alone
        self.done = int(state["done"])
