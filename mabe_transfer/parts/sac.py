"""Soft actor-critic as a part: S policies and S x C critics, updated together.

Haarnoja et al. 2018 (arXiv 1812.05905). What the policy pays beside the reward is the regulariser's
business, and what the critics pay beside the TD error is the critic part's, so SAC, BRAC, CQL,
COMBO, EDAC, MOBILE and MABE share this file (MABE Alg. 1 l. 8-13).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.beside import aside, join
from mabe_transfer.descent import adam, descend_run
from mabe_transfer.graphs import FOREVER, Stretch
from mabe_transfer.networks import Actor, Critics, track
from mabe_transfer.rectified import Pass
from mabe_transfer.streams import Sizes, Streams

if TYPE_CHECKING:
    from mabe_transfer.parts import Batch, CriticLoss, Experience, Metrics, Regulariser


@dataclass(frozen=True, kw_only=True, slots=True)
class Sac:
    """Hyper-parameters of the policy and its critics; defaults are MOPO's.

    Attributes:
        hidden: Widths of the hidden layers, of policy and critics.
        policy_rate: Adam's learning rate of the policy.
        critic_rate: Adam's learning rate of the critics.
        critics: Number of critics; the smallest value counts.
        discount: Gamma.
        polyak: Rate at which target critics follow (lambda_phi in MABE Alg. 1 l. 13).
        policy_polyak: Rate at which the policy that is deployed, by its mode, follows the one that
            learns and rolls out: Adam's steps jitter, and their mean does not. 1 deploys the one
            that learns, every paper's form.
        penalised_backup: Whether the regulariser is also paid in the critics' target (BRAC-v, MABE,
            SAC, EDAC) or by the policy alone (BRAC-p; the deterministic backup of CQL, COMBO and
            MOBILE).
        critics_first: Updates of the critics alone before the policy moves, so that one that starts
            at a prior does not follow critics that know nothing yet. 0 is every paper's form.
        bfloat16: Whether what lies between hidden layers is in that precision; see `rectified`.
            Pays on processors that have such products.
    """

    hidden: tuple[int, ...] = (256, 256)
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    critics: int = 2
    discount: float = 0.99
    polyak: float = 0.005
    policy_polyak: float = 1.0
    penalised_backup: bool = True
    critics_first: int = 0
    bfloat16: bool = False

    def build(
        self, sizes: Sizes, regulariser: Regulariser, critic: CriticLoss | None = None
    ) -> SacLearner:
        """Make the learner around a built regulariser and, where the row has one, critic part."""
        return SacLearner(self, sizes, regulariser, critic)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the policy would do in some states, before critics are asked."""

    run: Pass  # of the policy's perceptron
    action: Tensor  # [S, B, A], sampled
    divergence: Tensor  # [S, B]
    penalty: Tensor  # [S, B], weight * divergence


