"""TD3 with behaviour cloning: S deterministic policies that stay near the data's actions.

TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860) and ReBRAC (Tarasov et al. 2023, arXiv 2305.09836)
are one update with different numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.actors import DeterministicActor
from mabe_transfer.descent import adam, descend
from mabe_transfer.errors import UserError
from mabe_transfer.graphs import Stretch, turning
from mabe_transfer.networks import Critics, relu_and_norm, track
from mabe_transfer.streams import Sizes, Streams

if TYPE_CHECKING:
    from mabe_transfer.parts import Batch, Data, Experience, Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Td3:
    """Hyper-parameters of policy and critics; defaults are TD3+BC's.

    Differs from print: the policy climbs the smaller of the two critics, as ReBRAC's does, where
    TD3+BC takes the first.

    Attributes:
        hidden: Widths of the hidden layers, of policy and critics.
        policy_rate: Adam's learning rate of the policy.
        critic_rate: Adam's learning rate of the critics.
        discount: Gamma.
        polyak: Rate at which the targets follow, at every update of the policy.
        every: Critic updates for each update of the policy.
        noise: Deviation of the noise on the target policy's actions.
        noise_clip: Its bound.
        value_weight: Of Q over its mean magnitude in the policy's loss (TD3+BC's alpha).
        policy_penalty: Of the squared distance from the data's action in the policy's loss
            (ReBRAC's beta_1).
        critic_penalty: Of the squared distance from the data's next action in the critics' target
            (ReBRAC's beta_2).
        averaged: Whether squares are averaged over the action's dimensions, or added up (ReBRAC).
        standardised: Whether networks see observations in units of the data's deviation.
        normalised_critics: Whether the critics' hidden layers are followed by layer norms (ReBRAC).
    """

    hidden: tuple[int, ...] = (256, 256)
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    discount: float = 0.99
    polyak: float = 0.005
    every: int = 2
    noise: float = 0.2
    noise_clip: float = 0.5
    value_weight: float = 2.5
    policy_penalty: float = 1.0
    critic_penalty: float = 0.0
    averaged: bool = True
    standardised: bool = True
    normalised_critics: bool = False

    def __post_init__(self) -> None:
        """Refuse a policy that is never updated."""
        if self.every < 1:
            raise UserError(f"policy.every must be at least 1, not {self.every}.")

    def build(self, sizes: Sizes, data: Data) -> Td3Learner:
        """Make the learner; its statistics of observations and next actions are the data's."""
        return Td3Learner(self, sizes, data)


class Td3Learner:
    """The policies, their critics, the targets of both, and the optimisers."""

    def __init__(self, config: Td3, sizes: Sizes, data: Data) -> None:
        self.config, self.sizes, self.data, self.updates = config, sizes, data, 0
        self.actor = DeterministicActor(sizes, config.hidden, "policy")
        self.target_actor = DeterministicActor(sizes, config.hidden, "policy").requires_grad_(False)
        if config.standardised:
            for actor in (self.actor, self.target_actor):
                actor.standardise(data.columns(sizes).observation)
        self.critics, self.targets = self._critics(), self._critics().requires_grad_(False)
        self.adam_policy = adam(self.actor, config.policy_rate)
        self.adam_critics = adam(self.critics, config.critic_rate)
        self.noise = Streams(sizes, "td3/actions")

    def _critics(self) -> Critics:
        activation = relu_and_norm if self.config.normalised_critics else torch.relu
        return Critics(self.sizes, self.config.hidden, 2, "critics", activation)

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]; the policies are deterministic, so noise changes nothing."""
        del noise
        with torch.no_grad():
            return self.actor.mode(observation)

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Refuse: a prior is a distribution, which no deterministic policy can copy.

        Raises:
            UserError: Always.
        """
        raise UserError("A policy of Td3 is deterministic and cannot start as a copy of a prior.")

    def policy_state(self) -> dict[str, Tensor]:
        """The policies' tensors, with the statistics of the observations."""
        return dict(self.actor.state_dict())

    def learn(self, experience: Experience) -> Metrics:
        """Take one step on the next batch."""
        return self.update(experience.transitions())

    def stretch(self) -> Stretch:
        """Updates are the same but for the turns of the slower networks."""
        return turning(self.updates, self.config.every)

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""
        self.updates += count

    def update(self, batch: Batch) -> Metrics:
        """Take one gradient step of the critics, and of the policy where it is its turn."""
        metrics = self._update_critics(batch)
        self.updates += 1
        if self.updates % self.config.every == 0:
            metrics |= self._update_policy(batch)
            track(self.target_actor, self.actor, self.config.polyak)
            track(self.targets, self.critics, self.config.polyak)
        return metrics

    def _update_critics(self, batch: Batch) -> Metrics:
        target = self._target(batch)
        value = self.critics.values(self.actor.standardised(batch.observation), batch.action)
        loss = losses.td_loss(value, target).sum(-1)
        descend(loss, self.critics.parameters(), self.adam_critics)
        return {"critic_loss": loss.detach(), "value": value.detach().mean((1, 2))}

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """Give r + gamma (min Q(s', a') - beta_2 |a' - a'_data|^2), a' of the target with noise.

        Differs from print: on the last row of an episode that the clock ended, the behaviour's next
        action is not known, and nothing is charged; ReBRAC's data lack those rows.
        """
        config, after = self.config, batch.next_observation
        noise = config.noise * self.noise.normal(*batch.action.shape[1:])
        noise = noise.clamp(-config.noise_clip, config.noise_clip)
        action = (self.target_actor.mode(after) + noise).clamp(-1.0, 1.0)
        value = self.targets.values(self.actor.standardised(after), action).amin(1)
        penalty = torch.zeros_like(value)
        if config.critic_penalty > 0.0:
            assert batch.index is not None
            taken, known = self.data.next_action(self.sizes, batch.index)
            distance = losses.squared_distance(action, taken, averaged=config.averaged)
            penalty = config.critic_penalty * torch.where(known, distance, 0.0)
        discount = config.discount * (1.0 - batch.terminal)
        return losses.soft_target(batch.reward, discount, value, penalty)

    def _update_policy(self, batch: Batch) -> Metrics:
        config = self.config
        action = self.actor.mode(batch.observation)
        value = self.critics.values(self.actor.standardised(batch.observation), action).amin(1)
        distance = losses.squared_distance(action, batch.action, averaged=config.averaged)
        loss = losses.cloning_loss(value, distance, config.value_weight, config.policy_penalty)
        descend(loss, self.actor.parameters(), self.adam_policy)
        return {"policy_loss": loss.detach(), "distance": distance.detach().mean(-1)}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("policy", self.actor.state_dict()),
            **weights.nested("target_policy", self.target_actor.state_dict()),
            **weights.nested("critics", self.critics.state_dict()),
            **weights.nested("targets", self.targets.state_dict()),
            **weights.nested("adam_policy", weights.optimiser_state(self.adam_policy)),
            **weights.nested("adam_critics", weights.optimiser_state(self.adam_critics)),
            **weights.nested("noise", self.noise.state()),
            "updates": torch.tensor(self.updates),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.actor.load_state_dict(weights.under("policy", state))
        self.target_actor.load_state_dict(weights.under("target_policy", state))
        self.critics.load_state_dict(weights.under("critics", state))
        self.targets.load_state_dict(weights.under("targets", state))
        weights.load_optimiser(self.adam_policy, weights.under("adam_policy", state))
        weights.load_optimiser(self.adam_critics, weights.under("adam_critics", state))
        self.noise.load_state(weights.under("noise", state))
        self.updates = int(state["updates"])
