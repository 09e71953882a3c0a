"""The rules of the house: who may import whom, and what may lie where.

Each rule is a function of a source tree that returns one sentence per breach, so that it is tested
on a small bad tree as well as on the project.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mabe_transfer"

# The rooms, in the order in which data flows. A module imports only from its left; a package, such
# as `parts`, is one room.
ORDER = (
    "errors",
    "config",
    "glossary",
    "bounds",
    "statistics",
    "progress",
    "threads",
    "locks",
    "written",
    "entries",
    "catalogue",
    "published",
    "presets",
    "domains",
    "physics",
    "offscreen",
    "suite",
    "certificate",
    "envs",
    "batched",
    "worlds",
    "transitions",
    "store",
    "verify",
    "bridges",
    "library",
    "replay",
    "weights",
    "rectified",
    "descent",
    "squashed",
    "streams",
    "networks",
    "beside",
    "tape",
    "graphs",
    "stopping",
    "actors",
    "batches",
    "means",
    "losses",
    "advantages",
    "weighting",
    "values",
    "dual",
    "pessimism",
    "natural",
    "baseline",
    "imagination",
    "parts",
    "composition",
    "algorithms",
    "comparison",
    "behaviour",
    "recorded",
    "runs",
    "shipping",
    "records",
    "feeding",
    "online",
    "ladders",
    "collect",
    "acquire",
    "evaluate",
    "references",
    "transfer",
    "pooling",
    "learner",
    "fitting",
    "train",
    "outcome",
    "matrix",
    "policies",
    "plain",
    "choice",
    "export",
    "video",
    "report",
    "scoreboard",
    "d4rl_tasks",
    "benchmark",
    "coverage",
    "verdict",
    "forecast",
    "scale",
    "arms",
    "budgets",
    "marks",
    "standing",
    "figure6",
    "ablations",
    "gain",
    "grid",
    "demo",
    "doctor",
    "cli",
)
# The package's own entrances, which may import every room and which no room may import.
ENTRANCES = ("__init__", "__main__")
# Rooms whose modules know only the room's `__init__`, so that each can be replaced.
DIVIDED = ("parts",)
WITHOUT_TORCH = (
    "errors",
    "config",
    "statistics",
    "entries",
    "catalogue",
    "published",
    "presets",
    "domains",
    "store",
    "transitions",
    "verify",
    "bridges",
)
FORBIDDEN_NAMES = ("utils", "common", "base", "helpers", "misc", "core")
MAX_LINES = 300


def modules(root: Path) -> list[Path]:
    """Every Python file of the package under `root`."""
    return sorted((root / PACKAGE).rglob("*.py"))


def room(root: Path, module: Path) -> str:
    """The room in which a module lies, or its own name if it is an entrance."""
    return module.relative_to(root / PACKAGE).with_suffix("").parts[0]


def imports(root: Path, module: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and absolute dotted name, split, of everything that a module imports anywhere in it."""
    package = module.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = (*start, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield node.lineno, (*source, alias.name)


def wrong_import(root: Path, module: Path, target: tuple[str, ...]) -> str | None:
    """Why a module may not import a name of the package, or None if it may."""
    here = room(root, module)
    there = target[1] if len(target) > 1 else ""
    if here in ENTRANCES or (there.startswith("__") and there not in ENTRANCES):
        return None
    if there not in ORDER:
        return f"imports {'.'.join(target)}, which names no room of ORDER"
    if here == there:
        inside = root.joinpath(*target[:3])
        is_module = len(target) > 2 and (inside.is_dir() or inside.with_suffix(".py").is_file())
        if here in DIVIDED and is_module:
            return f"imports {'.'.join(target[:3])}, and inside {here} only its __init__ is shared"
        return None
    if here in ORDER and ORDER.index(there) > ORDER.index(here):
        return f"{here} imports {there}, which lies to its right"
    return None


def imports_from_the_right(root: Path) -> list[str]:
    """Imports against the order of the rooms, and modules that have no room."""
    breaches = []
    for module in modules(root):
        path = module.relative_to(root)
        if room(root, module) not in (*ORDER, *ENTRANCES):
            breaches.append(f"{path}:1: {room(root, module)} is no room of ORDER")
        for line, target in imports(root, module):
            reason = wrong_import(root, module, target) if target[0] == PACKAGE else None
            if reason:
                breaches.append(f"{path}:{line}: {reason}")
    return breaches


def imports_out_of_place(root: Path) -> list[str]:
    """Torch in the rooms that must load without it, and Typer outside the command line."""
    breaches = []
    for module in modules(root):
        here = room(root, module)
        for line, target in imports(root, module):
            where = f"{module.relative_to(root)}:{line}"
            if target[0] == "torch" and here in WITHOUT_TORCH:
                breaches.append(f"{where}: {here} imports torch")
            if target[0] == "typer" and here != "cli":
                breaches.append(f"{where}: {here} imports typer, which belongs to cli")
    return breaches


def python_in_catalogues(root: Path) -> list[str]:
    """Python under `envs/` or `datasets/`, which as packages would shadow other libraries."""
    return [
        f"{path.relative_to(root)}: the catalogues hold no Python"
        for folder in ("envs", "datasets")
        for path in sorted((root / folder).rglob("*.py*"))
    ]


def long_modules(root: Path) -> list[str]:
    """Modules with more lines than one room should need."""
    lengths = {module: len(module.read_text("utf-8").splitlines()) for module in modules(root)}
    return [
        f"{module.relative_to(root)}:{MAX_LINES + 1}: {length} lines, {MAX_LINES} are allowed"
        for module, length in lengths.items()
        if length > MAX_LINES
    ]


def forbidden_names(root: Path) -> list[str]:
    """Modules and packages whose name says nothing about what they hold."""
    return [
        f"{path.relative_to(root)}: the name {path.stem} says nothing"
        for path in sorted((root / PACKAGE).rglob("*"))
        if path.stem in FORBIDDEN_NAMES and (path.is_dir() or path.suffix == ".py")
    ]


RULES = (
    imports_from_the_right,
    imports_out_of_place,
    python_in_catalogues,
    long_modules,
    forbidden_names,
)


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write a source tree."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


@pytest.mark.parametrize("rule", RULES)
def test_project_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert modules(ROOT), f"no Python file under {ROOT / PACKAGE}"
    breaches = rule(ROOT)
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("rule", RULES)
def test_good_tree_breaks_no_rule(rule: Callable[[Path], list[str]], tmp_path: Path) -> None:
    files = {
        "mabe_transfer/__init__.py": "from mabe_transfer.train import train\n",
        "mabe_transfer/__main__.py": "from mabe_transfer.cli import app\n",
        "mabe_transfer/errors.py": "import math\n" * MAX_LINES,
        "mabe_transfer/store.py": "from mabe_transfer import __version__, errors\n",
        "mabe_transfer/parts/__init__.py": "import torch\n",
        "mabe_transfer/parts/prior.py": "from . import Experience\nfrom ..errors import Nope\n",
        "mabe_transfer/train.py": "from mabe_transfer.parts.prior import Adaptive\n",
        "mabe_transfer/cli/__init__.py": "import typer\nfrom mabe_transfer.cli import tables\n",
        "mabe_transfer/cli/tables.py": "",
        "envs/robots/hopper.toml": "",
    }
    assert rule(plant(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import mabe_transfer.train", "store imports train, which lies to its right"),
        ("from mabe_transfer.train import train", "store imports train, which lies to its right"),
        ("from mabe_transfer import train", "store imports train, which lies to its right"),
        ("from .train import train", "store imports train, which lies to its right"),
        ("from . import train", "store imports train, which lies to its right"),
        ("import mabe_transfer", "imports mabe_transfer, which names no room of ORDER"),
        (
            "from mabe_transfer import make",
            "imports mabe_transfer.make, which names no room of ORDER",
        ),
        (
            "import mabe_transfer.__main__",
            "imports mabe_transfer.__main__, which names no room of ORDER",
        ),
    ],
)
@pytest.mark.parametrize("before", ["if TYPE_CHECKING:\n    ", "def late():\n    ", "\n"])
def test_import_against_the_order_is_found(
    line: str, reason: str, before: str, tmp_path: Path
) -> None:
    root = plant(tmp_path, {"mabe_transfer/store.py": before + line})
    assert imports_from_the_right(root) == [f"mabe_transfer/store.py:2: {reason}"]


def test_module_without_a_room_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"mabe_transfer/attic.py": "", "mabe_transfer/cellar/wine.py": ""})
    assert imports_from_the_right(root) == [
        "mabe_transfer/attic.py:1: attic is no room of ORDER",
        "mabe_transfer/cellar/wine.py:1: cellar is no room of ORDER",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "from mabe_transfer.parts.critic import Td",
        "from mabe_transfer.parts import critic",
        "from . import critic",
        "from .critic import Td",
        "from ..parts.critic import Td",
    ],
)
def test_part_that_imports_a_part_is_found(line: str, tmp_path: Path) -> None:
    files = {"mabe_transfer/parts/critic.py": "", "mabe_transfer/parts/sac.py": line}
    assert imports_from_the_right(plant(tmp_path, files)) == [
        "mabe_transfer/parts/sac.py:1: imports mabe_transfer.parts.critic, "
        "and inside parts only its __init__ is shared"
    ]


