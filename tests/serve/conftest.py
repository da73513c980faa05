"""One server for all tests of a module, with a worker process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from fastapi.testclient import TestClient
from tests.serve import service

from raremap.serve.app import create_app
from raremap.serve.options import ServeOptions


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return service.save_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def client(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """At http://localhost, without a limit on requests; small scenes only."""
    data = tmp_path_factory.mktemp("served")
    options = ServeOptions(data=data, rate=0, max_pixels=1_000_000, max_decoded_mb=8, max_upload_mb=2)
    app = create_app([bundle_folder], options)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client
