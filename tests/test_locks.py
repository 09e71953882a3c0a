"""Work that only one process may do: waited for, found made, or refused."""

from __future__ import annotations

import pytest

from mabe_transfer import locks
from mabe_transfer.errors import Busy, UserError

Say = pytest.CaptureFixture[str]


class Work:
    """Something to make; others are at it for the first tries, and then it is `made` or not."""

    def __init__(self, busy: int, *, made: bool) -> None:
        self.busy, self.made, self.there, self.tries = busy, made, False, 0

    def make(self) -> None:
        self.tries += 1
        if self.tries <= self.busy:
            self.there = self.made and self.tries == self.busy
            raise Busy("It is being written.")
        self.there = True


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOOK", 0.0)


def test_work_that_nobody_does_is_done_once() -> None:
    work = Work(0, made=False)
    assert not locks.once(work.make, lambda: work.there)
    assert locks.once(work.make, lambda: work.there)
    assert work.tries == 1


def test_another_process_is_waited_for_and_announced_once(capsys: Say) -> None:
    work = Work(3, made=True)
    assert locks.once(work.make, lambda: work.there)
    assert work.tries == 3
    assert capsys.readouterr().err.count("It is being written; waiting for it.") == 1


def test_work_that_another_process_left_undone_is_done() -> None:
    work = Work(2, made=False)
    assert not locks.once(work.make, lambda: work.there)
    assert work.tries == 3


def test_work_that_was_done_between_a_look_and_a_try_counts_as_there() -> None:
    looks = iter((False, True, True))

    def make() -> None:
        raise UserError("It exists already, and nothing is ever overwritten.")

    assert locks.once(make, lambda: next(looks))


def test_other_refusals_are_passed_on() -> None:
    def make() -> None:
        raise UserError("There is no such robot.")

    with pytest.raises(UserError, match="no such robot"):
        locks.once(make, lambda: False)
