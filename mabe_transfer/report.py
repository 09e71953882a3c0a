"""Runs turned into what people look at: Markdown tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mabe_transfer.evaluate import LAST
from mabe_transfer.runs import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

History = Sequence[tuple[int, float]]
Bars = dict[str, tuple[float, float, float]]
"""Name -> value and the ends of its interval."""
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


def curves(
    histories: Mapping[str, History], path: Path, *, title: str, flat: Collection[str]
) -> Path:
    """Draw mean return over updates, one line an arm.

    Args:
        histories: Evaluations of each arm: updates and mean return over seeds.
        path: The picture, .png.
        title: Above it.
        flat: Arms whose updates are not the others', drawn as the levels that they came to.
    """
    from matplotlib.figure import Figure  # half a second, which no other command should take

    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.subplots()
    for (name, history), colour in zip(histories.items(), COLOURS, strict=False):
        updates, returns = zip(*history, strict=True)
        if name in flat:
            level = sum(returns[-LAST:]) / len(returns[-LAST:])
            axes.axhline(level, color=colour, linestyle="--", label=name)
        else:
            axes.plot(updates, returns, color=colour, label=name, linewidth=1.8)
    axes.set(title=title, xlabel="gradient updates", ylabel="return, mean over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    return _save(figure, path)


def panels(
    histories: Mapping[str, Mapping[str, History]], path: Path, *, title: str, unit: str
) -> Path:
    """Draw learning curves, one panel a task and one line an arm.

    Args:
        histories: Task -> arm -> evaluations: updates and mean over seeds.
        path: The picture, .png.
        title: Above it.
        unit: What is drawn over the updates.
    """
    from matplotlib.figure import Figure

    rows, columns = _panels(len(histories))
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (task, arms) in zip(grid, histories.items(), strict=False):
        for (name, history), colour in zip(arms.items(), COLOURS[1:], strict=False):
            axes.plot(*zip(*history, strict=True), color=colour, label=name, linewidth=1.5)
        axes.set_title(task, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(histories) :]:
        axes.set_visible(False)
    grid[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.supxlabel("gradient updates")
    figure.supylabel(unit)
    return _save(figure, path)


def bars(groups: Mapping[str, Bars], path: Path, *, title: str, unit: str, marked: str) -> Path:
    """Draw values with their intervals, one panel a group.

    Args:
        groups: Group -> its bars.
        path: The picture, .png.
        title: Above it.
        unit: What the bars are of.
        marked: The bar that stands out.
    """
    from matplotlib.figure import Figure

    rows, columns = _panels(len(groups))
    figure = Figure(figsize=(max(6.4, 4.4 * columns), 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    for axes, (group, found) in zip(grid, groups.items(), strict=False):
        values = [value for value, _, _ in found.values()]
        below = [max(0.0, value - low) for value, low, _ in found.values()]
        above = [max(0.0, high - value) for value, _, high in found.values()]
        colours = ["#0b6fb8" if name == marked else "#a8b4bd" for name in found]
        axes.bar(list(found), values, color=colours, yerr=(below, above), capsize=3)
        axes.axhline(0.0, color="#202020", linewidth=0.8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set(title=group, ylabel=unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def heat(
    maps: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    title: str,
) -> Path:
    """Draw tables of numbers as colours about 0, one panel a table; NaN stays white.

    Args:
        maps: Name -> numbers, [rows, columns].
        rows: Names, top down.
        columns: Names, left to right.
        path: The picture, .png.
        title: Above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(2.2 + len(maps) * (1.1 * len(columns) + 1.2), 0.42 * len(rows) + 1.6),
        layout="constrained",
    )
    numbers = [abs(x) for table in maps.values() for row in table for x in row]
    largest = max(filter(math.isfinite, numbers), default=1.0) or 1.0
    panes = figure.subplots(1, max(1, len(maps)), squeeze=False)[0]
    for axes, (name, table) in zip(panes, maps.items(), strict=False):
        axes.imshow(table, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
        for y, row in enumerate(table):
            for x, value in enumerate(row):
                text = f"{value:+,.0f}" if math.isfinite(value) else "-"
                colour = "white" if abs(value) > 0.7 * largest else "black"
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(columns)), columns, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def _panels(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels, three beside each other at the most."""
    columns = min(3, max(1, count))
    return max(1, -(-count // columns)), columns


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=150)
    partial.replace(path)
    return path
