"""Short rollouts of the policy in the learned model, and the pool that keeps them.

MABE Alg. 1 l. 4-6: from states of the data, h steps of policy and model. A rollout ends where the
true termination rule says so; the pool forgets rollouts of old policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabe_transfer import weights
from mabe_transfer.batches import at
from mabe_transfer.errors import UserError
from mabe_transfer.imagination import NOTHING_LEFT, Act, Model, Rules, Uncertainty, imagine
from mabe_transfer.streams import Sizes, Streams


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """How the model is used; defaults are MOPO's.

    Attributes:
        horizon: Steps of a rollout, h.
        starts: Rollouts made at a time, for each seed.
        every: Policy updates between two times.
        kept: Times whose rollouts are kept, the newest ones; where rollouts end early, older ones
            stay in what room is left.
        real_share: Share of real transitions in a batch.
        prior_start_share: Share of rollouts that start from states of the prior's data (D2),
            stepped by the target's model (D1). 0 is the paper's form.
    """

    horizon: int = 5
    starts: int = 50_000
    every: int = 1_000
    kept: int = 5
    real_share: float = 0.05
    prior_start_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse counts below one and shares that are none."""
        for name in ("horizon", "starts", "every", "kept"):
            if getattr(self, name) < 1:
                raise UserError(f"rollouts.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("real_share", "prior_start_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"rollouts.{name} must lie in 0..1, not {getattr(self, name)}.")


class RolloutPool:
    """The newest model transitions of S seeds, packed like data: [S, capacity, W].

    Args:
        config: How many there are.
        sizes: Seeds and widths.
        rules: The target domain's.
        elites: Number of elites, of which the number of starts is made a multiple.
    """

    def __init__(self, config: Rollouts, sizes: Sizes, rules: Rules, elites: int) -> None:
        self.config, self.sizes, self.rules = config, sizes, rules
        self.starts = max(elites, config.starts // elites * elites)
        width = 2 * sizes.observation + sizes.action + 2
        self.capacity = self.starts * config.horizon * config.kept
        self.rows = torch.zeros(sizes.stack, self.capacity, width, device=sizes.device)
        self.filled = torch.zeros(sizes.stack, dtype=torch.int64)
        self._next = torch.zeros(sizes.stack, dtype=torch.int64)
        self._first = self.capacity * torch.arange(sizes.stack, device=sizes.device)[:, None]
        self._streams = Streams(sizes, "rollouts")

    def fill(
        self, model: Model, act: Act, starts: Tensor, uncertainty: Uncertainty | None
    ) -> Tensor:
        """Roll the policy out from start observations [S, B, O] and keep what it met.

        Returns:
            Mean predicted reward of what was kept, before any penalty and without halts, [S].
        """
        sizes = self.sizes
        observation = starts
        alive = torch.ones(starts.shape[:2], dtype=torch.bool, device=sizes.device)
        total = torch.zeros(sizes.stack, device=sizes.device)
        count = torch.zeros(sizes.stack, device=sizes.device)
        for _ in range(self.config.horizon):
            noise = self._streams.normal(observation.shape[1], sizes.action + sizes.observation)
            order = self._streams.permutation(model.elites.shape[1])
            step = imagine(model, act, self.rules, uncertainty, observation, noise, order)
            alive &= step.sound
            total += torch.where(alive, step.reward, 0.0).sum(-1)
            count += (alive & ~step.halted).sum(-1)
            columns = (
                observation,
                step.action,
                step.paid[..., None],
                step.after,
                step.ended[..., None].float(),
            )
            self._keep(torch.cat(columns, -1), alive)
            alive &= ~step.ended
            observation = torch.where(alive[..., None], step.after, observation)
        return total / count.clamp_min(1.0)

    def sample(self, streams: Streams, count: int) -> Tensor:
        """Kept transitions chosen at random, [S, count, W].

        Raises:
            UserError: A seed's pool is empty, since the model left the robot's states at once.
        """
        filled = self.filled.tolist()
        if not all(filled):
            raise UserError(NOTHING_LEFT)
        rows = streams.integers(filled, count) + self._first
        return at(self.rows.flatten(0, 1), rows)

    def _keep(self, packed: Tensor, alive: Tensor) -> None:
        for seed, (rows, keep) in enumerate(zip(packed, alive, strict=True)):
            kept = rows if bool(keep.all()) else rows[keep]
            start, space = int(self._next[seed]), self.capacity
            first = min(len(kept), space - start)
            self.rows[seed, start : start + first] = kept[:first]
            self.rows[seed, : len(kept) - first] = kept[first:]
            self._next[seed] = (start + len(kept)) % space
            self.filled[seed] = min(space, int(self.filled[seed]) + len(kept))

    def state(self) -> dict[str, Tensor]:
        """The pool and its streams; only what is filled."""
        return {
            "rows": self.rows[:, : int(self.filled.max())],
            "filled": self.filled,
            "next": self._next,
            **weights.nested("streams", self._streams.state()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        rows = state["rows"]
        self.rows[:, : rows.shape[1]] = rows.to(self.rows.device)
        self.filled, self._next = state["filled"].clone(), state["next"].clone()
        self._streams.load_state(weights.under("streams", state))
