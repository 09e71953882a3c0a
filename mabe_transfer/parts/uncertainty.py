"""What a model rollout pays for the model's uncertainty, and where it is halted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from mabe_transfer.imagination import Model, Moments
    from mabe_transfer.streams import Sizes

CHUNK = 10_000  # transitions whose discrepancy is measured at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class StdPenalty:
    """MOPO's penalty: weight * max over members of the norm of the predicted deviation.

    MOPO (arXiv 2005.13239) section 5, over all members and over observation and reward; u(s, a) of
    MABE's section 3 with xi = `weight`.

    Attributes:
        weight: Reward paid for each unit of it, xi.
    """

    weight: float = 1.0

    def build(self, model: Model, rows: Tensor, sizes: Sizes) -> StdPenalty:
        """Give itself: nothing of it depends on the data."""
        del model, rows, sizes
        return self

    def penalty(self, predicted: Moments) -> Tensor:
        """What to subtract from the predicted reward, [S, B]."""
        _, std = predicted
        widest: Tensor = std.norm(dim=-1).amax(1)
        return self.weight * widest

    def charge(self, predicted: Moments, reward: Tensor) -> tuple[Tensor, Tensor]:
        """The reward less the penalty [S, B]; no rollout is halted."""
        return _unhalted(reward - self.penalty(predicted))


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """Disagreement: weight * max over members of |mean - mean of means| of the next observation.

    A variant of MOPO's penalty, over all members, in the observation's raw units; the reward is
    left out. MOReL (arXiv 2005.05951) measures between pairs of members instead, which is at most
    twice this and never less. It needs weights of its own: it does not see noise.
    """

    weight: float = 1.0

    def build(self, model: Model, rows: Tensor, sizes: Sizes) -> Disagreement:
        """Give itself: nothing of it depends on the data."""
        del model, rows, sizes
        return self

    def penalty(self, predicted: Moments) -> Tensor:
        """What to subtract from the predicted reward, [S, B]."""
        mean = predicted[0][..., :-1]
        farthest: Tensor = (mean - mean.mean(1, keepdim=True)).norm(dim=-1).amax(1)
        return self.weight * farthest

    def charge(self, predicted: Moments, reward: Tensor) -> tuple[Tensor, Tensor]:
        """The reward less the penalty [S, B]; no rollout is halted."""
        return _unhalted(reward - self.penalty(predicted))


@dataclass(frozen=True, kw_only=True, slots=True)
class Halt:
    """MOReL's pessimism: where the members disagree, the rollout ends and is punished.

    MOReL (arXiv 2005.05951) section 4: the unknown state-action detector is the largest distance
    between two members' predicted successors; beyond a threshold the pair is unknown. All members
    vote, elites or not.

    Differs from print: the step that leaves the known is itself rewarded with the data's smallest
    reward less `penalty`, once, where print pays it in an absorbing state after that step; the
    threshold is measured on at most `sample` transitions, evenly spaced in D1. Distances are in the
    observation's own units, as in print.

    Attributes:
        penalty: Kappa: how far the reward at a halt lies below the smallest reward of D1.
        scale: Factor of the threshold.
        quantile: The threshold is this quantile of the distances on D1; 1 is their largest, as in
            print.
        sample: Transitions that the threshold is measured on, at the most.
    """

    penalty: float = 50.0
    scale: float = 1.0
    quantile: float = 1.0
    sample: int = 100_000

    def __post_init__(self) -> None:
        """Refuse a quantile that is none, and a negative scale."""
        if not 0.0 <= self.quantile <= 1.0:
            raise UserError(f"uncertainty.quantile must lie in 0..1, not {self.quantile}.")
        if self.scale < 0.0:
            raise UserError(f"uncertainty.scale must not be negative, not {self.scale}.")
        if self.sample < 1:
            raise UserError(f"uncertainty.sample must be at least 1, not {self.sample}.")

    def build(self, model: Model, rows: Tensor, sizes: Sizes) -> Detector:
        """Measure the threshold of every seed's model on packed transitions [N, W] of D1."""
        first, second = sizes.observation, sizes.observation + sizes.action
        known = rows[:: -(-len(rows) // self.sample), :second].expand(sizes.stack, -1, -1)
        distance = torch.cat(
            [
                disagreement(model.predict(part[..., :first], part[..., first:]))
                for part in torch.split(known, CHUNK, dim=1)
            ],
            dim=1,
        )
        # The largest is no interpolation, and `quantile` takes 16 million numbers at the most.
        threshold = (
            distance.amax(1) if self.quantile == 1.0 else distance.quantile(self.quantile, dim=1)
        )
        return Detector(self.scale * threshold, float(rows[:, second].min()) - self.penalty)


@dataclass(frozen=True, slots=True)
class Detector:
    """MOReL's unknown state-action detector (USAD), with what a halt is rewarded."""

    threshold: Tensor  # [S]
    reward: float

    def charge(self, predicted: Moments, reward: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards [S, B], and where the pair is unknown; what is no number is unknown as well."""
        known = disagreement(predicted) <= self.threshold[:, None]
        return torch.where(known, reward, self.reward), ~known


def disagreement(predicted: Moments) -> Tensor:
    """Largest distance between two members' predicted successors, [S, M, B, O + 1] -> [S, B].

    max over i, j of || f_i(s, a) - f_j(s, a) ||, over the observation and not the reward.
    """
    mean, _ = predicted
    members = mean[..., :-1].transpose(1, 2)  # [S, B, M, O]
    apart = torch.cdist(members, members, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.amax((-1, -2))


def _unhalted(reward: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards with no rollout halted."""
    return reward, torch.zeros_like(reward, dtype=torch.bool)
