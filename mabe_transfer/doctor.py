"""What this machine has, what of it is known to be wrong, and what to do about each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mujoco
import torch

from mabe_transfer import offscreen
from mabe_transfer.bridges import d4rl, minari
from mabe_transfer.errors import UserError
from mabe_transfer.library import data_root

OK, NOTE, BROKEN = "ok", "note", "broken"

KNOWN_BAD = {"4.0.0": "its Newton solver has a wrong Hessian (mended in 4.0.1)"}
"""Releases of MuJoCo that simulate wrongly, with what is wrong."""
MUJOCO_RANGE = ((3, 17), (4, 0))  # from, below
PYTHON_FROM = (3, 11)
FREE_NEEDED_GIB, FREE_WANTED_GIB = 1, 10
# Extra -> the packages it brings and what they are for.
EXTRAS = {
    "minari": (("minari",), "names such as minari:mujoco/hopper/medium-v0, and data export"),
    "cloud": (("obstore",), "datasets in object stores"),
    "onnx": (("onnx", "onnxruntime"), "policies as ONNX"),
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        found: What was found.
        state: `OK`, `NOTE` (something optional is missing) or `BROKEN` (something necessary is).
        advice: What to do; empty where nothing is to be done.
    """

    what: str
    found: str
    state: str = OK
    advice: str = ""


def examine() -> list[Diagnosis]:
    """Look at everything, from the necessary to the optional."""
    return [
        _python(sys.version_info[:2]),
        Diagnosis("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        _device(),
        _bfloat16(),
        engine(mujoco.__version__),
        _suite(),
        _rendering(),
        _folder("data folder ($MABE_TRANSFER_DATA)", data_root()),
        _folder("run folder", Path("runs")),
        _recordings(),
        *(_extra(name) for name in EXTRAS),
    ]


def engine(found: str) -> Diagnosis:
    """Judge a release of MuJoCo."""
    if found in KNOWN_BAD:
        return Diagnosis(
            "mujoco", f"{found}: {KNOWN_BAD[found]}", BROKEN, "pip install 'mujoco>=3.17,<4'"
        )
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    low, high = MUJOCO_RANGE
    if not low <= numbers < high:
        needed = f"{low[0]}.{low[1]} or later, below {high[0]}"
        return Diagnosis(
            "mujoco", f"{found}; {needed} is needed", BROKEN, "pip install 'mujoco>=3.17,<4'"
        )
    return Diagnosis("mujoco", found)


def _python(found: tuple[int, int]) -> Diagnosis:
    if found < PYTHON_FROM:
        return Diagnosis(
            "python", platform.python_version(), BROKEN, "install Python 3.11 or later"
        )
    return Diagnosis("python", f"{platform.python_version()}, {os.cpu_count()} cores")


def _device() -> Diagnosis:
    if not torch.cuda.is_available():
        return Diagnosis("device", "cpu", NOTE, "everything runs; a CUDA device trains faster")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Diagnosis("device", f"{torch.cuda.get_device_name()}, {memory:.0f} GiB")


def multiplies_bfloat16() -> bool:
    """Whether the device has products in bfloat16 of its own, as far as torch can say."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told = getattr(torch.cpu, "get_capabilities", None)  # older ones cannot say
    known: dict[str, bool] = told() if told else {}
    return known.get("avx512_bf16", False) or known.get("amx_bf16", False)


def _bfloat16() -> Diagnosis:
    fast = multiplies_bfloat16()
    found = "products of its own: policy.bfloat16=true trains faster" if fast else "none known"
    return Diagnosis("bfloat16", found)


def _suite() -> Diagnosis:
    try:
        return Diagnosis("dm_control", version("dm_control"))
    except PackageNotFoundError:
        why = "needs Python 3.12 or earlier" if sys.version_info >= (3, 13) else "dmc-* robots only"
        return Diagnosis("dm_control", f"not installed ({why})", NOTE, "pip install dm-control")


def _rendering() -> Diagnosis:
    chosen = os.environ.get(offscreen.VARIABLE)
    tried = (chosen,) if chosen in offscreen.BACK_ENDS else offscreen.BACK_ENDS
    works = next((name for name in tried if offscreen.works(name, os.environ)), None)
    if works:
        return Diagnosis("rendering", works)
    if sys.platform != "linux":
        return Diagnosis("rendering", "the system's own", OK)
    named = f" (${offscreen.VARIABLE} is {chosen})" if chosen else ""
    advice = "apt-get install libegl1 libosmesa6"
    return Diagnosis("rendering", f"neither EGL nor OSMesa works{named}; no videos", NOTE, advice)


def _folder(what: str, path: Path) -> Diagnosis:
    above = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return Diagnosis(what, f"{path}/ cannot be written", BROKEN, f"make {above} writable")
    free = shutil.disk_usage(above).free / 2**30
    found = f"{path.absolute()}/, {free:,.0f} GiB free"
    if free < FREE_NEEDED_GIB:
        return Diagnosis(what, found, BROKEN, "make room, or name a folder on another disk")
    if free < FREE_WANTED_GIB:
        return Diagnosis(what, found, NOTE, "a million transitions take up to 0.3 GiB")
    return Diagnosis(what, found)


def _recordings() -> Diagnosis:
    names = [d4rl.D4rlName(*_split(name)) for name in d4rl.files()]
    here = [name for name in names if d4rl.find(name) is not None]
    folders = ", ".join(f"{path}/" for path in d4rl.folders())
    if here:
        return Diagnosis("D4RL files", f"{len(here)} of {len(names)} in {folders}")
    advice = "name their folder with --d4rl-dir, or mabe-transfer data download d4rl:NAME"
    return Diagnosis("D4RL files", f"none in {folders}", NOTE, advice)


def _split(name: str) -> tuple[str, str, str]:
    known = d4rl.parse(name)
    return known.robot, known.quality, known.release


def _extra(name: str) -> Diagnosis:
    packages, purpose = EXTRAS[name]
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        advice = f"pip install 'mabe-transfer[{name}]' for {purpose}"
        return Diagnosis(f"extra {name}", f"no {', '.join(missing)}", NOTE, advice)
    if name == "minari":
        try:
            minari.library()
        except UserError as error:
            return Diagnosis(f"extra {name}", str(error), NOTE, f"for {purpose}")
    return Diagnosis(f"extra {name}", ", ".join(found))
