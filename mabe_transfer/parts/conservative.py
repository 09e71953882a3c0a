"""Conservative critics: values are pushed down at actions at large and up at logged ones.

CQL (arXiv 2006.04779) with data alone, COMBO (arXiv 2102.08363) with a model's rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, pessimism, weights
from mabe_transfer.dual import DualWeight
from mabe_transfer.errors import UserError
from mabe_transfer.squashed import SquashedNormal
from mabe_transfer.streams import Streams

if TYPE_CHECKING:
    from mabe_transfer.networks import Actor
    from mabe_transfer.parts import ActorCritic, Batch, Metrics
    from mabe_transfer.streams import Sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Conservative:
    """CQL(H): weight * [ log-sum-exp of Q over actions - Q at the logged action ].

    The actions are uniform ones, the policy's at s, and the policy's at s', each weighed by its
    density.

    Attributes:
        weight: Alpha in CQL, beta in COMBO; the initial weight where `threshold` is given.
        threshold: Gap that a dual weight holds (CQL's Lagrange form, tau); none fixes the weight.
        learning_rate: Of Adam on the log weight.
        cap: Upper bound of a dual weight.
        actions: Actions of each of the three kinds.
        model_states_only: Whether values are pushed down at states of the model's rollouts alone,
            or at all states of a batch. Either way they are pushed up at real transitions alone.
    """

    weight: float = 5.0
    threshold: float | None = None
    learning_rate: float = 3e-4
    cap: float = 1e6
    actions: int = 10
    model_states_only: bool = False

    def __post_init__(self) -> None:
        """Refuse a log-sum-exp over nothing, and a reward for what is to be paid."""
        if self.actions < 1:
            raise UserError(f"critic.actions must be at least 1, not {self.actions}.")
        if self.weight < 0.0:
            raise UserError(f"critic.weight must not be negative, and is {self.weight}.")

    def build(self, sizes: Sizes, model: object) -> ConservativeLoss:
        """Make the critics' loss; a model is not used, since its rollouts are in the batch."""
        del model
        dual = DualWeight(
            sizes,
            initial=self.weight,
            target=self.threshold,
            learning_rate=self.learning_rate,
            cap=self.cap,
        )
        return ConservativeLoss(self, dual, Streams(sizes, "conservative/actions"))


class ConservativeLoss:
    """The TD error plus the conservative gap (CQL Eq. 4; COMBO Eq. 2).

    Differs from print: the equations halve the squared error and not the gap. The weights that
    were published belong to code that halves neither, so both are halved here, and a published
    weight means the same.
    """

    def __init__(self, config: Conservative, dual: DualWeight, streams: Streams) -> None:
        self.config, self.dual, self.streams = config, dual, streams

    def loss(
        self, learner: ActorCritic, batch: Batch, value: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss of each seed's critics, [S].

        Raises:
            UserError: The batch has no real transitions, or none of the model where the values
                there are to be pushed down.
        """
        first = batch.real if self.config.model_states_only else 0
        count = batch.observation.shape[1]
        if batch.real == 0 or first == count:
            raise UserError(
                f"Conservative critics compare real transitions with the model's, and of a batch "
                f"of {count} there are {batch.real} real ones; change rollouts.real_share."
            )
        observation = batch.observation[:, first:]
        width = batch.action.shape[-1]
        action, log_density = self._actions(
            learner.actor, observation, batch.next_observation[:, first:], width
        )
        seeds, samples, states = log_density.shape
        repeated = observation[:, None].expand(-1, samples, -1, -1)
        sampled = learner.critics.values(
            repeated.reshape(seeds, samples * states, -1),
            action.reshape(seeds, samples * states, width),
        ).view(seeds, -1, samples, states)
        gap = pessimism.conservative_gap(sampled, log_density, value[..., : batch.real])
        weight = self.dual.weight()
        loss = (losses.td_loss(value, target) + 0.5 * weight[:, None] * gap).sum(-1)
        mean = gap.detach().mean(-1)
        self.dual.adapt(mean)
        return loss, {"conservative_gap": mean, "conservative_weight": weight}

    @torch.no_grad()
    def _actions(
        self, actor: Actor, observation: Tensor, next_observation: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Uniform actions, the policy's at s and at s': [S, N, B, A], and log densities [S, N, B].

        All are evaluated at s afterwards.
        """
        count, states = self.config.actions, observation.shape[1]
        noise = self.streams.normal(3 * count, states, width)
        uniform = torch.erf(noise[:, :count] / math.sqrt(2.0))  # 2 Phi(z) - 1 is uniform
        policy = actor.distribution(torch.cat((observation, next_observation), 1))
        here, there = noise[:, count:].chunk(2, dim=1)
        policy = SquashedNormal(policy.mean[:, None], policy.log_std[:, None])
        sample = policy.sample(torch.cat((here, there), 2))
        found, log_prob = sample.action(), sample.log_prob()
        density = torch.full_like(log_prob[..., :states], -width * math.log(2.0))
        return (
            torch.cat((uniform, found[:, :, :states], found[:, :, states:]), 1),
            torch.cat((density, log_prob[..., :states], log_prob[..., states:]), 1),
        )

    def state(self) -> dict[str, Tensor]:
        """The weight, its optimiser and the stream of actions."""
        return {
            **weights.nested("dual", self.dual.state()),
            **weights.nested("actions", self.streams.state()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.dual.load_state(weights.under("dual", state))
        self.streams.load_state(weights.under("actions", state))
