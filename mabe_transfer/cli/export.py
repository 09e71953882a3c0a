"""`mabe-transfer export`: a policy as a file that needs no toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer.cli import late
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import choice
    from mabe_transfer import export as exporting


def export(
    run: Annotated[
        str, typer.Argument(help="A run's folder, a ladder, or a domain with a shipped ladder.")
    ],
    kind: Annotated[
        str, typer.Option("--format", help="onnx, torchscript or safetensors.")
    ] = "onnx",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of a run; the best by its last evaluations.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; by default in the run, policy/policy.*, or in exports/."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write one policy, by its mode, as a file for other programs."""
    file_format = exporting.format_named(kind)
    chosen = choice.choose(run, seed)
    notice(chosen.reason)
    path = out or chosen.place.with_name(chosen.place.name + file_format.ending)
    exporting.write(chosen.policy, file_format, path, force=force)
    first, *_, last = chosen.policy.sizes
    notice(f"{path}: observation [batch, {first}] to action [batch, {last}], float32.")
