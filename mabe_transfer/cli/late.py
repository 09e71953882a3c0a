"""Modules that run at their first use, so that a command waits only for what it needs.

    with late.imports():
        from mabe_transfer import acquire, train

Inside, an import statement finds a module of the package and binds it without running it; it runs
when something is first taken from it. So neither `--help` nor `envs list` waits for torch. Only
whole modules can wait: `from mabe_transfer.train import Trainer` takes something at once.

This is not `importlib.util.LazyLoader`, whose modules run even when they are asked for their file's
name. While torch is imported, it asks that of every module that there is, and those which import
torch must not run then.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec

PACKAGE = "mabe_transfer."


@contextmanager
def imports() -> Iterator[None]:
    """Let the package's modules that are imported inside wait until they are used."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds the package's modules where Python finds them, and gives them loaders that wait."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification; None for what is not the package's."""
        if not name.startswith(PACKAGE):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Waiting(spec.loader)
        return spec


class _Waiting(Loader):
    """Leaves a module as it is before it runs, and its own loader with it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the module's own loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Put off running the module."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        module.__dict__.pop("__path__", None)  # whoever asks for it wants a module inside
        module.__class__ = _Late


class _Late(ModuleType):
    """A module that has not run."""

    def __getattr__(self, name: str) -> Any:
        """Run the module for whatever Python has not put into it before it ran."""
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        inside = spec.submodule_search_locations
        if name.startswith("__") and (name != "__path__" or inside is None):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # from now on it is like any other
        if inside is not None:
            self.__path__ = inside
        spec.loader.exec_module(self)
        return getattr(self, name)
