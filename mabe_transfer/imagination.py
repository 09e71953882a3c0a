"""One step of policies in their learned models: the one place where rollouts meet their rules.

A policy acts, the model answers, the uncertainty is charged for, the target domain's true
termination rule is asked. Pools of short rollouts and whole trajectories are both made of it.

The successor is drawn from one elite's Gaussian, the reward is its mean, deterministic as MABE's
section 4 has it. Where nothing is paid for uncertainty, one elite is all that is asked.
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


Moments = tuple[Tensor, Tensor]
"""Means and deviations of a predicted [change of observation, reward], in their own units."""


class Model(Protocol):
    """An ensemble that predicts what a step changes and what it is rewarded with.

    Attributes:
        elites: The members that serve transitions, [S, E].
    """

    elites: Tensor

    def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> Moments:
        """Moments [S, B, O + 1] by members [S, G], each of an equal group of the batch."""

    def predict(self, observation: Tensor, action: Tensor) -> Moments:
        """Moments of every member, [S, M, B, O + 1]."""


class Rules(Protocol):
    """What the target domain says of observations."""

    def terminated(self, state: Tensor) -> Tensor:
        """Whether the task ends there, [S, B, O] -> booleans [S, B]."""

    def clip(self, observation: Tensor) -> Tensor:
        """Bound what the simulator bounds, [S, B, O] -> [S, B, O]."""


class Uncertainty(Protocol):
    """What a rollout pays for the model's uncertainty, and whether it ends there."""

    def charge(self, predicted: Moments, reward: Tensor) -> tuple[Tensor, Tensor]:
        """The reward less its price [S, B], and where the rollout is halted, booleans [S, B].

        Args:
            predicted: By every member, [S, M, B, O + 1].
            reward: As the elites predict it, [S, B].
        """


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
    """Take a step from observations [S, B, O] with noise [S, B, A + O] for action and model.

    Args:
        model: Of the target's world.
        act: How the policies act.
        rules: The target domain's.
        uncertainty: What is paid for it, if it is.
        observation: Where the step begins; B is a multiple of the number of elites.
        noise: Standard normal numbers.
        order: Which elite serves which group of the batch, [S, E].
    """
    width = observation.shape[-1]
    action = act(observation, noise[..., :-width])
    chosen = torch.gather(model.elites, 1, order)
    if uncertainty is None:
        mean, std = model.ask(observation, action, chosen)
        reward = paid = mean[..., -1]
        halted = torch.zeros_like(reward, dtype=torch.bool)
    else:
        predicted = model.predict(observation, action)
        mean, std = (_served(moment, chosen) for moment in predicted)
        paid, halted = uncertainty.charge(predicted, mean[..., -1])
        reward = torch.where(halted, 0.0, mean[..., -1])
    after = observation + mean[..., :-1] + std[..., :-1] * noise[..., -width:]
    after = torch.where(halted[..., None], observation, after)
    sound = (after.abs() < BLOWN_UP).all(-1) & paid.isfinite()  # NaN is below nothing
    after = rules.clip(after)
    return Imagined(action, after, reward, paid, rules.terminated(after) | halted, halted, sound)


def _served(moment: Tensor, members: Tensor) -> Tensor:
    """Of every member's [S, M, B, D], what members [S, G] say of their groups, [S, B, D]."""
    batch, width = moment.shape[2:]
    rows = members.repeat_interleave(batch // members.shape[1], 1)[:, None, :, None]
    return moment.gather(1, rows.expand(-1, 1, -1, width)).squeeze(1)
