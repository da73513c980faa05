"""What the stored blocks of a scene follow from, and in what two of them differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from raremap.scene.gdal import modified
from raremap.tiles.store import Form

if TYPE_CHECKING:
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
}


def form_of(record: SceneRecord, shares: int) -> Form:
    """What a block of a scene holds; `shares` is the number of classes where labels are shared."""
    with record.open_image() as image:
        return Form(str(image.dtype), len(image.bands), record.weights is not None, shares)


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
        "form": [form.dtype, form.bands, form.weighted, form.shares],
        "size": [record.grid.height, record.grid.width],
        "vector": record.vector.model_dump(mode="json") if record.vector else None,
        "clouds": record.clouds.model_dump(mode="json", exclude={"files"}) if record.clouds else None,
    }
    return json.loads(json.dumps(found))


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs first, in words, or None."""
    return next((_SAID[key] for key, value in now.items() if before.get(key) != value), None)
