"""A tiny bundle, scenes for it, and a server of it in this process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.labels import LabelScheme
from raremap.models.options import UNet
from raremap.scene.normalize import Normalization

BANDS = ("red", "green", "blue", "nir")
SCHEME = LabelScheme({1: "meadow", 2: "water", 7: "slide"})
MODEL = "tiny-valleys"


def save_bundle(folder: Path) -> Path:
    """A U-Net whose random scores are centred on random pixels, so that each class is somewhere."""
    torch.manual_seed(0)
    options = UNet(kind="unet", width=8, depth=1)
    net = options.build(len(BANDS), SCHEME.num_classes).eval()
    last = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= 30
        scores = net((torch.from_numpy(pixels(64, 64)).float()[None] - 100) * 0.02)
        last.bias -= scores.mean((0, 2, 3))
    normalization = Normalization("standard", shift=(100.0,) * 4, scale=(0.02,) * 4)
    bundle = Bundle(
        net, SCHEME, BANDS, normalization, options, prior=(0.02, 0.28, 0.7), shares=(0.7, 0.28, 0.02),
        info={"name": "Tiny, valleys", "resolution_m": 10.0},
    )  # fmt: skip
    return bundle.save(folder)


def pixels(height: int, width: int, bands: int = 4) -> np.ndarray:
    """Soft shapes, uint8, never 0."""
    import cv2

    rng = np.random.default_rng(7)
    soft = [cv2.resize(rng.random((5, 6), np.float32), (width, height)) for _ in range(bands)]
    return (np.stack(soft) * 220 + 10).astype(np.uint8)


def scene(path: Path, height: int = 90, width: int = 120, **more: Any) -> Path:
    """A scene that the bundle can map."""
    array = more.pop("array", None)
    return write(path, pixels(height, width) if array is None else array, **more)


def send(
    client: httpx.Client, data: bytes, name: str = "scene.tif", model: str | None = MODEL
) -> httpx.Response:
    """Upload bytes."""
    fields = {} if model is None else {"model": model}
    return client.post("/api/predictions", data=fields, files={"file": (name, data)})


def finished(client: httpx.Client, answer: httpx.Response, seconds: float = 120) -> dict[str, Any]:
    """The prediction when it has ended."""
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + seconds
    while True:
        found = client.get(answer.json()["url"]).json()
        if found["status"] in ("done", "failed"):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.05)
