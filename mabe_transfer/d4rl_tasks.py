"""The tasks of the D4RL benchmark, and where their data come from.

The data are D4RL's own files, or datasets that this project collects by D4RL's protocol where
there are none. Versions of the data are never mixed in one table.
"""

from __future__ import annotations

from dataclasses import dataclass

from mabe_transfer import catalogue
from mabe_transfer.acquire import provide

ROBOTS = ("halfcheetah", "hopper", "walker2d")
TIERS = ("medium", "medium-replay", "medium-expert", "random", "expert")
TASKS = {f"{robot}-{tier}": robot for tier in TIERS for robot in ROBOTS}
"""Tasks in the order of the paper's Table 1, with their robot."""
TABLE_1 = tuple(TASKS)[:9]


@dataclass(frozen=True, slots=True)
class Named:
    """A dataset of the benchmark.

    Attributes:
        task: Robot and tier, as in Table 1.
        dataset: What `open_dataset` is asked for.
        version: Of the data; tables hold one only.
    """

    task: str
    dataset: str
    version: str


@dataclass(frozen=True, slots=True)
class Ours:
    """Datasets collected by this project by D4RL's protocol."""

    def names(self) -> dict[str, Named]:
        """Every dataset by its name, and by its task."""
        found = {}
        for task, robot in TASKS.items():
            recipe = f"{robot}-d4rl{task.removeprefix(robot)}"
            found[task] = found[recipe] = Named(task, recipe, "ours")
        return found

    def prepare(self, named: Named) -> None:
        """Collect a dataset unless it is there, training its behaviour policy if need be.

        Raises:
            UserError: What is there was made by another recipe.
        """
        provide(catalogue.recipe(named.dataset), named.dataset)

    def data(self, version: str) -> str:
        """What a table says of the data."""
        del version
        return "collected by this project by D4RL's protocol (`datasets/d4rl-ours.toml`)"


@dataclass(frozen=True, slots=True)
class Files:
    """D4RL's own files."""

    def names(self) -> dict[str, Named]:
        """Every dataset by its name, and the v2 ones by their task."""
        found = {
            f"d4rl:{task}-{version}": Named(task, f"d4rl:{task}-{version}", version)
            for task in TASKS
            for version in ("v0", "v1", "v2")
        }
        return found | {task: found[f"d4rl:{task}-v2"] for task in TASKS}

    def prepare(self, named: Named) -> None:
        """Nothing to do: opening a dataset finds its file."""

    def data(self, version: str) -> str:
        """What a table says of the data."""
        return f"D4RL {version}, its own files"


Source = Ours | Files
"""A source of data: both answer to `names`, `prepare` and `data`."""
SOURCES: dict[str, Source] = {"ours": Ours(), "files": Files()}
