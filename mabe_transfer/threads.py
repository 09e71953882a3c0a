"""How many processor threads torch and the simulations use.

A second thread helps a large product and only waits at a small one: beside another busy process,
most of the time of a policy that acts in 64 copies went into such waiting.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mabe_transfer.progress import notice

_limit: list[int] = []  # as torch's own, the process's

if TYPE_CHECKING:
    from collections.abc import Iterator


def limit_threads(threads: int) -> None:
    """Use so many CPU threads from now on, all of them where `threads` is 0.

    There are never more than cores: threads that share one wait for each other.
    """
    cores = os.cpu_count() or 1
    if threads > cores:
        notice(f"--threads {threads}: this machine has {cores} cores, and all of them are used.")
        threads = cores
    if threads:
        torch.set_num_threads(threads)
        _limit[:] = [threads]


def simulating() -> int:
    """Threads that a simulation gets: every core, unless there is a limit."""
    return min([os.cpu_count() or 1, *_limit])


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside, for the small products of a policy that acts step by step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
