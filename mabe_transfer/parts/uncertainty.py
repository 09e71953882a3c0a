"""What a model rollout pays for the model's uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Predictor(Protocol):
    """A model that tells its members' predictions apart."""

    def predict(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of [change, reward], both [S, M, B, O + 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StdPenalty:
    """MOPO's penalty: weight * max over members of the norm of the predicted deviation.

    MOPO (arXiv 2005.13239) section 5, over all members and over observation and reward; u(s, a) of
    MABE's section 3 with xi = `weight`.
    """

    weight: float = 1.0

    def penalty(self, model: Predictor, observation: Tensor, action: Tensor) -> Tensor:
        """What to subtract from the predicted reward, [S, B]."""
        _, std = model.predict(observation, action)
        widest: Tensor = std.norm(dim=-1).amax(1)
        return self.weight * widest


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """Disagreement: weight * max over members of |mean - mean of means| of the next observation.

    A variant of MOPO's penalty, over all members, in the observation's raw units; the reward is
    left out. MOReL (arXiv 2005.05951) measures between pairs of members instead, which is at most
    twice this and never less. It needs weights of its own: it does not see noise.
    """

    weight: float = 1.0

    def penalty(self, model: Predictor, observation: Tensor, action: Tensor) -> Tensor:
        """What to subtract from the predicted reward, [S, B]."""
        mean = model.predict(observation, action)[0][..., :-1]
        farthest: Tensor = (mean - mean.mean(1, keepdim=True)).norm(dim=-1).amax(1)
        return self.weight * farthest
