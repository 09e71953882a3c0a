"""Whole trajectories of the policy in the learned model, for rows that learn on-policy.

BREMEN (arXiv 2006.03647) Alg. 1 and MOReL (arXiv 2005.05951) Alg. 2: from states of the data, up to
H steps of policy and model, made anew for every step of the policy.

Differs from print: a trajectory starts from any state of the data, where MOReL's and BREMEN's start
from the first ones of episodes; each step is served by an elite, changed at random, as are BREMEN's
steps, while MOReL keeps one member for a trajectory; the reward is learned with the dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabe_transfer.errors import UserError
from mabe_transfer.imagination import NOTHING_LEFT, Act, Model, Rules, Uncertainty, imagine
from mabe_transfer.parts import Trajectories
from mabe_transfer.streams import Sizes, Streams


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeRollouts:
    """How an on-policy row uses the model: new trajectories for every step of the policy.

    Differs from print: 10,000 transitions a step, in trajectories that are cut after 50 steps and
    valued from there by the baseline. Print starts where episodes start and so must play them to
    the end: MOReL 25,000 a step, in trajectories of 500 or more, BREMEN 50,000, in ones of 250 on
    half cheetah and of 1,000 elsewhere. From any state of the data, short ones meet all of the
    task, and the model's errors have less time to add up.

    Attributes:
        horizon: Steps of a trajectory at the most, H; it is cut there, not ended.
        starts: Trajectories of a step, for each seed.
        sampled: Whether successors are drawn from the members' Gaussians, or are their means, as
            BREMEN and MOReL have it.
        prior_start_share: Share of trajectories that start from states of the prior's data (D2).
    """

    horizon: int = 50
    starts: int = 200
    sampled: bool = False
    prior_start_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse counts below one and a share that is none."""
        for name in ("horizon", "starts"):
            if getattr(self, name) < 1:
                raise UserError(f"rollouts.{name} must be at least 1, not {getattr(self, name)}.")
        if not 0.0 <= self.prior_start_share <= 1.0:
            raise UserError(
                f"rollouts.prior_start_share must lie in 0..1, not {self.prior_start_share}."
            )


class Player:
    """Plays whole trajectories of S policies in their models.

    All random numbers of a call are drawn before its first step, so that a seed's do not depend on
    how long the trajectories of the others last.

    Args:
        config: How many there are.
        sizes: Seeds and widths.
        rules: The target domain's.
        elites: Number of elites, of which the number of starts is made a multiple.
    """

    def __init__(self, config: WholeRollouts, sizes: Sizes, rules: Rules, elites: int) -> None:
        self.config, self.sizes, self.rules = config, sizes, rules
        self.starts = max(elites, config.starts // elites * elites)
        self._streams = Streams(sizes, "trajectories")

    def play(
        self, model: Model, act: Act, starts: Tensor, uncertainty: Uncertainty | None
    ) -> Trajectories:
        """Play from start observations [S, B, O] to the last end, or to the horizon.

        Raises:
            UserError: All trajectories of a seed left the robot's states at once.
        """
        noise, orders = self._draw(starts.shape[1], model.elites.shape[1])
        observations, steps, lives = [starts], [], []
        alive = torch.ones(starts.shape[:2], dtype=torch.bool, device=starts.device)
        for drawn, order in zip(noise, orders, strict=True):
            step = imagine(model, act, self.rules, uncertainty, observations[-1], drawn, order)
            alive = alive & step.sound
            observations.append(torch.where(alive[..., None], step.after, observations[-1]))
            steps.append(step)
            lives.append(alive)
            alive = alive & ~step.ended
            if not bool(alive.any()):
                break
        if not bool(lives[0].any(-1).all()):
            raise UserError(NOTHING_LEFT)
        taken = torch.stack(lives, 1)
        predicted = torch.stack([step.reward for step in steps], 1)
        halted = torch.stack([step.halted for step in steps], 1) & taken
        metrics = {
            "model_return": torch.where(taken, predicted, 0.0).sum(1).mean(-1),
            "model_length": taken.sum(1).float().mean(-1),
        }
        if uncertainty is not None:
            metrics["halted"] = halted.any(1).float().mean(-1)
        return Trajectories(
            torch.stack(observations, 1),
            torch.stack(list(noise[: len(steps)]), 1)[..., : self.sizes.action],
            torch.where(taken, torch.stack([step.paid for step in steps], 1), 0.0),
            torch.stack([step.ended for step in steps], 1).float(),
            taken,
            metrics,
        )

    def _draw(self, batch: int, elites: int) -> tuple[Tensor, Tensor]:
        """Noise of every step, [H, S, B, A + O], and which elite serves whom, [H, S, elites]."""
        horizon, actions = self.config.horizon, self.sizes.action
        noise = self._streams.normal(horizon, batch, actions + self.sizes.observation)
        if not self.config.sampled:
            noise = noise * (torch.arange(noise.shape[-1], device=noise.device) < actions)
        orders = torch.stack([self._streams.permutation(elites) for _ in range(horizon)])
        return noise.transpose(0, 1), orders

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return self._streams.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._streams.load_state(state)
