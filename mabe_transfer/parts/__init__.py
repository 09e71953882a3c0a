"""Contracts between the parts of an algorithm: what a row's columns exchange.

A part's file holds a frozen configuration and what `build` makes of it. Parts do not import one
another; they meet through these types, so that each can be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from mabe_transfer.batches import Batch, Data, Metrics, unpack

if TYPE_CHECKING:
    from mabe_transfer.graphs import Stretch
    from mabe_transfer.networks import Actor, Critics
    from mabe_transfer.squashed import Sample, SquashedNormal

__all__ = [
    "Batch",
    "Data",
    "Experience",
    "Fitting",
    "Metrics",
    "PolicyLearner",
    "Prior",
    "Regulariser",
    "unpack",
]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Whole trajectories of S policies in their models, B of them and H steps at the most.

    What a trajectory has after its end counts for nothing: `alive` masks it.
    """

    observation: Tensor  # [S, H + 1, B, O]; after the last step, the state that it reached
    noise: Tensor  # [S, H, B, A], the normal numbers that the actions were sampled with
    reward: Tensor  # [S, H, B], less the price of the model's uncertainty; 0 after the end
    terminal: Tensor  # [S, H, B], 1.0 where task or uncertainty ended it; the horizon never does
    alive: Tensor  # [S, H, B], booleans: whether the step was taken
    metrics: Metrics  # what there is to say of them


class Experience(Protocol):
    """What a policy learns from: transitions of the data and of the model."""

    def transitions(self) -> Batch:
        """The next batch, real transitions first."""

    def trajectories(self) -> Trajectories:
        """New trajectories of the policy as it is now, in the model."""


class PolicyLearner(Protocol):
    """S policies that are being optimised."""

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]: the mode, or a sample where noise [S, B, A] is given."""

    def learn(self, experience: Experience) -> Metrics:
        """Take one step."""

    def stretch(self) -> Stretch:
        """How far the steps ahead are the same operations (see `graphs`)."""

    def skip(self, count: int) -> None:
        """Count steps that a replay has taken."""

    def policy_state(self) -> dict[str, Tensor]:
        """The policies alone, as they are kept when training is over."""

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Become a copy of a fitted prior, given its policy's tensors."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class Fitting(Protocol):
    """A part on its way to being fitted: a fit can stop after any step and go on exactly."""

    @property
    def total(self) -> int:
        """Steps at the most."""

    @property
    def done(self) -> int:
        """Steps taken."""

    @property
    def finished(self) -> bool:
        """Whether the part is fitted."""

    def advance(self, most: int) -> int:
        """Take the next step, or several and at the most so many; gives how many."""

    def note(self) -> str:
        """How it goes, in a few words."""

    def facts(self) -> dict[str, float]:
        """What the fit came to."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class Prior(Protocol):
    """A fitted behaviour prior p(a | s)."""

    def distribution(self, observation: Tensor) -> SquashedNormal:
        """The prior's distribution at [S, B, O]."""


class Regulariser(Protocol):
    """What the policy pays for, beside the reward: weight * divergence."""

    def weight(self) -> Tensor:
        """The weight now, [S], without gradient."""

    def divergence(self, sample: Sample, observation: Tensor) -> Tensor:
        """The divergence of a policy that gave a sample in states, [S, B], with its gradient."""

    def adapt(self, divergence: Tensor) -> Metrics:
        """Move the weight, given the batch's mean divergence [S]."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class ActorCritic(Protocol):
    """A policy with its critics and their targets, as a loss of the critics sees them."""

    actor: Actor
    critics: Critics
    targets: Critics


class CriticLoss(Protocol):
    """What the critics descend: their TD error, and what they pay beside it."""

    def loss(
        self, learner: ActorCritic, batch: Batch, value: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss of each seed's critics together, [S], with gradient in the critics alone.

        Args:
            learner: The networks.
            batch: Transitions.
            value: Q(s, a) of every critic at the batch, [S, C, B], with gradient.
            target: Of the TD error, without gradient, [S, B].
        """

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
