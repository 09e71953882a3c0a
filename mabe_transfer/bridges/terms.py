"""The terms of a reward that others recorded as one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain
    from mabe_transfer.transitions import Doubles, Flags, Floats, Transitions

SPEED_TOLERANCE_M_S = 0.5
"""How far, in the median, a forward term may be from the observed velocities. The mean of a row's
two velocities is off by 0.01 (hopper), 0.29 (halfcheetah) and 0.02 (walker2d) in recordings."""


def names(domain: Domain) -> tuple[str, ...]:
    """The terms that can be told apart in a domain's reward; none if forward counts nothing."""
    weights = domain.weights
    if not domain.robot.native:
        return tuple(weights)
    return tuple(sorted(weights)) if weights["forward"] else ()


def of_rewards(
    domain: Domain,
    actions: Floats,
    rewards: Doubles,
    terminals: Flags,
    displacement: Doubles | None = None,
) -> dict[str, Floats]:
    """Split recorded rewards into their terms, exactly.

    The bonus and the cost follow from the row, and the reward is their weighted sum with the
    forward term, so forward = (reward - weighted rest) / weight. Displacements of float64
    positions are taken where they are known, since a float32 reward has been rounded.

    Args:
        domain: By whose rule the rewards were given.
        actions: [n, A].
        rewards: [n].
        terminals: [n].
        displacement: Of the robot along the track in the step, m; NaN where it is not known, [n].

    Returns:
        Term -> values, each [n]; {} where the terms cannot be told apart.
    """
    if not domain.robot.native:
        return {name: rewards.astype(np.float32) for name in domain.weights}
    if not names(domain):
        return {}
    still = np.zeros(len(rewards))
    terms = domain.reward_terms(still, still, actions.astype(np.float64), terminals)
    weights: dict[str, float] = domain.weights
    rest: Any = sum(weights[name] * terms[name] for name in ("healthy", "control"))
    forward = (rewards - rest) / weights["forward"]
    if displacement is not None:
        robot = domain.robot
        known = robot.reward.forward_per_m_s * (displacement / robot.control_timestep_s)
        forward = np.where(np.isnan(displacement), forward, known)
    found = {**terms, "forward": forward}
    return {name: np.asarray(values, np.float32) for name, values in sorted(found.items())}


def strangeness(domain: Domain, rows: Transitions) -> Doubles:
    """How far the rewards' forward terms are from the observed velocities, m/s, [n].

    Large values say that the rewards were given by another rule than the domain's; clipped rows
    give 0.

    Args:
        domain: By whose rule the rewards are said to be given; its forward term counts.
        rows: As recorded, [n].
    """
    given = rows.rewards.astype(np.float64)
    forward = of_rewards(domain, rows.actions, given, rows.terminals)["forward"]
    axis = rows.observations.shape[1] // 2  # the track's velocity comes first among the velocities
    before = rows.observations[:, axis].astype(np.float64)
    after = rows.next_observations[:, axis].astype(np.float64)
    scale = domain.robot.reward.forward_per_m_s or 1.0
    off = np.abs(forward / scale - (before + after) / 2.0)
    clip = domain.robot.velocity_clip
    seen: Doubles = np.where(np.maximum(np.abs(before), np.abs(after)) < clip, off, 0.0)
    return seen
