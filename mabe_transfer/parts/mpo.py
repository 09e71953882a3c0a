"""Maximum a posteriori policy optimisation against a prior: S policies and their critics.

Abdolmaleki et al. 2018 (arXiv 1806.06920) in the form of ABM (Siegel et al. 2020, arXiv
2002.08396): the prior's actions are reweighted by their values, and the policy is fitted to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.descent import adam, descend, fused
from mabe_transfer.errors import UserError
from mabe_transfer.graphs import Stretch, turning
from mabe_transfer.networks import Actor, Critics, track
from mabe_transfer.squashed import SquashedNormal
from mabe_transfer.streams import Sizes, Streams

if TYPE_CHECKING:
    from mabe_transfer.parts import Batch, Experience, Metrics, Prior


@dataclass(frozen=True, kw_only=True, slots=True)
class Mpo:
    """Hyper-parameters of the policy, its critics and the two multipliers.

    Differs from print: the M-step's trust region bounds the KL divergence of mean and deviation
    together, where MPO's code bounds them apart; the backup takes one action of the target policy.

    Attributes:
        hidden: Widths of the hidden layers, of policy and critics.
        policy_rate: Adam's learning rate of the policy.
        critic_rate: Adam's learning rate of the critics.
        dual_rate: Adam's learning rate of both multipliers' logarithms.
        critics: Number of critics; the smallest value counts.
        discount: Gamma.
        polyak: Rate at which target critics follow.
        samples: Actions of the prior that are reweighted at each state.
        temperature: Eta at the start.
        improvement: How far the reweighted prior may lie from the prior, in nats.
        trust: How far the policy may lie from the target policy, in nats.
        trust_weight: Price of that distance at the start.
        every: Updates between two copies of the policy into the target policy.
    """

    hidden: tuple[int, ...] = (256, 256)
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    dual_rate: float = 1e-2
    critics: int = 2
    discount: float = 0.99
    polyak: float = 0.005
    samples: int = 20
    temperature: float = 1.0
    improvement: float = 0.1
    trust: float = 0.02
    trust_weight: float = 10.0
    every: int = 100

    def __post_init__(self) -> None:
        """Refuse counts below one and bounds that are none."""
        for name in ("samples", "every", "critics"):
            if getattr(self, name) < 1:
                raise UserError(f"policy.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("temperature", "improvement", "trust", "trust_weight"):
            if not getattr(self, name) > 0.0:
                raise UserError(f"policy.{name} must be positive, not {getattr(self, name)}.")

    def build(self, sizes: Sizes, prior: Prior) -> MpoLearner:
        """Make the learner around a fitted prior."""
        return MpoLearner(self, sizes, prior)


class MpoLearner:
    """The policy and its target, the critics and theirs, the multipliers, and the optimisers."""

    def __init__(self, config: Mpo, sizes: Sizes, prior: Prior) -> None:
        self.config, self.prior, self.updates = config, prior, 0
        self.actor = Actor(sizes, config.hidden, "policy")
        self.target_actor = Actor(sizes, config.hidden, "policy").requires_grad_(False)
        self.critics = Critics(sizes, config.hidden, config.critics, "critics")
        self.targets = Critics(sizes, config.hidden, config.critics, "critics").requires_grad_(
            False
        )
        self.log_temperature, self.log_weight = (
            torch.full((sizes.stack,), math.log(start), device=sizes.device, requires_grad=True)
            for start in (config.temperature, config.trust_weight)
        )
        self.adam_policy = adam(self.actor, config.policy_rate)
        self.adam_critics = adam(self.critics, config.critic_rate)
        self.adam_duals = fused([self.log_temperature, self.log_weight], config.dual_rate)
        self.backups = Streams(sizes, "mpo/backups")
        self.samples = Streams(sizes, "mpo/samples")

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]: the mode, or a sample where noise [S, B, A] is given."""
        with torch.no_grad():
            policy = self.actor.distribution(observation)
            return policy.mode() if noise is None else policy.sample(noise).action()

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Become a copy of a fitted prior."""
        self.actor.load_state_dict(prior)
        self.target_actor.load_state_dict(prior)

    def policy_state(self) -> dict[str, Tensor]:
        """The policies' tensors."""
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
        """Take one step of policy evaluation, of the E-step's dual, and of the M-step."""
        metrics = self._update_critics(batch)
        raw, value = self._sample(batch.observation)
        metrics |= self._update_policy(batch.observation, raw, value)
        track(self.targets, self.critics, self.config.polyak)
        self.updates += 1
        if self.updates % self.config.every == 0:
            track(self.target_actor, self.actor, 1.0)
        return metrics

    def _update_critics(self, batch: Batch) -> Metrics:
        with torch.no_grad():
            policy = self.target_actor.distribution(batch.next_observation)
            action = policy.sample(self.backups.normal(*batch.action.shape[1:])).action()
            ahead = self.targets.values(batch.next_observation, action).amin(1)
            discount = self.config.discount * (1.0 - batch.terminal)
            target = losses.soft_target(batch.reward, discount, ahead, torch.zeros_like(ahead))
        value = self.critics.values(batch.observation, batch.action)
        loss = losses.td_loss(value, target).sum(-1)
        descend(loss, self.critics.parameters(), self.adam_critics)
        return {"critic_loss": loss.detach(), "value": value.detach().mean((1, 2))}

    @torch.no_grad()
    def _sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of the prior before the squash [S, N, B, A], and their values [S, N, B].

        A policy that were fitted to the squashed ones would see none beyond the clip of logged
        actions, and would shrink away from where the prior acts at its limits.
        """
        prior, count = self.prior.distribution(observation), self.config.samples
        noise = self.samples.normal(count, *prior.mean.shape[1:])
        raw = prior.mean[:, None] + prior.log_std.exp()[:, None] * noise
        action = torch.tanh(raw)
        seeds, _, rows, width = action.shape
        states = observation[:, None].expand(-1, count, -1, -1).reshape(seeds, count * rows, -1)
        value = self.targets.values(states, action.reshape(seeds, count * rows, width)).amin(1)
        return raw, value.view(seeds, count, rows)

    def _update_policy(self, observation: Tensor, raw: Tensor, value: Tensor) -> Metrics:
        temperature = self.log_temperature.detach().exp()
        weight = torch.softmax(value / temperature[:, None, None], dim=1)
        policy = self.actor.distribution(observation)
        with torch.no_grad():
            target = self.target_actor.distribution(observation)
        spread = SquashedNormal(policy.mean[:, None], policy.log_std[:, None])
        log_prob = spread.raw_log_prob(raw)
        divergence = losses.gaussian_kl(target, policy).mean(-1)
        price = self.log_weight.detach().exp()
        loss = losses.sampled_likelihood(log_prob, weight) + price * divergence
        descend(loss, self.actor.parameters(), self.adam_policy)
        self._update_duals(value, divergence.detach())
        return {
            "policy_loss": loss.detach(),
            "kl": divergence.detach(),
            "temperature": temperature,
            "beta": price,
        }

    def _update_duals(self, value: Tensor, divergence: Tensor) -> None:
        """Move eta down its dual, and the trust region's price up while it is left."""
        loss = losses.temperature_dual(value, self.log_temperature, self.config.improvement)
        loss = loss + losses.dual_step(self.log_weight, divergence, self.config.trust)
        descend(loss, [self.log_temperature, self.log_weight], self.adam_duals)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("policy", self.actor.state_dict()),
            **weights.nested("target_policy", self.target_actor.state_dict()),
            **weights.nested("critics", self.critics.state_dict()),
            **weights.nested("targets", self.targets.state_dict()),
            **weights.nested("adam_policy", weights.optimiser_state(self.adam_policy)),
            **weights.nested("adam_critics", weights.optimiser_state(self.adam_critics)),
            **weights.nested("adam_duals", weights.optimiser_state(self.adam_duals)),
            **weights.nested("backups", self.backups.state()),
            **weights.nested("samples", self.samples.state()),
            "log_temperature": self.log_temperature.detach(),
            "log_weight": self.log_weight.detach(),
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
        weights.load_optimiser(self.adam_duals, weights.under("adam_duals", state))
        self.backups.load_state(weights.under("backups", state))
        self.samples.load_state(weights.under("samples", state))
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
            self.log_weight.copy_(state["log_weight"])
        self.updates = int(state["updates"])
