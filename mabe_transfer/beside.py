"""Work that a GPU does beside other work: its streams, as CUDA calls them. A CPU has none."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

ASIDE = "aside"


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Do what is inside beside what follows, on a GPU, until `join`.

    What it uses from outside must live until then, and what it leaves is used after that alone.
    """
    if device.type != "cuda":
        yield
        return
    other = stream(device, ASIDE)
    other.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(other):
        yield


def join(device: torch.device) -> None:
    """Wait for what is done aside before what follows."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).wait_stream(stream(device, ASIDE))


@cache
def stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """The one stream of a device for a purpose."""
    del purpose  # it tells one from another
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
