"""`raremap export-tiles`: the tiles of a catalog as files, for those who need them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import OutputError
from raremap.files import locked, written
from raremap.jobs import cores, in_threads, progress
from raremap.labels import IGNORE

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.scene.raster import ImageReader
    from raremap.scene.window import Window
    from raremap.tiles.catalog import Catalog

_MANIFEST = "tiles.json"
_PART = 32  # tiles that a thread writes at a time


@dataclass(frozen=True)
class Exported:
    """Where the tiles are, how many were written now and before, and how many by use."""

    out: Path
    written: int
    kept: int
    by_use: dict[str, int]
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**self.__dict__, "out": str(self.out)}

    def __str__(self) -> str:
        uses = ", ".join(f"{n} {use}" for use, n in self.by_use.items())
        lines = [f"{self.written} tiles written to {self.out}, {self.kept} were there ({uses})"]
        if self.left_out:
            lines.append(
                f"left out: {self.left_out} tiles (share ground with another use, or lie in its buffer)"
            )
        return "\n".join(lines)


def export_tiles(
    catalog: Catalog | str | Path, out: str | Path, split: bool = False, quiet: bool = False
) -> Exported:
    """Write every tile as `images/TILE.tif` and `masks/TILE.tif`, with a list `tiles.csv`.

    Files keep the scene's grid, bands and nodata; masks are in the source's numbers, with the classes' colours
    and names. `split` puts each use in a folder of its own and leaves out tiles that share ground with another
    use or lie in its buffer. Tiles that are there are kept, so that a stopped export goes on; raises
    `OutputError` where the folder holds those of another catalog.
    """
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.splits import uses

    if not isinstance(catalog, Catalog):
        catalog = Catalog.load(catalog)
    catalog.check_sources()
    catalog.scheme.map_nodata  # noqa: B018  # raises before anything is written where classes need two bytes
    out = Path(out)
    use = uses(catalog, warn=False) if split else np.full(len(catalog), "all")
    rows = np.flatnonzero(use != "dropped")
    names = _names(catalog, rows)
    folders = [out / str(u) if split else out for u in use[rows]]
    with locked(out):
        _claim(out, {"catalog": catalog.fingerprint, "split": split})
        done = 0
        with progress("export", len(rows), quiet) as bar:

            def export(part: np.ndarray) -> int:
                scene = str(catalog.scene_names[rows[part[0]]])
                return _export(
                    catalog, scene, [(catalog.windows[rows[i]], folders[i], names[i]) for i in part]
                )

            for part, count in in_threads(_parts(catalog.scene_names[rows]), export, cores()):
                done += count
                bar.advance(len(part))
        table = catalog.table.iloc[rows].drop(columns=["geometry", "counts"])
        table.insert(0, "file", [f"{names[i]}.tif" for i in range(len(rows))])
        table.insert(1, "use", use[rows])
        with written(out / "tiles.csv") as fresh:
            table.to_csv(fresh, index=False)
    by_use = Counter(str(u) for u in use[rows])
    return Exported(out, done, len(rows) - done, dict(by_use), len(catalog) - len(rows))


def _parts(scenes: np.ndarray) -> Iterator[np.ndarray]:
    """The tiles, given by their scenes, in parts of one scene: a stop waits for those under way."""
    for scene in dict.fromkeys(scenes):
        here = np.flatnonzero(scenes == scene)
        yield from np.split(here, range(_PART, len(here), _PART))


def _names(catalog: Catalog, rows: np.ndarray) -> list[str]:
    """File names of tiles: their identifiers, with what no file system takes replaced."""
    ids = [str(t) for t in catalog.table["tile_id"].iloc[rows]]
    names = ["".join(c if c.isalnum() or c in "-." else "_" for c in t) for t in ids]
    twice = Counter(names)
    return [n if twice[n] == 1 else f"{n}_{row}" for n, row in zip(names, rows, strict=True)]


def _claim(out: Path, mine: dict[str, Any]) -> None:
    """Write down whose tiles the folder holds; raises `OutputError` where they are another catalog's."""
    path = out / _MANIFEST
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if theirs != mine:
            raise OutputError(
                f"{out} holds the tiles of another catalog or another division; choose another folder with -o"
            )
        return
    with written(path) as fresh:
        fresh.write_text(json.dumps(mine) + "\n", encoding="utf-8")


def _export(catalog: Catalog, scene: str, wanted: list[tuple[Window, Path, str]]) -> int:
    """Write tiles of a scene; says how many were not there."""
    count = 0
    with catalog.open_image(scene) as image, catalog.open_mask(scene) as mask:
        for window, folder, name in wanted:
            files = (folder / "images" / f"{name}.tif", folder / "masks" / f"{name}.tif")
            if all(f.exists() for f in files):
                continue
            pixels, valid = image.read(window)
            index = mask.read(window)
            index[~valid] = IGNORE
            _write_image(files[0], image, window, pixels, valid)
            _write_mask(files[1], image, window, catalog.scheme, index)
            count += 1
    return count


def _write_image(
    path: Path, image: ImageReader, window: Window, pixels: np.ndarray, valid: np.ndarray
) -> None:
    import rasterio

    profile = _profile(image, window, len(pixels), pixels.dtype, image.nodata)
    with (
        written(path) as fresh,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(fresh, "w", **profile) as file,
    ):
        file.write(pixels)
        file.descriptions = image.bands
        if (
            not valid.all()
        ):  # beside the nodata value: a layer has its own, and there are alpha bands and masks
            file.write_mask(valid)


def _write_mask(
    path: Path, image: ImageReader, window: Window, scheme: LabelScheme, index: np.ndarray
) -> None:
    import rasterio

    with (
        written(path) as fresh,
        rasterio.open(
            fresh, "w", **_profile(image, window, 1, np.dtype(np.uint8), scheme.map_nodata)
        ) as file,
    ):
        file.write(scheme.decode(index), 1)
        colors = zip(scheme.values, scheme.rgb.tolist(), strict=True)
        file.write_colormap(1, {v: (*rgb, 255) for v, rgb in colors})
        file.update_tags(1, **{f"class_{v}": n for v, n in zip(scheme.values, scheme.names, strict=True)})


def _profile(
    image: ImageReader, window: Window, bands: int, dtype: np.dtype, nodata: float | None
) -> dict[str, Any]:
    from rasterio.dtypes import in_dtype_range

    if nodata is not None and not in_dtype_range(nodata, str(dtype)):
        nodata = None  # no pixel has it
    grid = image.grid.shifted(window)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": bands, "dtype": dtype,
        "nodata": nodata, "compress": "deflate", "interleave": "band", "photometric": "minisblack",
    }  # fmt: skip
    if image.grid.georeferenced:
        profile |= {"crs": grid.crs, "transform": grid.transform}
    return profile
