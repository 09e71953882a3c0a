"""How long work reports itself: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from types import TracebackType

console = Console(stderr=True)
"""Where progress and notices go; results go to standard output."""

PLAIN_LINE_EVERY_S = 15.0


class Work:
    """A job of known length: `with Work("Training", total, "updates") as work: work.advance()`.

    Args:
        title: What is being done.
        total: Its length in `unit`.
        unit: The plural of what is counted.
        done: How much of it was done before, when it resumes.
    """

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._start, self._from, self._last = time.monotonic(), done, time.monotonic()
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}, {{task.fields[rate]}}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task(title, total=total, completed=done, rate="-", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count what was done, with a short note on how it goes."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self._from) / max(now - self._start, 1e-9)
        fields: dict[str, Any] = {"rate": f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"}
        if note:
            fields["note"] = note
        self._live.update(self._task, completed=self.done, **fields)
        if not console.is_terminal and now - self._last >= PLAIN_LINE_EVERY_S:
            self._last = now
            left = (self.total - self.done) / max(rate, 1e-9)
            line = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {fields['rate']}/s"
            console.print(
                f"{line}, {_clock(left)} left{', ' + note if note else ''}", soft_wrap=True
            )

    def __enter__(self) -> Work:
        """Show the bar."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        self._live.stop()


def notice(text: str) -> None:
    """Say one thing to the user, beside the results."""
    console.print(text, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
