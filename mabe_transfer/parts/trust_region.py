"""Natural policy gradients in the learned model: TRPO with its line search, and the plain NPG.

TRPO (Schulman et al. 2015, arXiv 1502.05477) optimises BREMEN, NPG (Kakade 2001, in the normalised
form of arXiv 1703.02660) MOReL. Both take the same direction, F^-1 g for the policy gradient g and
the Fisher matrix F; they differ in how far they go along it. A step takes new trajectories, all
seeds at once, each with its own conjugate gradients and its own line search.

Differs from print: the policy is this project's squashed Gaussian, with a log std that depends on
the state; print has a plain Gaussian, clipped by the environment, with one log std for all states.
Divergence and density ratio do not change under the squash, so that both are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import advantages, losses, natural, weights
from mabe_transfer.baseline import Baseline
from mabe_transfer.errors import UserError
from mabe_transfer.graphs import NEVER, Stretch
from mabe_transfer.networks import Actor
from mabe_transfer.squashed import LOG_STD_BOUNDS, SquashedNormal

if TYPE_CHECKING:
    from mabe_transfer.parts import Experience, Metrics, Trajectories
    from mabe_transfer.streams import Sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Solver:
    """How the natural gradient is solved for.

    Attributes:
        iterations: Of conjugate gradients, at the most.
        damping: Added to the Fisher matrix's diagonal.
        every: Every so many-th step of a trajectory enters the Fisher matrix.
    """

    iterations: int = 10
    damping: float = 0.1
    every: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Trpo:
    """The longest step within a trust region that improves; delta and deviation are BREMEN's.

    Attributes:
        hidden: Widths of the policy's hidden layers.
        delta: Largest mean divergence of a step, in nats.
        tries: Steps that the line search tries, the longest first.
        shrink: Factor between one try and the next. The longest often exceeds delta by little.
        initial_std: The policies' standard deviation at the start, before the squash, also where
            their means start as the prior's.
        solver: How the direction is found.
        baseline: What the advantages are measured against.
    """

    hidden: tuple[int, ...] = (256, 256)
    delta: float = 0.05
    tries: int = 10
    shrink: float = 0.8
    initial_std: float = 0.1
    solver: Solver = Solver()
    baseline: Baseline = Baseline()

    def __post_init__(self) -> None:
        """Refuse a standard deviation that no policy can have."""
        _check_std(self.initial_std)

    def build(self, sizes: Sizes) -> TrustRegionLearner:
        """Make the learner."""
        return TrustRegionLearner(self, sizes)

    def reach(self, improvement: Tensor, curvature: Tensor) -> Tensor:
        """Length along x at which the quadratic divergence is delta: sqrt(2 delta / x'Fx), [S]."""
        del improvement
        return (2.0 * self.delta / curvature.clamp_min(1e-20)).sqrt()

    def fractions(self) -> list[float]:
        """Parts of that length to try, in this order."""
        return [self.shrink**attempt for attempt in range(self.tries)]

    def accepts(self, gain: Tensor, divergence: Tensor) -> Tensor:
        """Whether a try is taken: it improves and stays in the trust region, booleans [S]."""
        return (gain > 0.0) & (divergence <= self.delta)


@dataclass(frozen=True, kw_only=True, slots=True)
class Npg:
    """A step of a given length in the Fisher metric, without a line search; MOReL's numbers.

    Attributes:
        hidden: Widths of the policy's hidden layers.
        step: Normalised step: g'x times the squared length; about twice the divergence in nats.
        initial_std: The policies' standard deviation at the start, before the squash, also where
            their means start as the prior's.
        solver: How the direction is found.
        baseline: What the advantages are measured against.
    """

    hidden: tuple[int, ...] = (256, 256)
    step: float = 0.02
    initial_std: float = 0.78
    solver: Solver = Solver(iterations=25, damping=1e-3)
    baseline: Baseline = Baseline(discount=0.999, trace=0.97)

    def __post_init__(self) -> None:
        """Refuse a standard deviation that no policy can have."""
        _check_std(self.initial_std)

    def build(self, sizes: Sizes) -> TrustRegionLearner:
        """Make the learner."""
        return TrustRegionLearner(self, sizes)

    def reach(self, improvement: Tensor, curvature: Tensor) -> Tensor:
        """Length along x: sqrt(step / g'x), [S]."""
        del curvature
        return (self.step / improvement.clamp_min(1e-20)).sqrt()

    def fractions(self) -> list[float]:
        """One try, the whole length."""
        return [1.0]

    def accepts(self, gain: Tensor, divergence: Tensor) -> Tensor:
        """Whatever comes of it, booleans [S]."""
        del divergence
        return torch.ones_like(gain, dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class Steps:
    """What the old policies did at N steps, as a new one is measured by it."""

    observation: Tensor  # [S, N, O]
    policy: SquashedNormal  # the old one there, without gradient
    raw: Tensor  # [S, N, A], actions before the squash
    advantage: Tensor  # [S, N], standardised
    alive: Tensor  # [S, N], booleans: which of the N count

    def measure(self, actor: Actor) -> tuple[Tensor, Tensor]:
        """Surrogate objective and mean divergence KL(old || new), both [S]."""
        policy = actor.distribution(self.observation)
        ratio = (_density(policy, self.raw) - _density(self.policy, self.raw)).exp()
        divergence = losses.gaussian_kl(self.policy, policy)
        return (
            advantages.surrogate(ratio, self.advantage, self.alive),
            advantages.masked_mean(divergence, self.alive),
        )


class TrustRegionLearner:
    """S policies, the baselines of their values, and how they step."""

    def __init__(self, config: Trpo | Npg, sizes: Sizes) -> None:
        self.config = config
        self.actor = Actor(sizes, config.hidden, "policy")
        self.baseline = config.baseline.build(sizes)
        self._reset_std()

    def act(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions at [S, B, O]: the mode, or a sample where noise [S, B, A] is given."""
        with torch.no_grad():
            policy = self.actor.distribution(observation)
            return policy.mode() if noise is None else policy.sample(noise).action()

    def start_from(self, prior: dict[str, Tensor]) -> None:
        """Take the means of a fitted prior, with the standard deviation of a start.

        BREMEN (arXiv 2006.03647) section 4: behaviour cloning gives the mean, and the deviation is
        reset, since the data's own leaves nothing to explore.
        """
        self.actor.load_state_dict(prior)
        self._reset_std()

    def policy_state(self) -> dict[str, Tensor]:
        """The policies' tensors."""
        return dict(self.actor.state_dict())

    def stretch(self) -> Stretch:
        """Each step is taken by itself: it asks how far it may go."""
        return NEVER

    def skip(self, count: int) -> None:
        """Nothing is counted."""

    def learn(self, experience: Experience) -> Metrics:
        """Take one step on new trajectories, then fit the baselines to them."""
        data = experience.trajectories()
        advantage, target = self.baseline.judge(
            data.observation, data.reward, data.terminal, data.alive
        )
        metrics = self._step(data, advantage)
        metrics["value_error"] = self.baseline.fit(data.observation[:, :-1], target, data.alive)
        return data.metrics | metrics

    def _step(self, data: Trajectories, advantage: Tensor) -> Metrics:
        """Move every policy along its natural gradient, as far as its row goes."""
        steps, solver = self._steps(data, advantage), self.config.solver
        objective, _ = steps.measure(self.actor)
        gradient = natural.flat(torch.autograd.grad(objective.sum(), list(self.actor.parameters())))
        thinned = slice(None, -1, solver.every)
        states, alive = data.observation[:, thinned], data.alive[:, :: solver.every]
        product = natural.fisher_product(
            self.actor, states.flatten(1, 2), alive.flatten(1, 2), solver.damping
        )
        along = natural.conjugate_gradient(product, gradient, solver.iterations)
        improvement, curvature = (gradient * along).sum(-1), (along * product(along)).sum(-1)
        longest = self.config.reach(improvement, curvature)[:, None] * along
        return self._search(steps, objective.detach(), longest)

    @torch.no_grad()
    def _search(self, steps: Steps, before: Tensor, longest: Tensor) -> Metrics:
        """Shorten every seed's step until it is accepted; one that never is stays where it was."""
        start = natural.flat(self.actor.parameters())
        taken, done = start, torch.zeros_like(before, dtype=torch.bool)
        gain, divergence, tries = (torch.zeros_like(before) for _ in range(3))
        for fraction in self.config.fractions():
            natural.assign(
                self.actor, torch.where(done[:, None], taken, start + fraction * longest)
            )
            objective, distance = steps.measure(self.actor)
            tries += ~done
            good = ~done & self.config.accepts(objective - before, distance)
            taken = torch.where(good[:, None], start + fraction * longest, taken)
            gain = torch.where(good, objective - before, gain)
            divergence = torch.where(good, distance, divergence)
            done = done | good
            if bool(done.all()):
                break
        natural.assign(self.actor, taken)
        std = advantages.masked_mean(steps.policy.log_std.exp().mean(-1), steps.alive)
        return {"kl": divergence, "gain": gain, "tries": tries, "stepped": done.float(), "std": std}

    @torch.no_grad()
    def _steps(self, data: Trajectories, advantage: Tensor) -> Steps:
        """Lay the trajectories' steps side by side, [S, H, B] -> [S, N]."""
        observation = data.observation[:, :-1].flatten(1, 2)
        policy = self.actor.distribution(observation)
        raw = policy.mean + policy.log_std.exp() * data.noise.flatten(1, 2)
        alive, flat = data.alive.flatten(1, 2), advantage.flatten(1, 2)
        centred = flat - advantages.masked_mean(flat, alive)[:, None]
        spread = advantages.masked_mean(centred.square(), alive).sqrt()
        return Steps(observation, policy, raw, centred / (spread[:, None] + 1e-8), alive)

    @torch.no_grad()
    def _reset_std(self) -> None:
        """Give every state the standard deviation of a start, through the last layer."""
        low, high = LOG_STD_BOUNDS
        share = 2.0 * (math.log(self.config.initial_std) - low) / (high - low) - 1.0
        weight, bias = self.actor.body.weights[-1], self.actor.body.biases[-1]
        half = weight.shape[-1] // 2
        weight[..., half:] = 0.0
        bias[..., half:] = math.atanh(share)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("policy", self.actor.state_dict()),
            **weights.nested("baseline", self.baseline.state()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.actor.load_state_dict(weights.under("policy", state))
        self.baseline.load_state(weights.under("baseline", state))


def _density(policy: SquashedNormal, raw: Tensor) -> Tensor:
    """Log density of actions before the squash, up to a constant, [S, N, A] -> [S, N]."""
    z = (raw - policy.mean) * torch.exp(-policy.log_std)
    return (-0.5 * z.square() - policy.log_std).sum(-1)


def _check_std(std: float) -> None:
    low, high = (math.exp(bound) for bound in LOG_STD_BOUNDS)
    if not low < std < high:
        raise UserError(f"policy.initial_std must lie between {low:.4f} and {high:.2f}, not {std}.")
