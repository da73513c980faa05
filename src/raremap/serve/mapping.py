"""One prediction from end to end, as the worker makes it: a scene to a folder of results."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import RaremapError, RaremapWarning
from raremap.jobs import heard
from raremap.maps.dates import TAG
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

    with noted(folder, task) as notes:
        taken = scene_of(bundle, task, folder, tell)
        shutil.rmtree(folder / FETCHED, ignore_errors=True)
        with heard(lambda share: tell(taken.begun + share * (_MAPPED - taken.begun))):
            predict(
                bundle, taken.path, folder / results.MAP, probabilities="uint8", confidence=True, device=device,
                tags=taken.tags,
            )  # fmt: skip
    with heard(lambda share: tell(_MAPPED + share * (_OUTLINED - _MAPPED))):
        outlined = vectorize(folder / results.MAP, folder / results.POLYGONS, background=True)
    results.draw(folder)
    return {"areas": results.areas(model, outlined.area_m2 or {}), "notes": notes, **about(taken)}


@dataclass(frozen=True)
class Taken:
    """A scene as a COG of ours, what is told of it (`schemas.Scene`), and how far the whole is with it, from 0 to 1."""

    path: Path
    told: dict[str, Any]
    begun: float

    @property
    def tags(self) -> dict[str, str]:
        """The same for the tags of a map."""
        told = {
            "raremap_scene": self.told["name"],
            TAG: self.told["date"],
            "raremap_source": self.told["source"],
        }
        told["raremap_scenes"] = " ".join(self.told["scenes"])
        return {name: value for name, value in told.items() if value}


@contextmanager
def noted(folder: Path, task: dict[str, Any]) -> Iterator[list[str]]:
    """The warnings of the block, as notes to the user: lines without the server's folders."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RaremapWarning)
        yield notes
    lines = (str(w.message) for w in said if issubclass(w.category, RaremapWarning))
    notes += dict.fromkeys(private(line, task, folder) for line in lines)


def private(line: str, task: dict[str, Any], folder: Path) -> str:
    """A message without the server's folders."""
    files = {name: task.get("called", "the scene") for name in (results.UPLOAD, results.SCENE)}
    files[results.UNITS_IN] = task.get("units_called", "the units")
    for name, called in files.items():
        line = line.replace(str(folder / name), called)
    return line.replace(f"{folder}/", "")


def scene_of(
    bundle: Bundle | Ensemble, task: dict[str, Any], folder: Path, tell: Callable[[float], None]
) -> Taken:
    """The scene of a prediction; what came with a fetched one stays in `FETCHED`."""
    from raremap.serve.scenes import ingest

    scene = folder / results.SCENE
    if "upload" in task:
        upload = folder / task["upload"]
        if not scene.exists():
            ingest(upload, scene, task["called"])
        upload.unlink(missing_ok=True)
        told = {"name": task["called"], "date": _date(scene), "scenes": [], "source": None, "covered": None, "cloud": None}  # fmt: skip
        begun = _COPIED
    else:
        from raremap.serve.place import fetch

        with heard(lambda share: tell(share * _FETCHED)):
            image, told = fetch(task, bundle, folder / FETCHED)
            ingest(image, scene, task["called"])
        begun = _FETCHED
    tell(begun)
    return Taken(scene, told, begun)


def _date(scene: Path) -> str | None:
    """The day that a file's tags tell, such as 2024-07-01."""
    from raremap.maps.dates import iso
    from raremap.workflows.days import day_of

    try:
        return iso(day_of(scene))
    except RaremapError:
        return None


def about(taken: Taken) -> dict[str, Any]:
    """What a scene is, where it lies, and how it is shown."""
    from raremap.scene.raster import open_image
    from raremap.serve.scenes import bounds_of, shown_bands, stretch

    scene = taken.path
    numbers = shown_bands(open_image(scene).bands)
    shown = {"bands": numbers, "ranges": stretch(scene, numbers)}
    return {"scene": taken.told, "bounds": bounds_of(scene), "shown": shown}
