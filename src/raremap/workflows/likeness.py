"""Whether a scene is like what a model was trained on: the size of its pixels, and the scale of its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raremap.errors import SceneError
from raremap.scene.gdal import placed_by_points
from raremap.workflows.uses import members_of

if TYPE_CHECKING:
    import numpy as np

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.scene.grid import Grid
    from raremap.tiles.catalog import Catalog, SceneRecord

COARSER = 1.5
"""How many times as large pixels may be as those of the training, or these as them."""

# No ground is ten times as bright as the mean of the training in every band, or a tenth: a scale is, from percent or eight
# bits to reflectance.
_BRIGHTER = 10.0
_AROUND_0 = 0.25  # deviations, or shares of a range
_WINDOWS, _SIDE = 3, 32


def pixels_of(catalog: Catalog) -> float | None:
    """Metres of ground along a pixel's side, the median of the scenes; None where they have no CRS or differ much."""
    from statistics import median

    from raremap.scene.groundarea import pixel_m

    sizes = [size for s in catalog.scenes.values() if (size := pixel_m(s.grid)) is not None]
    return median(sizes) if sizes and max(sizes) <= COARSER * min(sizes) else None


def unlike(model: Bundle | Ensemble | Exported, scene: SceneRecord) -> Iterator[str]:
    """In what a scene that has the bands of a model is not like its training, or gives no map with a place, a line each."""
    if not scene.grid.georeferenced and (told := placed_by_points(scene.images[0])):
        yield told
    if told := _of_another_size(model, scene.grid):
        yield f"{scene.images[0]} {told}"
    if told := _of_another_scale(model, scene):
        yield f"{scene.images[0]} {told}"


def _of_another_size(model: Bundle | Ensemble | Exported, grid: Grid) -> str | None:
    from raremap.scene.groundarea import pixel_m

    learned, size = model.info.get("resolution_m"), pixel_m(grid)
    if not learned or not size or max(learned, size) <= COARSER * min(learned, size):
        return None
    return (
        f"has pixels of {size:.3g} m, and {model.name} was trained on pixels of {learned:.3g} m: what it knows is of another "
        f"size here; resample the scene to {learned:.3g} m"
    )


def _of_another_scale(model: Bundle | Ensemble | Exported, scene: SceneRecord) -> str | None:
    import numpy as np

    normalization = members_of(model)[0].normalization
    if normalization.middles is None or (found := _medians(scene, model.bands)) is None:
        return None
    # Of a band around 0, such as a difference of dates, no multiple is told.
    told = zip(found.tolist(), normalization.middles, normalization.scale, strict=False)
    pairs = [(value, middle) for value, middle, scale in told if abs(middle * scale) > _AROUND_0]
    if not pairs:
        return None
    ratios = np.array([value / middle for value, middle in pairs])
    if not ((ratios > _BRIGHTER).all() or (ratios < 1 / _BRIGHTER).all()):
        return None
    value, middle = (float(np.median(v)) for v in zip(*pairs, strict=True))
    return (
        f"holds numbers of about {value:.3g}, and {model.name} was trained on about {middle:.3g}: they are of another "
        "scale, and the map is hardly to be trusted; give the scene in that of the training"
    )


def _medians(scene: SceneRecord, bands: tuple[str, ...]) -> np.ndarray | None:
    """The middle of each band in a few windows all over a scene, None where they hold no data."""
    import numpy as np

    from raremap.scene.window import Window

    height, width = scene.grid.height, scene.grid.width
    side = min(_SIDE, height, width)
    tops, lefts = (np.linspace(0, n - side, _WINDOWS + 2, dtype=int)[1:-1] for n in (height, width))
    sample = []
    try:
        with scene.open_image(bands) as image:
            for top in dict.fromkeys(tops.tolist()):
                for left in dict.fromkeys(lefts.tolist()):
                    pixels, valid = image.read(Window(top, left, side, side))
                    sample.append(pixels[:, valid].astype(np.float64))
    except SceneError:  # told when it is mapped
        return None
    values = np.concatenate(sample, 1)
    return np.median(values, axis=1) if values.shape[1] else None
