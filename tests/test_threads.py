"""Threads: one limit for products and simulations, and one thread where a second would wait."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from mabe_transfer import threads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Whatever a test limits is unlimited after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    threads._limit.clear()


def test_limit_holds_for_products_and_simulations() -> None:
    threads.limit_threads(1)
    assert (torch.get_num_threads(), threads.simulating()) == (1, 1)


def test_no_limit_leaves_every_core() -> None:
    before = torch.get_num_threads()
    threads.limit_threads(0)
    assert torch.get_num_threads() == before
    assert threads.simulating() == (os.cpu_count() or 1)


def test_limit_above_the_cores_starts_no_more_simulations_than_cores() -> None:
    threads.limit_threads(4 * (os.cpu_count() or 1))
    assert threads.simulating() == (os.cpu_count() or 1)


def failing() -> None:
    with threads.one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("stop")


def test_one_thread_is_given_back_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="stop"):
        failing()
    assert torch.get_num_threads() == 2
