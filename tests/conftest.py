"""Shared by all tests: threads set once, slow tests last, real data found or skipped with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before numpy, numba and torch start their pools; where tests run side by side, each has one core.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
os.environ.setdefault("OMP_NUM_THREADS", THREADS)
os.environ.setdefault("NUMBA_NUM_THREADS", THREADS)
os.environ.setdefault("MPLBACKEND", "Agg")

# Compiling and busy machines take their time; a slow example is no fault.
settings.register_profile("raremap", deadline=None)
settings.load_profile("raremap")

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: more than a few seconds; runs after the others")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    items.sort(key=slow)
    for item in items:  # what shares a file's fixtures stays in one process
        item.add_marker(
            pytest.mark.xdist_group(item.nodeid.partition("::")[0] + ("-slow" if slow(item) else ""))
        )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("RAREMAP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set RAREMAP_DATA to its folder")
    return folder
