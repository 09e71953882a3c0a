"""Choose how MuJoCo draws without a screen, before anything loads its graphics.

MuJoCo, Gymnasium and dm_control all read the environment variable `MUJOCO_GL` once. If the user
has not set it, each back end is tried in a process of its own, since a failed attempt would stay
loaded in this one: EGL (a GPU, or Mesa with a device), then OSMesa (any CPU).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from mabe_transfer.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "MUJOCO_GL"
BACK_ENDS = ("egl", "osmesa")
RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")
TIMEOUT_S = 60.0
_ATTEMPT = """
import mujoco
from mujoco.{back_end} import GLContext
context = GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""


def prepare(render_mode: str | None, modes: Sequence[str] = RENDER_MODES) -> None:
    """Make off-screen drawing work, if a render mode asks for it.

    Args:
        render_mode: How Gymnasium is to draw; None for not at all.
        modes: The modes that the environment knows.

    Raises:
        UserError: There is no such mode, or neither EGL nor OSMesa works on this machine.
    """
    if render_mode is not None and render_mode not in modes:
        raise unknown("render_mode", render_mode, modes)
    if render_mode in (None, "human") or VARIABLE in os.environ or sys.platform != "linux":
        return
    back_end = next((name for name in BACK_ENDS if works(name, os.environ)), None)
    if back_end is None:
        raise UserError(
            "Frames cannot be drawn here: neither EGL nor OSMesa works; install one, for example "
            "with: apt-get install libegl1 libosmesa6"
        )
    os.environ[VARIABLE] = back_end


def works(back_end: str, environment: Mapping[str, str]) -> bool:
    """Whether MuJoCo can draw with a back end, tried in a process with that environment."""
    try:
        attempt = subprocess.run(
            [sys.executable, "-c", _ATTEMPT.format(back_end=back_end)],
            env={**environment, VARIABLE: back_end},
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False
    return attempt.returncode == 0
