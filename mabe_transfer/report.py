"""Runs turned into what people look at: Markdown tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mabe_transfer.evaluate import LAST
from mabe_transfer.runs import write_text

if TYPE_CHECKING:
    from pathlib import Path

History = Sequence[tuple[int, float]]
COLOURS = ("#7a7a7a", "#d07a00", "#0b6fb8", "#3a8f3a", "#a83a8f", "#b03030")


def markdown(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str = "", notes: Sequence[str] = ()
) -> Path:
    """Write rows as a Markdown table; floats with one decimal.

    Args:
        rows: With the columns of the first one.
        path: The file.
        title: A heading above it.
        notes: Sentences below it.
    """
    head = [f"## {title}", ""] if title else []
    foot = ["", *(f"- {note}" for note in notes)] if notes else []
    write_text(path, "\n".join((*head, *markdown_lines(rows), *foot)) + "\n")
    return path


def markdown_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table, with the columns of the first row."""
    names = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)] if rows else []
    for row in rows:
        cells = [f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def curves(histories: Mapping[str, History], path: Path, *, title: str, flat: str) -> Path:
    """Draw mean return over updates, one line an arm.

    Args:
        histories: Evaluations of each arm: updates and mean return over seeds.
        path: The picture, .png.
        title: Above it.
        flat: The arm whose updates are not the others', drawn as the level that it came to.
    """
    from matplotlib.figure import Figure  # half a second, which no other command should take

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, history), colour in zip(histories.items(), COLOURS, strict=False):
        updates, returns = zip(*history, strict=True)
        if name == flat:
            level = sum(returns[-LAST:]) / len(returns[-LAST:])
            axes.axhline(level, color=colour, linestyle="--", label=name)
        else:
            axes.plot(updates, returns, color=colour, label=name, linewidth=1.8)
    axes.set(title=title, xlabel="gradient updates", ylabel="return, mean over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=150)
    partial.replace(path)
    return path
