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
# No bf16 where only some processors have it: what "auto" computes in would differ between machines, processes started here included.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# Compiling and busy machines take their time; a slow example is no fault.
settings.register_profile("raremap", deadline=None)
settings.load_profile("raremap")

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: more than a few seconds; runs after the others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files without a slow test first, then the others, of each the slow ones last."""

    def slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    with_slow = {item.path for item in items if slow(item)}
    items.sort(
        key=lambda item: (
            item.path in with_slow,
            str(item.path) if item.path in with_slow else "",
            slow(item),
        )
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("RAREMAP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set RAREMAP_DATA to its folder")
    return folder
