"""A valley, and a catalogue of its scenes on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.scene.acquire import scenes
from tests.scene.acquire.stac import Api, served


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return scenes.valley(tmp_path_factory.mktemp("valley"))


@pytest.fixture
def api() -> Iterator[Api]:
    with served(Api()) as api:
        yield api
