"""The precision of a bundle is settled once: its scores and its maps are computed alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests import project

from raremap.bundle import Bundle
from raremap.models import forward
from raremap.tiles.splits import uses
from raremap.workflows.precision import with_precision
from raremap.workflows.prepare import catalog_of


@pytest.mark.parametrize("agrees", [True, False])
def test_what_agreed_on_the_first_places_holds_for_every_later_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    project.make(tmp_path)
    exp = project.experiment(tmp_path, tmp_path / "out")
    catalog = catalog_of(exp, quiet=True)
    bundle = Bundle.from_module(torch.nn.Conv2d(3, 3, 1), labels=catalog.scheme, bands=catalog.bands)
    seen: list[bool] = []
    monkeypatch.setattr(forward, "has_bf16", lambda device: True)
    monkeypatch.setattr(
        forward.TorchNetwork, "_agrees", lambda self, x, precision: seen.append(agrees) or agrees
    )
    settled = with_precision(bundle, catalog, uses(catalog, exp.split), "cpu")
    assert settled.info["precision"] == ("bf16" if agrees else "float32")
    settled.save(tmp_path / "bundle")
    network = Bundle.load(tmp_path / "bundle", module=torch.nn.Conv2d(3, 3, 1)).torch_network("cpu")
    network(np.ones((1, 3, 4, 4), np.uint8), np.ones((1, 4, 4), bool))
    assert network.precision == settled.info["precision"]
    assert len(seen) == 1  # nothing was asked again
    assert bundle.torch_network("cpu").precision == "auto"
    assert settled.torch_network("cpu", "float32").precision == "float32"


def test_without_native_bf16_nothing_is_settled_and_all_is_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make(tmp_path)
    exp = project.experiment(tmp_path, tmp_path / "out")
    catalog = catalog_of(exp, quiet=True)
    bundle = Bundle.from_module(torch.nn.Conv2d(3, 3, 1), labels=catalog.scheme, bands=catalog.bands)
    monkeypatch.setattr(forward, "has_bf16", lambda device: False)
    assert with_precision(bundle, catalog, uses(catalog, exp.split), "cpu") is bundle
    elsewhere = Bundle(**{**bundle.__dict__, "info": {"precision": "bf16"}})
    assert elsewhere.torch_network("cpu").precision == "float32"
