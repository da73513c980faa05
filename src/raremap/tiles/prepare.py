"""Scenes and masks to a catalog: every tile's class counts, read once, in bounded memory."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import LabelError, RaremapWarning, SceneError, nearest
from raremap.jobs import Journal, cores, progress
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions, SceneSource, find_scenes
from raremap.tiles.catalog import COLUMNS, Catalog, SceneRecord
from raremap.tiles.counts import Counted, count, reasons
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.places import assign_places

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

    from raremap.cluster import Cluster
    from raremap.scene.grid import Grid


def prepare(
    scenes: ScenesOptions,
    scheme: LabelScheme,
    tiles: TileOptions,
    split: SplitOptions,
    quiet: bool = False,
    work: Path | None = None,
    folder: Path | None = None,
    cluster: Cluster | None = None,
) -> Catalog:
    """The catalog of all tiles that hold enough valid and any labelled pixels, with places and folds.

    `work` is a file for what is counted, so that a stopped job goes on where it was; `prepare` leaves it to
    the caller to delete it once the catalog is safe. `folder` keeps the masks that `scenes.rescale` brings to
    their images' grids. With a `cluster` its workers read. Raises `SceneError` and `LabelError` naming the file, and `SceneError` where no tile is
    left.
    """
    for name in tiles.drop_only:
        if name not in scheme.names:
            raise LabelError(
                f"tiles.drop_only has '{name}', which is no class; {nearest(name, scheme.names)}"
            )
    only = [scheme.index(name) for name in tiles.drop_only]
    sources = settled_scenes(scenes, scheme, folder, quiet, cluster)
    records = _open_all(sources, scenes, scheme)
    _check_sizes(records, tiles)
    frames: list[pd.DataFrame] = []
    dropped: Counter[str] = Counter()
    with progress("prepare", len(sources), quiet) as bar:
        for name, found in count(records, scheme, tiles, Journal(work), cores(), bar, cluster):
            lost = reasons(found, tiles, only)
            dropped.update({reason: int(which.sum()) for reason, which in lost.items() if which.any()})
            kept = ~np.any(list(lost.values()), axis=0)
            if kept.any():
                frames.append(_rows(name, records[name], found, kept, len(tiles.sizes) > 1))
    if not frames:
        said = ", ".join(f"{n} tiles: {reason}" for reason, n in dropped.items())
        raise SceneError(
            f"no tile is left of {len(sources)} scenes ({said}); check nodata, labels and tiles.min_valid"
        )
    catalog = Catalog(_frame(frames), scheme, tiles, split, records, dict(dropped))
    return assign_places(catalog, split, scenes.root)


def _check_sizes(records: dict[str, SceneRecord], tiles: TileOptions) -> None:
    """Raise `SceneError` for one of several sizes that no scene has room for."""
    if len(tiles.sizes) == 1 or not records:
        return
    largest = max(records.values(), key=lambda r: max(r.grid.height, r.grid.width))
    for size in tiles.sizes:
        if size > max(largest.grid.height, largest.grid.width):
            raise SceneError(
                f"tiles.size lists {size}, but the largest scene, {largest.images[0]}, has "
                f"{largest.grid.width}x{largest.grid.height} pixels; leave the size out"
            )


def settled_scenes(
    scenes: ScenesOptions, scheme: LabelScheme, folder: Path | None, quiet: bool = False,
    cluster: Cluster | None = None,
) -> list[SceneSource]:  # fmt: skip
    """The scenes with their masks on the images' grids, rescaled into `folder` where that is asked for."""
    sources = find_scenes(scenes)
    if scenes.rescale is None:
        return sources
    if folder is None:
        raise SceneError("scenes.rescale needs a folder for the masks it makes; prepare with one")
    from raremap.scene.rescaled import on_image_grids

    with progress("rescale", len(sources), quiet) as bar:
        return on_image_grids(sources, scenes.rescale, scheme, folder, bar, cluster)


def _open_all(
    sources: Sequence[SceneSource], scenes: ScenesOptions, scheme: LabelScheme
) -> dict[str, SceneRecord]:
    """Every scene opened and checked against its mask and the first scene's bands, before any is read."""
    records: dict[str, SceneRecord] = {}
    first: tuple[str, tuple[str, ...]] | None = None
    remarks: list[str] = []
    for source in sources:
        record = SceneRecord.of(source, scenes)
        if first is None:
            first = (source.images[0], record.bands)
        if record.bands != first[1]:
            raise SceneError(
                f"{source.images[0]} has bands {', '.join(record.bands)}, but {first[0]} has {', '.join(first[1])}; "
                "all scenes need the same bands (scenes.bands names them, scenes.use picks some)"
            )
        with record.open_mask(scheme) as mask:
            soft = mask.soft
            if mask.remark:
                remarks.append(mask.remark)
        if (reader := record.open_clouds()) is not None:
            reader.close()
        records[source.name] = replace(record, fractions=soft, fingerprint=record.current_fingerprint())
    if remarks:
        more = f" (and {len(remarks) - 1} more masks)" if len(remarks) > 1 else ""
        warnings.warn(remarks[0] + more, RaremapWarning, stacklevel=3)
    return records


def _rows(name: str, record: SceneRecord, found: Counted, kept: np.ndarray, sized: bool) -> pd.DataFrame:
    """The catalog's rows of the tiles of a scene that are kept; `sized`: their names say the size too."""
    import pandas as pd

    windows = found.windows[kept]
    counts, valid, area = found.counts[kept], found.valid[kept], found.area[kept]
    known = record.clouds is not None
    columns: dict[str, Any] = {
        "tile_id": [f"{name}:{r}:{c}" + (f":{h}x{w}" if sized else "") for r, c, h, w in windows.tolist()],
        "scene": name,
        "date": record.date,
        **dict(zip(("row_off", "col_off", "height", "width"), windows.T, strict=True)),
        "place": "",
        "fold": -1,
        "valid": valid / area,
        "labelled": counts.sum(1) / area,
        "cloud": found.cloud[kept] / valid if known else np.nan,
        "snow": found.snow[kept] / valid if known else np.nan,
        "counts": list(counts.astype(np.float32)),
        "geometry": footprints(record.grid, windows),
    }
    return pd.DataFrame(columns)


def _frame(frames: Sequence[pd.DataFrame]) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pandas as pd

    integers = dict.fromkeys(("row_off", "col_off", "height", "width", "fold"), "int32")
    reals = dict.fromkeys(("valid", "labelled", "cloud", "snow"), "float32")
    kinds = {**integers, **reals, "date": "string"}
    table = pd.concat([frame.astype(kinds) for frame in frames], ignore_index=True)
    return gpd.GeoDataFrame(table[list(COLUMNS)], geometry="geometry", crs="EPSG:4326")


def footprints(grid: Grid, windows: np.ndarray) -> np.ndarray:
    """The corners of windows `[n, 4]` in longitude and latitude as polygons, or None for each without a CRS."""
    if grid.crs is None:
        return np.full(len(windows), None, object)
    from rasterio.warp import transform
    from shapely import polygons

    xs, ys = grid.corners(windows).reshape(-1, 2).T
    lon, lat = transform(grid.crs, "EPSG:4326", xs, ys)[:2]
    return np.asarray(polygons(np.stack([lon, lat], -1).reshape(-1, 4, 2)), object)
