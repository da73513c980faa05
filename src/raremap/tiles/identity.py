"""What the stored blocks of a scene, or of one of its features, follow from, and in what two of them differ."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.scene.gdal import fingerprint, modified
from raremap.tiles.store import Form, Layer

if TYPE_CHECKING:
    from raremap.scene.features.options import FeatureOptions
    from raremap.tiles.catalog import SceneRecord

_SAID = {
    "files": "the files",
    "bands": "the bands",
    "names": "the bands' names",
    "nodata": "the value of no data",
    "form": "the type of pixels",
    "size": "the size",
    "vector": "the options of vector labels",
    "clouds": "the options of clouds",
    "ground": "the place on the ground",
}


def form_of(record: SceneRecord, shares: int) -> Form:
    """What a block of a scene holds; `shares` is the number of classes where labels are shared."""
    with record.open_image() as image:
        return Form.of_scene(str(image.dtype), len(image.bands), record.weights is not None, shares)


def feature_form(feature: FeatureOptions) -> Form:
    """What a block of a feature that is kept holds."""
    assert feature.kept is not None
    return Form((Layer(feature.kept, len(feature.channels)),))


def identity(record: SceneRecord, form: Form) -> dict[str, Any]:
    """What the blocks of a scene follow from, as JSON has it; where its files lie is not among it.

    Files are known by their checksums and by their times: those see what was written in the middle of a large one.
    """
    stamps = [modified(path) for path in record.files]
    found = {
        "files": [record.current_fingerprint(), *stamps],
        "bands": record.bands,
        "names": record.names,
        "nodata": repr(record.nodata),
        "form": form.layers,
        "size": [record.grid.height, record.grid.width],
        "vector": record.vector.model_dump(mode="json") if record.vector else None,
        "clouds": record.clouds.model_dump(mode="json", exclude={"files"}) if record.clouds else None,
    }
    return json.loads(json.dumps(found))


def image_identity(record: SceneRecord) -> dict[str, Any]:
    """What the features of a scene follow from besides their own numbers, as JSON has it: its labels are not among it."""
    paths = record.image_files
    grid = record.grid
    found = {
        "files": [[fingerprint(path), modified(path)] for path in paths],
        "bands": record.bands,
        "names": record.names,
        "nodata": repr(record.nodata),
        "size": [grid.height, grid.width],
        "ground": [grid.crs.to_wkt() if grid.crs else None, *grid.transform[:6]],
    }
    return json.loads(json.dumps(found))


def feature_identity(feature: FeatureOptions) -> dict[str, Any]:
    """A feature with all its numbers, as JSON has it; what its channel is called is not among them."""
    return feature.model_dump(mode="json", exclude={"name"})


def feature_folder(folder: Path, feature: FeatureOptions) -> Path:
    """Where in the folder of a store a feature's own lies: by its kind and its numbers.

    >>> from raremap.scene.features.options import Median
    >>> one, other, third = (feature_folder(Path(), f) for f in (Median(), Median(name="soft"), Median(size=7)))
    >>> one == other, one == third
    (True, False)
    """
    text = json.dumps(feature_identity(feature), sort_keys=True)
    return folder / "features" / f"{feature.kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs first, in words, or None."""
    return next((_SAID[key] for key, value in now.items() if before.get(key) != value), None)
