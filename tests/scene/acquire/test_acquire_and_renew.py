"""`acquire --watch` and `predict --watch` side by side: a search in a catalogue keeps a map up to date."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.warp import transform_bounds
from tests.scene.acquire.scenes import CRS, SIZE, add_scene

import raremap.workflows.acquire as acquiring
from raremap.bundle import Bundle
from raremap.labels import LabelScheme
from raremap.workflows.predict import predict
from raremap.workflows.renew import watch

BBOX = transform_bounds(CRS, "EPSG:4326", 300_100, 4_639_300, 300_700, 4_639_800)
MIDDLE = 1500


def _bundle() -> Bundle:
    """Log-odds of bright ground: the red band less `MIDDLE`."""
    net = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
        net.bias[:] = torch.tensor([0.0, -float(MIDDLE)])
    return Bundle.from_module(net, LabelScheme({1: "dark", 2: "bright"}), ["B04"])


def _read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_a_search_keeps_a_map_up_to_date_where_its_classes_show_the_ground(api, tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.choice([1200, 1800], (4, SIZE, SIZE)).astype(np.uint16) for _ in range(2)]
    clear = np.full((SIZE, SIZE), 4, np.uint8)
    clouded = clear.copy()
    clouded[:, :50], clouded[:, 50:60] = 9, 1  # clouds, defective pixels
    add_scene(api, tmp_path, "S1", "2024-04-01T10:50:00Z", images[0], clear)
    out, map_ = tmp_path / "imagery", tmp_path / "map.tif"
    request = {"dates": "2024-04", "bbox": BBOX, "source": api.url, "bands": ["B04"], "quiet": True}
    first = acquiring.acquire(out, **request).images[0]
    bundle = _bundle()
    predict(bundle, first, map_, quiet=True)
    before = _read(map_)

    add_scene(api, tmp_path, "S2", "2024-04-03T10:50:00Z", images[1], clouded)
    (arrived,) = acquiring.watch(60, rounds=1, out=out, **request)
    assert arrived.new == ("2024-04-03",)
    for path in out.rglob("*.tif"):
        os.utime(path, (1e9, 1e9))
    found = list(watch(bundle, out / "images", map_, clouds=out / "scl", margin=0, rounds=1, quiet=True))
    assert [r.date for r in found] == ["2024-04-01", "2024-04-03"]
    assert found[0].changed.sum() == 0
    red, scl = _read(out / "images" / "2024-04-03.tif"), _read(out / "scl" / "2024-04-03.tif")
    seen = ~np.isin(scl, [1, 9])
    assert 0 < seen.sum() < seen.size
    expected = np.where(seen, np.where(red > MIDDLE, 2, 1), before)
    np.testing.assert_array_equal(_read(map_), expected)
    assert (found[1].clouded, found[1].clouds_unknown) == ((scl == 9).sum(), (scl == 1).sum())
