"""`Catalog`: one GeoParquet table, a row a tile; the only thing that later rooms read of the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError, reason
from raremap.files import written
from raremap.labels import LabelScheme
from raremap.scene.clouds import ClearMask, CloudReader, CloudRecord
from raremap.scene.gdal import fingerprint, is_remote
from raremap.scene.grid import Grid
from raremap.scene.layers import files_of
from raremap.scene.layout import open_source
from raremap.scene.maskfile import WeightReader, open_weights
from raremap.scene.masks import Mask, open_labels
from raremap.scene.raster import ImageReader, open_image
from raremap.scene.vector_options import VectorOptions
from raremap.scene.window import Window
from raremap.tiles.options import SplitOptions, TileOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas as gpd

    from raremap.scene.sources import ScenesOptions, SceneSource

_KEY = b"raremap"
COLUMNS = [
    "tile_id",
    "scene",
    "date",
    "row_off",
    "col_off",
    "height",
    "width",
    "place",
    "fold",
    "valid",
    "labelled",
    "cloud",
    "snow",
    "counts",
    "geometry",
]


@dataclass(frozen=True)
class SceneRecord:
    """A scene's files, bands, nodata, grid and fingerprint, as the catalog remembers them.

    `site` is the ground it shows, which all its dates share; `date` is the date, or all dates of a stack. `layers`
    are bands in files of their own, by name. `fractions` says whether its labels are shares of classes.
    """

    images: tuple[str, ...]
    mask: str | None
    names: tuple[str, ...] | None
    bands: tuple[str, ...]
    nodata: float | None
    grid: Grid
    fingerprint: str
    groups: tuple[str, ...] = ()
    vector: VectorOptions | None = None
    weights: str | None = None
    site: str = ""
    date: str | None = None
    clouds: CloudRecord | None = None
    layers: tuple[tuple[str, str], ...] = ()
    fractions: bool = False

    @classmethod
    def of(cls, source: SceneSource, scenes: ScenesOptions) -> SceneRecord:
        """The record of a scene's files, which are opened; without a fingerprint. Raises `SceneError`."""
        image, names, clouds = open_source(source, scenes)
        with image:
            return cls(
                images=source.images,
                mask=source.mask,
                names=names,
                bands=image.bands,
                nodata=image.nodata,
                grid=image.grid,
                fingerprint="",
                groups=source.groups,
                vector=scenes.vector,
                weights=source.weights,
                site=source.site,
                date=source.date,
                clouds=clouds,
                layers=source.layers,
            )

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the scene is made of."""
        labels = files_of(self.mask) if self.mask else ()
        weights = (self.weights,) if self.weights else ()
        return (*self.image_files, *labels, *weights, *(self.clouds.files if self.clouds else ()))

    @property
    def image_files(self) -> tuple[str, ...]:
        """Every file that its image is made of."""
        return (*self.images, *(path for _, path in self.layers))

    def open_image(self, bands: Sequence[str] | None = None) -> ImageReader:
        """The image, with the catalog's bands or those named."""
        return open_image(self.images, self.names, bands or self.bands, self.nodata, dict(self.layers))

    def open_mask(self, scheme: LabelScheme) -> Mask:
        """The labels on the image's grid; raises `CatalogError` where the scene has none."""
        if self.mask is None:
            raise CatalogError(f"scene {self.images[0]} has no mask in the catalog")
        return open_labels(self.mask, scheme, self.grid, self.vector, self.weights)

    def open_weights(self) -> WeightReader | None:
        """How much each label counts, where the scene has a raster of that."""
        return open_weights(self.weights, self.grid) if self.weights else None

    def open_clouds(self) -> CloudReader | None:
        """The scene's clouds, or None where they are not known."""
        if self.clouds is None:
            return None
        image = None
        if self.clouds.bands:
            image = self.open_image(self.clouds.bands)
        return self.clouds.open(image, self.grid)

    def current_fingerprint(self) -> str:
        """One fingerprint of all files of the scene as they are now."""
        parts = [fingerprint(p) for p in self.files]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Catalog:
    """Tiles with their class counts, the scheme that gives the counts a meaning, and the scenes they are of.

    `table` has the columns of `COLUMNS`; `counts` are labelled, valid pixels by class index, or areas in pixels
    where labels are shares of classes (`soft`); `dropped` says
    how many tiles were left out, by reason; `split` is what places and folds were made with, `listed` a
    checksum of what the files that it names said. What training alone sees is not saved: of row → classes
    `hidden` no label shows, of row → pixels `points` (flat positions) no other has a label, and `natural` are the class shares of
    the ground where the labels come in others.
    """

    table: gpd.GeoDataFrame
    scheme: LabelScheme
    tile_options: TileOptions
    split: SplitOptions
    scenes: dict[str, SceneRecord]
    dropped: dict[str, int] = field(default_factory=dict)
    hidden: dict[int, tuple[int, ...]] = field(default_factory=dict)
    listed: str = ""
    points: dict[int, np.ndarray] = field(default_factory=dict)
    natural: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def counts(self) -> np.ndarray:
        """Pixels, or areas in pixels, by tile and class, float64 `[N, K]`."""
        return np.array(self.table["counts"].tolist(), np.float64).reshape(len(self), -1)

    @cached_property
    def windows(self) -> list[Window]:
        """The window of each tile."""
        rows: list[list[int]] = np.asarray(self.table[["row_off", "col_off", "height", "width"]]).tolist()
        return [Window(*row) for row in rows]

    @cached_property
    def scene_names(self) -> np.ndarray:
        """The scene of each tile."""
        return self.table["scene"].to_numpy()

    @cached_property
    def soft(self) -> bool:
        """Whether a pixel of some scene may hold several classes."""
        return any(scene.fractions for scene in self.scenes.values())

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names, the same in every scene."""
        return next(iter(self.scenes.values())).bands

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of what the catalog says: tiles, counts, places, folds, scheme, sources."""
        digest = hashlib.sha256(self.scheme.model_dump_json().encode())
        for column in ("tile_id", "place", "fold"):
            digest.update("\0".join(map(str, self.table[column])).encode())
        digest.update(self.counts.tobytes())
        for name in sorted(self.scenes):
            digest.update(f"{name}{self.scenes[name].fingerprint}".encode())
        for row in sorted(self.points):
            digest.update(f"{row} ".encode() + self.points[row].tobytes())
        return digest.hexdigest()[:16]

    def open_image(self, scene: str) -> ImageReader:
        """The image of a scene."""
        return self.scenes[scene].open_image()

    @cached_property
    def sites(self) -> np.ndarray:
        """The ground that each tile's scene shows: the same name for all dates."""
        return np.array([self.scenes[name].site or name for name in self.scene_names], object)

    def open_mask(self, scene: str) -> Mask:
        """The labels of a scene; clouded ground is unlabelled in them."""
        record = self.scenes[scene]
        mask, clouds = record.open_mask(self.scheme), record.open_clouds()
        return mask if clouds is None else ClearMask(mask, clouds)

    def check_sources(self) -> None:
        """Raise `CatalogError` naming the first scene whose files are gone or have changed."""
        for name, record in self.scenes.items():
            for path in record.files:
                if not is_remote(path) and not Path(path).exists():  # those are opened below
                    raise CatalogError(
                        f"{path} of scene {name} is gone since the catalog was made; run `raremap prepare` again"
                    )
            if record.current_fingerprint() != record.fingerprint:
                raise CatalogError(
                    f"scene {name} ({record.images[0]}) has changed since the catalog was made; run `raremap prepare` again"
                )

    def save(self, path: str | Path) -> Path:
        """Write the GeoParquet table with its metadata."""
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        # geopandas writes the GeoParquet part; the counts become a list of fixed size, which pandas has not.
        buffer = io.BytesIO()
        self.table.drop(columns="counts").to_parquet(buffer, index=False)
        table = pq.read_table(buffer)
        k = self.scheme.num_classes
        flat = pa.array(self.counts.astype(np.float32).ravel(), pa.float32())
        counts = pa.FixedSizeListArray.from_arrays(flat, k)
        table = table.append_column("counts", counts)
        meta = {
            "format": 1,
            "labels": self.scheme.model_dump(mode="json"),
            "tiles": self.tile_options.model_dump(mode="json"),
            "split": self.split.model_dump(mode="json"),
            "listed": self.listed,
            "dropped": self.dropped,
            "scenes": {
                name: {
                    "images": s.images,
                    "mask": s.mask,
                    "names": s.names,
                    "bands": s.bands,
                    "nodata": s.nodata,
                    "grid": s.grid.to_dict(),
                    "fingerprint": s.fingerprint,
                    "groups": s.groups,
                    "vector": s.vector.model_dump(mode="json") if s.vector else None,
                    "weights": s.weights,
                    "site": s.site,
                    "date": s.date,
                    "clouds": s.clouds.model_dump(mode="json") if s.clouds else None,
                    "layers": s.layers,
                    "fractions": s.fractions,
                }
                for name, s in self.scenes.items()
            },
        }
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _KEY: json.dumps(meta).encode()}
        )
        with written(path) as fresh:
            pq.write_table(table, fresh, compression="zstd")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Catalog:
        """Read a catalog; raises `CatalogError` where the file is missing or is none."""
        import geopandas as gpd
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if not path.is_file():
            raise CatalogError(f"catalog {path} does not exist; make it with `raremap prepare`")
        try:
            table = pq.read_table(path)
            frame = gpd.read_parquet(path, columns=[c for c in COLUMNS if c != "counts"])
            meta = json.loads((table.schema.metadata or {})[_KEY])
            scheme = LabelScheme(**meta["labels"])
            counts = table.column("counts").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise CatalogError(
                f"{path} is not a raremap catalog ({reason(error)}); make it with `raremap prepare`"
            ) from None
        frame["counts"] = list(counts)
        scenes = {
            name: SceneRecord(
                images=tuple(s["images"]),
                mask=s["mask"],
                names=tuple(s["names"]) if s["names"] else None,
                bands=tuple(s["bands"]),
                nodata=s["nodata"],
                grid=Grid.from_dict(s["grid"]),
                fingerprint=s["fingerprint"],
                groups=tuple(s["groups"]),
                vector=VectorOptions(**s["vector"]) if s.get("vector") else None,
                weights=s.get("weights"),
                site=s.get("site", name),
                date=s.get("date"),
                clouds=CloudRecord(**s["clouds"]) if s.get("clouds") else None,
                layers=tuple((name, path) for name, path in s.get("layers", ())),
                fractions=s.get("fractions", False),
            )
            for name, s in meta["scenes"].items()
        }
        return cls(
            gpd.GeoDataFrame(frame[COLUMNS]),
            scheme,
            TileOptions(**meta["tiles"]),
            SplitOptions(**meta["split"]),
            scenes,
            meta["dropped"],
            listed=meta.get("listed", ""),
        )

    def summary(self) -> Summary:
        """What the catalog holds, to print."""
        totals = self.counts.sum(0)
        shares = totals / max(totals.sum(), 1)
        return Summary(
            tiles=len(self),
            scenes=len(self.scenes),
            places=len(set(self.table["place"])),
            shares=dict(zip(self.scheme.names, (float(s) for s in shares), strict=True)),
            dropped=self.dropped,
        )


@dataclass(frozen=True)
class Summary:
    """Numbers of tiles, scenes and places, class shares, and what was left out by reason."""

    tiles: int
    scenes: int
    places: int
    shares: dict[str, float]
    dropped: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dict(self.__dict__)

    def __str__(self) -> str:
        width = max(map(len, self.shares))
        numbers = {"tile": self.tiles, "scene": self.scenes, "place": self.places}
        lines = ["{} of {} in {}".format(*(f"{n} {what}{'s' * (n != 1)}" for what, n in numbers.items()))]
        lines += [f"left out: {n} tiles ({reason})" for reason, n in self.dropped.items() if n]
        lines += [f"  {name:<{width}}  {share:8.3%}" for name, share in self.shares.items()]
        return "\n".join(lines)