class SacLearner:
    """The policy, its critics, and their optimisers."""

    def __init__(
        self,
        config: Sac,
        sizes: Sizes,
        regulariser: Regulariser,
        critic: CriticLoss | None = None,
    ) -> None:
        self.config, self.regulariser, self.critic = config, regulariser, critic
        self.actor = self.deployed = Actor(sizes, config.hidden, "policy", halved=config.bfloat16)
        if config.policy_polyak < 1.0:
            self.deployed = copy.deepcopy(self.actor).requires_grad_(False)
        self.critics, targets = (
            Critics(sizes, config.hidden, config.critics, "critics", halved=config.bfloat16)
            for _ in range(2)
        )
        self.targets = targets.requires_grad_(False)
        self.adam_policy = adam(self.actor, config.policy_rate)
        self.adam_critics = adam(self.critics, config.critic_rate)
        self.noise = Streams(sizes, "sac/actions")
        self.updates = 0

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]: the deployed mode, or a sample where noise [S, B, A] is given."""
        with torch.no_grad():
            if noise is None:
                return self.deployed.distribution(observation).mode()
            return self.actor.distribution(observation).sample(noise).action()

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Become a copy of a fitted prior."""
        self.actor.load_state_dict(prior)
        self.deployed.load_state_dict(prior)

    def policy_state(self) -> dict[str, Tensor]:
        """The deployed policies' tensors."""
        return dict(self.deployed.state_dict())

    def learn(self, experience: Experience) -> Metrics:
        """Take one step on the next batch."""
        return self.update(experience.transitions())

    def stretch(self) -> Stretch:
        """Updates are the same from where the policy moves on, and likewise before."""
        left = self.config.critics_first - self.updates
        return Stretch(left, "critics") if left > 0 else Stretch(FOREVER)

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""
        self.updates += count

    def update(self, batch: Batch) -> Metrics:
        """Take one gradient step of critics, policy and regulariser (MABE Alg. 1 l. 9-13).

        As printed, the policy climbs the critics as they are before their own step. So each network
        is gone through once for both: of a pass's rows, the first ones are what the critics learn
        from, and the others, as many, what the policy does.
        """
        moves = self.updates >= self.config.critics_first
        choice = self._choose(batch, moves=moves)
        with aside(batch.reward.device):
            target = self._target(batch, choice)
        metrics = (
            self._step_both(batch, target, choice) if moves else self._step_critics(batch, target)
        )
        self.updates += 1
        track(self.targets, self.critics, self.config.polyak)
        return metrics

    def _choose(self, batch: Batch, *, moves: bool) -> Choice:
        """What the policy does in the next states and, where it moves, in the states."""
        states = batch.next_observation
        if moves:
            states = torch.cat((states, batch.observation), 1)
        run = self.actor.body.run(states)
        noise = self.noise.normal(states.shape[1], batch.action.shape[-1])
        sample = self.actor.reading(run.output).sample(noise)
        divergence = self.regulariser.divergence(sample, states)
        penalty = self.regulariser.weight()[:, None] * divergence
        return Choice(run, sample.action(), divergence, penalty)

    @torch.no_grad()
    def _target(self, batch: Batch, choice: Choice) -> Tensor:
        count = batch.reward.shape[1]
        value = self.targets.values(batch.next_observation, choice.action[:, :count]).amin(1)
        penalty = choice.penalty[:, :count]
        if not self.config.penalised_backup:
            penalty = torch.zeros_like(value)
        discount = self.config.discount * (1.0 - batch.terminal)
        return losses.soft_target(batch.reward, discount, value, penalty)

    def _step_critics(self, batch: Batch, target: Tensor) -> Metrics:
        run = self.critics.run(batch.observation, batch.action)
        loss, metrics = self._critic_loss(batch, self.critics.reading(run.output), target)
        self._descend(loss, run, target.shape[1])
        return metrics

    def _step_both(self, batch: Batch, target: Tensor, choice: Choice) -> Metrics:
        count = target.shape[1]
        _, action = choice.action.chunk(2, 1)
        _, penalty = choice.penalty.chunk(2, 1)
        states = torch.cat((batch.observation, batch.observation), 1)
        run = self.critics.run(states, torch.cat((batch.action, action), 1))
        learned, climbed = self.critics.reading(run.output).chunk(2, 2)
        loss, metrics = self._critic_loss(batch, learned, target)
        policy_loss = losses.actor_loss(climbed.min(1).values, penalty)
        # The chain rule by hand: what the loss gains by the action, it gains through the critics.
        of_action = self._descend(loss + policy_loss, run, count)
        (slope,) = torch.autograd.grad(
            (policy_loss, action), (choice.run.output,), (torch.ones_like(policy_loss), of_action)
        )
        choice.run.to_parameters(slope, start=count)
        self.adam_policy.step()
        if self.deployed is not self.actor:
            track(self.deployed, self.actor, self.config.policy_polyak)
        metrics |= self.regulariser.adapt(choice.divergence.detach()[:, count:].mean(-1))
        return {"policy_loss": policy_loss.detach(), **metrics}

    def _critic_loss(self, batch: Batch, value: Tensor, target: Tensor) -> tuple[Tensor, Metrics]:
        """Loss of each seed's critics [S], and what there is to say of it."""
        join(target.device)
        metrics: Metrics = {}
        if self.critic is None:
            loss = losses.td_loss(value, target).sum(-1)
        else:
            loss, metrics = self.critic.loss(self, batch, value, target)
        return loss, {"critic_loss": loss.detach(), "value": value.detach().mean((1, 2)), **metrics}

    def _descend(self, loss: Tensor, run: Pass, learned: int) -> Tensor:
        """Step the critics by a pass's first rows; the loss's slope in the others' actions."""
        of_action = descend_run(
            loss,
            run,
            self.critics.parameters(),
            self.adam_critics,
            learned=learned,
            first=self.critics.observation,
        )
        return self.critics.added(of_action)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        alone = self.deployed is self.actor
        return {
            **weights.nested("policy", self.actor.state_dict()),
            **weights.nested("deployed", {} if alone else self.deployed.state_dict()),
            **weights.nested("critics", self.critics.state_dict()),
            **weights.nested("targets", self.targets.state_dict()),
            **weights.nested("adam_policy", weights.optimiser_state(self.adam_policy)),
            **weights.nested("adam_critics", weights.optimiser_state(self.adam_critics)),
            **weights.nested("noise", self.noise.state()),
            **weights.nested("regulariser", self.regulariser.state()),
            **weights.nested("critic", {} if self.critic is None else self.critic.state()),
            "updates": torch.tensor(self.updates),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.actor.load_state_dict(weights.under("policy", state))
        if self.deployed is not self.actor:
            self.deployed.load_state_dict(weights.under("deployed", state))
        self.critics.load_state_dict(weights.under("critics", state))
        self.targets.load_state_dict(weights.under("targets", state))
        weights.load_optimiser(self.adam_policy, weights.under("adam_policy", state))
        weights.load_optimiser(self.adam_critics, weights.under("adam_critics", state))
        self.noise.load_state(weights.under("noise", state))
        self.regulariser.load_state(weights.under("regulariser", state))
        if self.critic is not None:
            self.critic.load_state(weights.under("critic", state))
        self.updates = int(state["updates"])
