"""A server that keeps the contract of `raremap serve` and answers as a test tells it, for what a real one seldom does.

The page is the real one. Jobs go through `queued`, `running` and `done`, one step a poll; a file named `fails.tif` fails.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image

import raremap

PAGE = Path(raremap.__file__).parent / "serve" / "page"
BOUNDS = (2.0, 42.0, 2.05, 42.04)
CLASSES: list[dict[str, Any]] = [
    {"value": 1, "name": "forest", "color": "#3f7d4e", "rare": False},
    {"value": 2, "name": "water", "color": "#3f6d8e", "rare": False},
    {"value": 5, "name": "landslide", "color": "#d9622b", "rare": True},
]
AREAS = [
    {**CLASSES[2], "area_m2": 8400.0, "share": 0.004},
    {**CLASSES[0], "area_m2": 1_660_000.0, "share": 0.79},
    {**CLASSES[1], "area_m2": 431_600.0, "share": 0.206},
]
SCENE: dict[str, Any] = {
    "name": None, "date": "2024-07-12", "scenes": ["S2A_31TCG_20240712"], "source": "earth-search sentinel-2-c1-l2a",
    "covered": 0.93, "cloud": 0.04,
}  # fmt: skip
PIXEL: list[tuple[str, float]] = [("landslide", 0.61), ("forest", 0.37), ("water", 0.02)]
MODEL: dict[str, Any] = {
    "id": "valleys",
    "name": "valleys",
    "card_markdown": "---\nlibrary_name: raremap\n---\n# valleys\n\nunet, **0.2 M** parameters; see [the paper](https://example.org)"
    ' and [not this](javascript:alert(1)).\n\n| class | IoU |\n|:--|--:|\n| forest | 0.9 |\n\n<img src=x onerror="boom()">\n',
    "bands": ["red", "green", "blue"],
    "classes": CLASSES,
    "resolution_m": 10.0,
    "no_place": None,
    "metrics": {},
}


def named(number: int) -> str:
    """The id of a job."""
    return f"{number:024x}"


def app(key: str | None = None, basemap: str = "") -> FastAPI:
    """The server; `app.state.jobs` counts the polls of each job, `app.state.refuse` is an answer for the next job.

    `bounds`, `areas` and `pixel` of the state are what it says of each map.
    """
    made = FastAPI()
    made.state.jobs, made.state.refuse, made.state.asked = {}, None, []
    made.state.bounds, made.state.areas, made.state.pixel = BOUNDS, AREAS, PIXEL

    @made.middleware("http")
    async def doors(request: Request, go: Any) -> Response:
        made.state.asked.append(request.url.path)
        if key and request.url.path.startswith("/api/") and request.headers.get("X-API-Key") != key:
            return JSONResponse({"error": "this server asks for a key"}, 401)
        answer = await go(request)
        answer.headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
            f"base-uri 'none'; frame-ancestors 'none'; img-src 'self' data: {basemap}".strip()
        )
        return answer

    @made.get("/api/models")
    def models() -> list[dict[str, Any]]:
        return [MODEL]

    @made.post("/api/predictions", status_code=202)
    async def predict(request: Request) -> Any:
        if made.state.refuse:
            status, line, headers = made.state.refuse
            return JSONResponse({"error": line}, status, headers)
        fails = False
        if "multipart" in request.headers["content-type"]:
            async with request.form() as form:
                fails = getattr(form["file"], "filename", "") == "fails.tif"
                assert form["model"] == "valleys"
        else:
            made.state.place = await request.json()
        job = named(len(made.state.jobs))
        made.state.jobs[job] = {"polls": 0, "fails": fails}
        return {"id": job, "status": "queued", "url": f"/api/predictions/{job}"}

    @made.get("/api/predictions/{job}")
    def prediction(job: str) -> Any:
        if job not in made.state.jobs:
            return JSONResponse({"error": f"no prediction {job}; it may have expired"}, 404)
        state = made.state.jobs[job]
        state["polls"] += 1
        status = ["queued", "running", "failed" if state["fails"] else "done"][min(state["polls"] - 1, 2)]
        done = status == "done"
        url = f"/api/predictions/{job}"
        names = {
            "map": "map.tif",
            "confidence": "confidence.tif",
            "polygons": "polygons.gpkg",
            "preview": "preview.png",
        }
        return {
            "id": job,
            "model": "valleys",
            "status": status,
            "progress": 0.5,
            "error": "the scene has 1 band, valleys expects red, green, blue" if status == "failed" else None,
            "bounds": made.state.bounds if done else None,
            "areas": made.state.areas if done else [],
            "scene": SCENE if done else None,
            "notes": ["the best of 3 tried"] if done else [],
            "files": {kind: f"{url}/{name}" for kind, name in names.items()} if done else {},
            "created": "2026-05-01T10:00:00Z",
            "expires": "2026-05-08T10:00:00Z",
        }

    @made.delete("/api/predictions/{job}", status_code=204)
    def remove(job: str) -> None:
        made.state.jobs.pop(job, None)

    @made.get("/api/predictions/{job}/pixel")
    def pixel(job: str, lon: float, lat: float) -> Any:
        west, south, east, north = made.state.bounds
        lon += 360 if lon < west and east < west else 0
        east += 360 if east < west else 0
        if not (west <= lon <= east and south <= lat <= north):
            return JSONResponse({"error": "this point is outside the map"}, 404)
        return {
            "value": 5,
            "name": made.state.pixel[0][0],
            "probabilities": [{"name": name, "p": p} for name, p in made.state.pixel],
        }

    @made.get("/api/predictions/{job}/tiles/{layer}/{z}/{x}/{y}.png")
    def tile(job: str, layer: str, z: int, x: int, y: int) -> Response:
        png = io.BytesIO()
        Image.fromarray(_tile(layer, z, x, y, made.state.bounds)).save(png, "PNG")
        return Response(png.getvalue(), media_type="image/png")

    @made.get("/api/predictions/{job}/{name}")
    def file(job: str, name: str) -> Response:
        return Response(f"{name} of {job}".encode(), media_type="application/octet-stream")

    made.mount("/", StaticFiles(directory=PAGE, html=True))
    return made


def _tile(layer: str, z: int, x: int, y: int, bounds: tuple[float, float, float, float]) -> np.ndarray:
    """Hills of sines where the ground lies in the bounds, transparent elsewhere."""
    step = (np.arange(256) + 0.5) / 256
    lon = ((x + step) / 2**z * 360 - 180)[None]
    lat = np.degrees(np.arctan(np.sinh(math.pi * (1 - 2 * (y + step) / 2**z))))[:, None]
    west, south, east, north = bounds
    if east < west:
        east, lon = east + 360, np.where(lon < west, lon + 360, lon)
    hill = np.sin((lon - west) * 300) * np.cos((lat - south) * 400) + 0 * lat
    inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    picked = np.where(hill > 0.97, 2, np.where(hill < -0.3, 1, 0))
    colors = np.array([[int(c["color"][i : i + 2], 16) for i in (1, 3, 5)] for c in CLASSES])
    rgb = {"classes": colors[picked], "confidence": np.repeat((127 + 120 * hill)[..., None], 3, 2)}.get(
        layer, np.stack([90 + 40 * hill, 110 + 50 * hill, 80 + 30 * hill], -1)
    )
    return np.dstack([rgb, inside * 255]).astype(np.uint8)
