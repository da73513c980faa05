"""One prediction from end to end, as the worker makes it: a scene to a folder of results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.jobs import heard
from raremap.serve import results
from raremap.serve.models import Model

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble

FETCHED = "fetched"
"""What is fetched lies here."""

# Where each step ends, from 0 to 1.
_FETCHED, _COPIED, _MAPPED, _OUTLINED = 0.3, 0.1, 0.85, 0.97


def map_scene(
    bundle: Bundle | Ensemble,
    model: Model,
    task: dict[str, Any],
    folder: Path,
    tell: Callable[[float], None],
    device: str = "auto",
) -> dict[str, Any]:
    """Copy the upload (or fetch the scene), map it, outline it, draw its picture; gives what `Job.result` holds.

    Files take their names when they are complete, so that a job that is begun again writes them again. Raises
    `RaremapError`, in one line.
    """
    from raremap.workflows.predict import predict
    from raremap.workflows.vectorize import vectorize

    scene, begun = scene_of(bundle, model, task, folder, tell)
    shutil.rmtree(folder / FETCHED, ignore_errors=True)
    with heard(lambda share: tell(begun + share * (_MAPPED - begun))):
        predict(bundle, scene, folder / results.MAP, probabilities="uint8", confidence=True, device=device)
    with heard(lambda share: tell(_MAPPED + share * (_OUTLINED - _MAPPED))):
        outlined = vectorize(folder / results.MAP, folder / results.POLYGONS, background=True)
    results.draw(folder)
    return {"areas": results.areas(model, outlined.area_m2 or {}), **about(scene)}


def scene_of(
    bundle: Bundle | Ensemble, model: Model, task: dict[str, Any], folder: Path, tell: Callable[[float], None]
) -> tuple[Path, float]:
    """The scene of a prediction as a COG of ours, and how far the whole is with it.

    What came with a fetched one stays in `FETCHED`.
    """
    from raremap.serve.scenes import ingest

    scene = folder / results.SCENE
    if "upload" in task:
        upload = folder / task["upload"]
        if not scene.exists():
            ingest(upload, scene, task["called"])
        upload.unlink(missing_ok=True)
        begun = _COPIED
    else:
        from raremap.serve.place import fetch

        with heard(lambda share: tell(share * _FETCHED)):
            ingest(fetch(task, bundle, model, folder / FETCHED), scene, task["called"])
        begun = _FETCHED
    tell(begun)
    return scene, begun


def about(scene: Path) -> dict[str, Any]:
    """Where a scene lies, and how it is shown."""
    from raremap.scene.raster import open_image
    from raremap.serve.scenes import bounds_of, shown_bands, stretch

    numbers = shown_bands(open_image(scene).bands)
    return {"bounds": bounds_of(scene), "shown": {"bands": numbers, "ranges": stretch(scene, numbers)}}
