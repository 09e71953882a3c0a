"""What every test shares: a data root of its own, one thread, and recordings made by others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test, nor one commit's run find what belongs to another.
settings.register_profile("mabe-transfer", deadline=None, derandomize=True)
settings.load_profile("mabe-transfer")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one thread; whoever only hands tests out to others does not import it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, which the project finds through the environment."""
    root = tmp_path / "data"
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(root))
    return root


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recordings and policies by others, which is not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the recordings by others are not here: no folder {folder}")
    return folder


@pytest.fixture
def stand_in() -> Callable[[str, int], None]:
    """Collect random actions in the place of a recipe's dataset, which they say they are."""
    from mabe_transfer import catalogue
    from mabe_transfer.acquire import acquire, of_recipe

    def collect(recipe: str, transitions: int) -> None:
        asked = of_recipe(catalogue.recipe(recipe))
        acquire(replace(asked, quality="random", transitions=transitions))

    return collect


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