@pytest.mark.parametrize("line", ["import torch", "import torch.nn", "from torch import Tensor"])
@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_torch_in_a_room_without_torch_is_found(name: str, line: str, tmp_path: Path) -> None:
    root = plant(tmp_path, {f"mabe_transfer/{name}.py": line})
    assert imports_out_of_place(root) == [f"mabe_transfer/{name}.py:1: {name} imports torch"]


def test_typer_outside_the_command_line_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"mabe_transfer/report.py": "\nfrom typer import echo"})
    assert imports_out_of_place(root) == [
        "mabe_transfer/report.py:2: report imports typer, which belongs to cli"
    ]


def test_python_in_a_catalogue_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"envs/__init__.py": "", "datasets/policies/load.py": ""})
    assert python_in_catalogues(root) == [
        "envs/__init__.py: the catalogues hold no Python",
        "datasets/policies/load.py: the catalogues hold no Python",
    ]


def test_long_module_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"mabe_transfer/parts/sac.py": "\n" * (MAX_LINES + 1)})
    assert long_modules(root) == ["mabe_transfer/parts/sac.py:301: 301 lines, 300 are allowed"]


@pytest.mark.parametrize("name", FORBIDDEN_NAMES)
def test_name_that_says_nothing_is_found(name: str, tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {f"mabe_transfer/parts/{name}.py": "", f"mabe_transfer/{name}/__init__.py": ""},
    )
    assert set(forbidden_names(root)) == {
        f"mabe_transfer/{name}: the name {name} says nothing",
        f"mabe_transfer/parts/{name}.py: the name {name} says nothing",
    }
