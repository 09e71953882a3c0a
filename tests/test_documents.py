"""README and docs: their links lead somewhere, their commands are commands, their code is code."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mabe_transfer.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONAL = re.compile(r" \[(--[^\]]+)\]")


def anchors(path: Path) -> set[str]:
    """What a link can name in a document: its headings, as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def blocks(language: str) -> list[tuple[str, str]]:
    """Every block of a language, with the document that it is in."""
    return [
        (path.name, text)
        for path in DOCUMENTS
        for kind, text in BLOCK.findall(path.read_text("utf-8"))
        if kind == language
    ]


def commands() -> list[str]:
    """What a reader would type, without comments; what stands in brackets is typed as well."""
    lines = [line for _, text in blocks("console") for line in text.splitlines()]
    typed = [OPTIONAL.sub(r" \1", line[2:]) for line in lines if line.startswith("$ mabe-transfer")]
    return sorted({line.split(" #")[0].strip() for line in typed})


def parse(words: list[str]) -> None:
    """Read a command line as the command would, without doing what it says."""
    command: Any = get_command(app)
    context = None
    while True:
        context = command.make_context(command.name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for place, heading in LINK.findall(path.read_text("utf-8")):
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), place
        if heading:
            assert heading in anchors(found), (place, heading)


@pytest.mark.parametrize("line", commands())
def test_commands_are_commands(line: str) -> None:
    numbers = line.replace(" N]", " 5").replace("--steps N", "--steps 5")
    parse(shlex.split(numbers)[1:])


def test_a_command_that_is_none_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["train", "--dynamic", "D1"])


def test_toml_is_toml_and_python_is_python() -> None:
    for name, text in blocks("toml"):
        assert tomllib.loads(text), name
    for name, text in blocks("python"):
        compile(text, name, "exec")


def test_make_targets_exist() -> None:
    heads = re.findall(r"^([a-z0-9 -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {word for head in heads for word in head.split()}
    lines = [line for _, text in blocks("console") for line in text.splitlines()]
    for line in lines:
        if line.startswith("$ make "):
            words = line[2:].split("#")[0].split()[1:]
            assert {word for word in words if "=" not in word} <= targets, line
