"""The small project that trainings are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import project


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its scenes and masks."""
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder
