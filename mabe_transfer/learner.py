"""What a row becomes when it is built: fitted parts, a policy, and one update of them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mabe_transfer import graphs, weights
from mabe_transfer.batches import at
from mabe_transfer.composition import Algorithm, Imitation
from mabe_transfer.domains import Domain
from mabe_transfer.means import Means
from mabe_transfer.parts import Batch, Data, Metrics, PolicyLearner, Trajectories, unpack
from mabe_transfer.parts.dynamics import EnsembleModel
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import BehaviourPrior
from mabe_transfer.parts.rollouts import RolloutPool, Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import Player, WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.streams import Sizes, Streams

if TYPE_CHECKING:
    from mabe_transfer.imagination import Uncertainty

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """A row's fitted parts and data, on the device."""

    row: Algorithm
    sizes: Sizes
    target: Domain
    real: Tensor  # [N, W], the target domain's transitions; the prior's data where it is the policy
    demonstrated: Tensor | None  # [n, W], the prior's data, where the row has a prior
    model: EnsembleModel | None
    prior: BehaviourPrior | None
    ends: Tensor | None = None  # [N], True on the last of an episode's rows in `real`

    @property
    def data(self) -> Data:
        """What the policy learns from."""
        return Data(self.real, self.ends)


class Learner:
    """S policies learning from one row's parts (MABE Alg. 1).

    Args:
        parts: What was fitted before.
    """

    def __init__(self, parts: Parts) -> None:
        row, sizes = parts.row, parts.sizes
        self.parts = parts
        self.policy = policy(parts)
        if row.start_from_prior:
            assert parts.prior is not None
            self.policy.start_from(parts.prior.policy_state())
        self.pool: RolloutPool | None = None
        self.player: Player | None = None
        self.uncertainty: Uncertainty | None = None
        if parts.model is not None:
            elites = parts.model.elites.shape[1]
            if isinstance(row.rollouts, Rollouts):
                self.pool = RolloutPool(row.rollouts, sizes, parts.target, elites)
            if isinstance(row.rollouts, WholeRollouts):
                self.player = Player(row.rollouts, sizes, parts.target, elites)
            if row.uncertainty is not None:
                self.uncertainty = row.uncertainty.build(parts.model, parts.real, sizes)
        imitates = isinstance(row.policy, Imitation)  # whose batches are those of a prior's fit
        self.sampler = Streams(sizes, "prior/batches" if imitates else "batches")
        self.starter = Streams(sizes, "rollouts/starts")
        self.updates = 0
        self.means = Means()
        self._prepared: int | None = None  # the update that a rollout was last made for

    def prepare(self) -> None:
        """Roll the model out where it is time to, and was not done for the update ahead."""
        due = self.pool is not None and self.updates % self.pool.config.every == 0
        if due and self._prepared != self.updates:
            self.means.add(self._roll_out())
            self._prepared = self.updates

    def step(self) -> Metrics:
        """Take one update, with a rollout before it where one is due."""
        self.prepare()
        metrics = self.policy.learn(self)
        self.means.add(metrics)
        self.updates += 1
        return metrics

    def stretch(self) -> graphs.Stretch:
        """How far the updates ahead are the same: to the next rollout at the most."""
        found = self.policy.stretch()
        if self.pool is None:
            return found
        every = self.pool.config.every
        return found.within(every - self.updates % every, tuple(self.pool.filled.tolist()))

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""
        self.policy.skip(count)
        self.updates += count

    def act(self, observation: Floats) -> Floats:
        """Deterministic actions [S, E, A] at observations [S, E, O]."""
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32))
        return self.policy.act(inputs.to(self.parts.sizes.device)).cpu().numpy()

    def transitions(self) -> Batch:
        """A batch of real transitions and, where the row has a model, of its own."""
        sizes, real, batch = self.parts.sizes, self.parts.real, self.parts.row.batch
        share = 1.0 if self.pool is None else self.pool.config.real_share
        count = round(share * batch)
        parts = []
        picked = None
        if count > 0:
            picked = self.sampler.integers(len(real), count)
            parts.append(at(real, picked))
        if count < batch:
            assert self.pool is not None
            parts.append(self.pool.sample(self.sampler, batch - count))
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return unpack(rows, sizes.observation, sizes.action, real=count, index=picked)

    def trajectories(self) -> Trajectories:
        """New trajectories of the policies as they are now, in their models."""
        assert self.player is not None
        assert self.parts.model is not None
        model, act = self.parts.model, self.policy.act
        return self.player.play(model, act, self._starts(), self.uncertainty)

    def _roll_out(self) -> Metrics:
        assert self.pool is not None
        assert self.parts.model is not None
        model, act = self.parts.model, self.policy.act
        reward = self.pool.fill(model, act, self._starts(), self.uncertainty)
        return {"model_reward": reward}

    def _starts(self) -> Tensor:
        """Start observations [S, B, O]: of D1, and of D2 as far as the row says."""
        rollouts = self.pool or self.player
        assert rollouts is not None
        width, total = self.parts.sizes.observation, rollouts.starts
        share = rollouts.config.prior_start_share
        count = round(share * total) if self.parts.demonstrated is not None else 0
        real = self.parts.real
        starts = real[self.starter.integers(len(real), total - count)][..., :width]
        if count == 0:
            return starts
        other = self.parts.demonstrated
        assert other is not None
        picked = other[self.starter.integers(len(other), count)][..., :width]
        both = torch.cat((starts, picked), 1)
        order = self.sampler.permutation(total)  # so that every elite serves both kinds
        return torch.gather(both, 1, order[..., None].expand_as(both))

    def not_finite(self) -> str | None:
        """The name of something in the state that holds NaN or an infinity, if there is any."""
        return weights.not_finite(self.state())

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        tensors = {
            **weights.nested("policy", self.policy.state()),
            **weights.nested("sampler", self.sampler.state()),
            **weights.nested("starter", self.starter.state()),
            **weights.nested("means", self.means.state()),
        }
        if self.pool is not None:
            tensors |= weights.nested("pool", self.pool.state())
        if self.player is not None:
            tensors |= weights.nested("player", self.player.state())
        return tensors

    def load_state(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Go on from what `state` gave after so many updates."""
        self.updates, self._prepared = updates, None
        self.policy.load_state(weights.under("policy", tensors))
        self.sampler.load_state(weights.under("sampler", tensors))
        self.starter.load_state(weights.under("starter", tensors))
        self.means.load_state(weights.under("means", tensors), self.parts.sizes.device)
        if self.pool is not None:
            self.pool.load_state(weights.under("pool", tensors))
        if self.player is not None:
            self.player.load_state(weights.under("player", tensors))


def policy(parts: Parts) -> PolicyLearner:
    """Build what a row's policy learns by, around the parts that it needs."""
    row, sizes = parts.row, parts.sizes
    match row.policy:
        case Imitation():
            assert parts.prior is not None
            parts.prior.look_at(parts.data)
            return parts.prior
        case Mpo():
            assert parts.prior is not None
            return row.policy.build(sizes, parts.prior)
        case Td3():
            return row.policy.build(sizes, parts.data)
        case Trpo() | Npg():
            return row.policy.build(sizes)
        case Sac():
            assert row.regulariser is not None
            regulariser = row.regulariser.build(sizes, parts.prior)
            critic = None if row.critic is None else row.critic.build(sizes, parts.model)
            return row.policy.build(sizes, regulariser, critic)
