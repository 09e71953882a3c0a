"""Film a policy in a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imageio
import numpy as np

from mabe_transfer import envs
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mabe_transfer.domains import Domain

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Image = np.ndarray[Any, np.dtype[np.uint8]]
FRAMES_PER_S = 25


def film(
    act: Callable[[Floats], Floats], domain: Domain, out: Path, *, steps: int, seed: int
) -> float:
    """Write a video of one policy, starting again where an episode ends.

    Args:
        act: Observation [O] to action [A].
        domain: Where.
        out: An .mp4 file.
        steps: Control steps to film.
        seed: Of the first episode.

    Returns:
        The return of the steps filmed.

    Raises:
        UserError: The file is no .mp4, or nothing can draw on this machine.
        OSError: The file cannot be written.
    """
    if out.suffix != ".mp4":
        raise UserError(f"--out {out}: videos are written as .mp4.")
    out.parent.mkdir(parents=True, exist_ok=True)
    env = envs.make(domain, render_mode="rgb_array")
    every = max(1, round(1.0 / (domain.robot.control_timestep_s * FRAMES_PER_S)))
    partial = out.with_name(f".{out.stem}.partial.mp4")
    total = 0.0
    observation, _ = env.reset(seed=seed)
    try:
        with imageio.get_writer(partial, fps=FRAMES_PER_S, macro_block_size=8) as opened:
            writer: Any = opened
            for step in range(steps):
                action = act(observation).astype(np.float32)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                if step % every == 0:
                    writer.append_data(np.asarray(env.render()))
                if terminated or truncated:
                    observation, _ = env.reset()
        partial.replace(out)
    finally:
        env.close()
        partial.unlink(missing_ok=True)
    return total
