"""Reference returns of a domain: what 0 and 100 of its normalised score mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mabe_transfer import evaluate
from mabe_transfer.behaviour import Policy, RandomPolicy
from mabe_transfer.ladders import ladder
from mabe_transfer.progress import Work
from mabe_transfer.worlds import world

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


def measure(domain: Domain, *, episodes: int, seed: int) -> str:
    """Play a random and the expert policy of a domain, and write what they earn as TOML.

    The expert is the best rung of the domain's own ladder, acting by its mode.
    """
    expert = ladder(domain)
    with Work(f"Measuring {domain.name}", 2, "policies") as work:
        random = play(domain, RandomPolicy(), episodes=episodes, seed=seed, noisy=True)
        work.advance(1, f"random {random.mean():.1f}")
        best = play(domain, expert.policy(expert.expert), episodes=episodes, seed=seed)
        work.advance(1, f"expert {best.mean():.1f}")
    return "\n".join(
        (
            f"# in envs/robots/{domain.robot.name}.toml",
            f'[references."{domain.suffix}"]',
            f"random = {random.mean():.2f}",
            f"expert = {best.mean():.2f}",
            f"random_std = {random.std():.2f}",
            f"expert_std = {best.std():.2f}",
            f"episodes = {episodes}",
            f'engine = "mujoco {mujoco.__version__}"',
            f'command = "mabe-transfer envs reference {domain.name} --episodes {episodes} '
            f'--seed {seed}"',
        )
    )


def play(
    domain: Domain, policy: Policy, *, episodes: int, seed: int, noisy: bool = False
) -> Floats:
    """Returns of a behaviour policy's episodes in a domain, its own or another, [episodes].

    Args:
        domain: Where.
        policy: Who acts.
        episodes: How many.
        seed: Of the first episode; the next adds 1.
        noisy: Whether actions are sampled; the mode otherwise.
    """
    generator = np.random.default_rng(seed)
    simulation = world(domain, episodes)

    def act(observation: Floats) -> Floats:
        shape = (observation.shape[1], simulation.action_size)
        noise = generator.standard_normal(shape) if noisy else np.zeros(shape)
        return policy.act(observation[0], noise)[None]

    found, _ = evaluate.returns(act, simulation, groups=1, seed=seed)
    simulation.close()
    returns: Floats = found[0]
    return returns
