"""How long work reports itself: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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
        self._note = ""
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}, {{task.fields[rate]}}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, rate="-")
        self._live = Live(
            console=console, get_renderable=self._panel, refresh_per_second=4, transient=False
        )

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count what was done, with a short note on how it goes."""
        self.done += count
        self._note = note or self._note
        now = time.monotonic()
        rate = (self.done - self._from) / max(now - self._start, 1e-9)
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
        fields: dict[str, Any] = {"rate": shown}
        self._bar.update(self._task, completed=self.done, **fields)
        if not console.is_terminal and now - self._last >= PLAIN_LINE_EVERY_S:
            self._last = now
            left = clock((self.total - self.done) / max(rate, 1e-9))
            line = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {shown}/s, {left} left"
            notice(f"{line}, {self._note}" if self._note else line)

    def _panel(self) -> Panel:
        """What the terminal shows: the bar, and under it how the work goes."""
        return Panel(
            Group(self._bar, Text(self._note or " ")), title=self.title, title_align="left"
        )

    def __enter__(self) -> Work:
        """Show the panel."""
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the panel as it stands; off a terminal, say that the work is done."""
        if console.is_terminal:
            self._live.stop()
        elif kind is None:
            spent = clock(time.monotonic() - self._start)
            line = f"{self.title}: {self.done:,} {self.unit} in {spent}"
            notice(f"{line}, {self._note}" if self._note else line)


def notice(text: str) -> None:
    """Say one thing to the user, beside the results."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Write a duration as 1:23:45, or as 23:45 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
