"""Scenes and masks to a catalog: every tile's class counts, read once, in bounded memory."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import RaremapWarning, SceneError
from raremap.jobs import progress
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.masks import Mask
from raremap.scene.raster import ImageReader, open_image
from raremap.scene.sources import ScenesOptions, SceneSource, find_scenes
from raremap.scene.window import Window
from raremap.tiles.catalog import COLUMNS, Catalog, SceneRecord
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.places import assign_places
from raremap.tiles.windows import cover, stride

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry import Polygon

    from raremap.scene.grid import Grid

# Windows of one row that are read in one go: a bound on memory in columns.
_CHUNK = 16


def prepare(
    scenes: ScenesOptions,
    scheme: LabelScheme,
    tiles: TileOptions,
    split: SplitOptions,
    quiet: bool = False,
    folder: Path | None = None,
) -> Catalog:
    """The catalog of all tiles that hold enough valid and any labelled pixels, with places and folds.

    `folder` keeps the masks that `scenes.rescale` brings to their images' grids. Raises `SceneError` and
    `LabelError` naming the file, and `SceneError` where no tile is left.
    """
    sources = settled_scenes(scenes, scheme, folder, quiet)
    records = _open_all(sources, scenes, scheme)
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    with progress("prepare", len(sources), quiet) as bar, ThreadPoolExecutor(4) as pool:
        for found, lost in pool.map(lambda s: _scene_tiles(s.name, records[s.name], scheme, tiles), sources):
            rows += found
            dropped += lost
            bar.advance()
    if not rows:
        reasons = ", ".join(f"{n} tiles: {reason}" for reason, n in dropped.items())
        raise SceneError(
            f"no tile is left of {len(sources)} scenes ({reasons}); check nodata, labels and tiles.min_valid"
        )
    table = _frame(rows)
    catalog = Catalog(table, scheme, tiles, split, records, dict(dropped))
    return assign_places(catalog, split, scenes.root)


def settled_scenes(
    scenes: ScenesOptions, scheme: LabelScheme, folder: Path | None, quiet: bool = False
) -> list[SceneSource]:
    """The scenes with their masks on the images' grids, rescaled into `folder` where that is asked for."""
    sources = find_scenes(scenes)
    if scenes.rescale is None:
        return sources
    if folder is None:
        raise SceneError("scenes.rescale needs a folder for the masks it makes; prepare with one")
    from raremap.scene.rescaled import on_image_grids

    with progress("rescale", len(sources), quiet) as bar:
        return on_image_grids(sources, scenes.rescale, scheme, folder, bar)


def _open_all(
    sources: Sequence[SceneSource], scenes: ScenesOptions, scheme: LabelScheme
) -> dict[str, SceneRecord]:
    """Every scene opened and checked against its mask and the first scene's bands, before any is read."""
    records: dict[str, SceneRecord] = {}
    first: tuple[str, tuple[str, ...]] | None = None
    remarks: list[str] = []
    for source in sources:
        with open_image(source.images, names=source.bands, bands=scenes.use, nodata=scenes.nodata) as image:
            if first is None:
                first = (source.images[0], image.bands)
            if image.bands != first[1]:
                raise SceneError(
                    f"{source.images[0]} has bands {', '.join(image.bands)}, but {first[0]} has {', '.join(first[1])}; "
                    "all scenes need the same bands (scenes.bands names them, scenes.use picks some)"
                )
            record = SceneRecord(
                images=source.images,
                mask=source.mask,
                names=source.bands,
                bands=image.bands,
                nodata=image.nodata,
                grid=image.grid,
                fingerprint="",
                groups=source.groups,
                vector=scenes.vector,
                weights=source.weights,
            )
        with record.open_mask(scheme) as mask:
            if mask.remark:
                remarks.append(mask.remark)
        records[source.name] = replace(record, fingerprint=record.current_fingerprint())
    if remarks:
        more = f" (and {len(remarks) - 1} more masks)" if len(remarks) > 1 else ""
        warnings.warn(remarks[0] + more, RaremapWarning, stacklevel=3)
    return records


def _scene_tiles(
    name: str, record: SceneRecord, scheme: LabelScheme, tiles: TileOptions
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows of the tiles of one scene, and what was left out by reason."""
    grid = record.grid
    windows = cover(grid.height, grid.width, tiles.size, stride(tiles.size, tiles.overlap))
    rows, lost = [], Counter[str]()
    with record.open_image() as image, record.open_mask(scheme) as mask:
        for _, line in groupby(windows, key=lambda w: w.row_off):
            line = list(line)
            for i in range(0, len(line), _CHUNK):
                chunk = line[i : i + _CHUNK]
                for window, counts, valid, labelled in _count(image, mask, chunk, scheme.num_classes):
                    area = window.height * window.width
                    if valid < tiles.min_valid * area or valid == 0:
                        lost["too few valid pixels" if valid else "no valid pixel"] += 1
                    elif labelled == 0:
                        lost["no labelled pixel"] += 1
                    else:
                        rows.append(_row(name, grid, window, counts, valid / area, labelled / area))
    return rows, lost


def _count(
    image: ImageReader, mask: Mask, chunk: Sequence[Window], k: int
) -> Iterator[tuple[Window, np.ndarray, int, int]]:
    """Class counts, valid and labelled pixels of neighbouring windows of one row, from one read."""
    first, last = chunk[0], chunk[-1]
    whole = Window(first.row_off, first.col_off, first.height, last.col_end - first.col_off)
    _, valid = image.read(whole)
    index = mask.read(whole)
    index[~valid] = IGNORE
    for window in chunk:
        part = window.slices(within=whole)
        counts = np.bincount(index[part].ravel(), minlength=256)[:k]
        yield window, counts, int(np.count_nonzero(valid[part])), int(counts.sum())


def _row(
    name: str, grid: Grid, w: Window, counts: np.ndarray, valid: float, labelled: float
) -> dict[str, Any]:
    return {
        "tile_id": f"{name}:{w.row_off}:{w.col_off}",
        "scene": name,
        "date": None,
        "row_off": w.row_off,
        "col_off": w.col_off,
        "height": w.height,
        "width": w.width,
        "place": "",
        "fold": -1,
        "valid": valid,
        "labelled": labelled,
        "cloud": None,
        "snow": None,
        "counts": counts.astype(np.float32),
        "geometry": footprint(grid, w),
    }


def _frame(rows: list[dict[str, Any]]) -> gpd.GeoDataFrame:
    import geopandas as gpd

    frame = gpd.GeoDataFrame(rows, columns=list(COLUMNS), geometry="geometry", crs="EPSG:4326")
    integers = dict.fromkeys(("row_off", "col_off", "height", "width", "fold"), "int32")
    reals = dict.fromkeys(("valid", "labelled", "cloud", "snow"), "float32")
    return frame.astype({**integers, **reals, "date": "string"})


def footprint(grid: Grid, window: Window) -> Polygon | None:
    """The window's corners in longitude and latitude, or None without a CRS."""
    if grid.crs is None:
        return None
    from rasterio.warp import transform
    from shapely.geometry import Polygon

    corners = [
        (window.col_off, window.row_off),
        (window.col_end, window.row_off),
        (window.col_end, window.row_end),
        (window.col_off, window.row_end),
    ]
    xs, ys = zip(*(grid.transform @ c for c in corners), strict=True)
    lon, lat = transform(grid.crs, "EPSG:4326", xs, ys)[:2]
    return Polygon(zip(lon, lat, strict=True))
