"""One step of policies in their learned models: the one place where rollouts meet their rules.

A policy acts, the model answers, the uncertainty is charged for, the target domain's true
termination rule is asked. Pools of short rollouts and whole trajectories are both made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Act = Callable[[Tensor, Tensor], Tensor]
"""Sampled actions [S, B, A] at observations [S, B, O] with normal noise [S, B, A]."""

BLOWN_UP = 100.0
"""A prediction beyond this, in SI units, is no state of a robot; its rollout is dropped."""
NOTHING_LEFT = (
    "Every rollout of the dynamics model blew up at its first step, so there is "
    "nothing to learn from; look at the dynamics' held-out error and at its data."
)


class Model(Protocol):
    """A learned model that samples successors."""

    elites: Tensor

    def step(
        self, observation: Tensor, action: Tensor, noise: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Next observations [S, B, O] and rewards [S, B]."""

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of [change, reward] of every member, both [S, M, B, O + 1]."""


class Rules(Protocol):
    """What the target domain says of observations."""

    def terminated(self, state: Tensor) -> Tensor:
        """Whether the task ends there, [S, B, O] -> booleans [S, B]."""

    def clip(self, observation: Tensor) -> Tensor:
        """Bound what the simulator bounds, [S, B, O] -> [S, B, O]."""


class Uncertainty(Protocol):
    """What a rollout pays for the model's uncertainty, and whether it ends there."""

    def charge(
        self, model: Model, observation: Tensor, action: Tensor, reward: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The reward less its price [S, B], and where the rollout is halted, booleans [S, B]."""


@dataclass(frozen=True, slots=True)
class Imagined:
    """One step of policies in their models."""

    action: Tensor  # [S, B, A]
    after: Tensor  # [S, B, O], where it led; a halted step leads nowhere
    reward: Tensor  # [S, B], as predicted; 0 where the step is halted
    paid: Tensor  # [S, B], less the price of the model's uncertainty
    ended: Tensor  # [S, B], booleans: by the task's rule or by the uncertainty
    halted: Tensor  # [S, B], booleans: by the uncertainty
    sound: Tensor  # [S, B], booleans: a state of a robot, and numbers


def imagine(
    model: Model,
    act: Act,
    rules: Rules,
    uncertainty: Uncertainty | None,
    observation: Tensor,
    noise: Tensor,
    order: Tensor,
) -> Imagined:
    """Take a step from observations [S, B, O] with noise [S, B, A + O] for action and model."""
    actions = noise.shape[-1] - observation.shape[-1]
    action = act(observation, noise[..., :actions])
    after, reward = model.step(observation, action, noise[..., actions:], order)
    paid, halted = reward, torch.zeros_like(reward, dtype=torch.bool)
    if uncertainty is not None:
        paid, halted = uncertainty.charge(model, observation, action, reward)
        after = torch.where(halted[..., None], observation, after)
        reward = torch.where(halted, 0.0, reward)
    sound = (after.abs() < BLOWN_UP).all(-1) & paid.isfinite()  # NaN is below nothing
    after = rules.clip(after)
    return Imagined(action, after, reward, paid, rules.terminated(after) | halted, halted, sound)
