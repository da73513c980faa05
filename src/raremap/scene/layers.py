"""Vector layers as labels: which features are of which class, and what is wrong with them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import SceneError, nearest, reason
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.vector_options import VectorOptions, text_of

if TYPE_CHECKING:
    from rasterio.crs import CRS

SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".geojsonl", ".shp", ".fgb", ".gml", ".kml"})
"""File names that end so are vector layers."""

# Layers up to this size are read once and kept; larger ones are asked for each window's features.
_SMALL = 64 << 20
# Text has no spatial index: each question would read all of it, so it is kept whatever its size.
_TEXT = frozenset({".geojson", ".json", ".geojsonl", ".gml", ".kml"})
_KEPT = 4
_CRS_WITHIN = 4096  # bytes from either end of a GeoJSON file in which it says its CRS

EXPECTED = (
    "expected polygons, lines or points of the classes; name the class of all its ground as scenes.vector.background, or take "
    "the file away (scenes.without_mask: skip)"
)
"""How errors end that tell of labels without any shape."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right and top in a layer's CRS."""

# Codes beside the class indices 0..253 and IGNORE.
NO_CLASS, UNKNOWN = -1, -2


@dataclass(frozen=True)
class Features:
    """Shapes in the layer's CRS, valid ones, with what is known of each.

    `index` is the class, `IGNORE`, `NO_CLASS` where the attribute is empty, or `UNKNOWN`; `value` what the
    attribute says; `order` the feature's number in the file; `repaired` whether its shape had to be mended.
    """

    shape: np.ndarray
    index: np.ndarray
    value: np.ndarray
    priority: np.ndarray
    order: np.ndarray
    repaired: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def pick(self, rows: np.ndarray) -> Features:
        """Some of them."""
        return Features(*(getattr(self, name)[rows] for name in Features.__dataclass_fields__))

    @staticmethod
    def joined(parts: list[Features]) -> Features:
        """All of several."""
        return Features(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in Features.__dataclass_fields__)
        )


@dataclass
class Survey:
    """What a layer holds where a scene is: number of features, and how many have which fault."""

    features: int = 0
    repaired: int = 0
    no_class: int = 0
    no_shape: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    def add(self, found: Features) -> None:
        """Count features."""
        self.features += len(found)
        self.repaired += int(found.repaired.sum())
        self.no_class += int((found.index == NO_CLASS).sum())
        self.unknown.update(found.value[found.index == UNKNOWN].tolist())


class Layer:
    """The features of a vector layer by place; picklable. Small layers are read once for all scenes.

    `count` is of all its features, with a shape or without; below 0 where the file does not say it.
    """

    def __init__(
        self, path: str, options: VectorOptions, scheme: LabelScheme, crs: CRS | None, count: int
    ) -> None:
        self.path, self.options, self.scheme, self.crs = path, options, scheme, crs
        self.count = count
        self._whole: _Whole | None = None
        self._keeps = Path(path).suffix.lower() in _TEXT or Path(path).stat().st_size <= _SMALL

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}

    def __str__(self) -> str:
        return f"{self.path} (layer {self.options.layer})" if self.options.layer else self.path

    def close(self) -> None:
        """Forget what was read; the next question reads it again, or finds it kept for other scenes."""
        self._whole = None

    def within(self, *boxes: Bounds) -> Features:
        """Features whose bounding box meets one of `boxes` (left, bottom, right, top, in the layer's CRS)."""
        if self._keeps:
            return self._all().within(*boxes)
        return Features.joined([f for f, _ in self._meeting(boxes)])

    def survey(self, *boxes: Bounds) -> Survey:
        """Counts of the features that meet one of `boxes`; those without a shape are nowhere, and counted too."""
        found = Survey()
        if self._keeps:
            found.add(self._all().within(*boxes))
            found.no_shape = self._all().no_shape
            return found
        for part, no_shape in self._meeting(boxes):
            found.add(part)
            found.no_shape += no_shape
        return found

    def _meeting(self, boxes: tuple[Bounds, ...]) -> Iterator[tuple[Features, int]]:
        """As `_batches`, of several boxes; a feature that meets two is given once."""
        seen = np.empty(0, np.int64)
        for box in boxes:
            for part, no_shape in self._batches(box):
                fresh = part.pick(np.flatnonzero(~np.isin(part.order, seen)))
                if box is not boxes[-1]:
                    seen = np.concatenate([seen, fresh.order])
                yield fresh, no_shape

    def _all(self) -> _Whole:
        if self._whole is None:
            self._whole = _kept(self)
        return self._whole

    def _batches(self, bounds: Bounds | None = None) -> Iterator[tuple[Features, int]]:
        """Features part by part, and how many of each part had no shape."""
        import shapely
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import open_arrow

        o = self.options
        columns = [c for c in dict.fromkeys((o.attribute, o.priority)) if c is not None]
        try:
            with open_arrow(
                self.path, layer=o.layer, columns=columns, bbox=bounds, return_fids=True,
                use_pyarrow=True, batch_size=16384,
            ) as (meta, reader):  # fmt: skip
                geometry = meta["geometry_name"] or "wkb_geometry"
                yield self._features(shapely.from_wkb([]), [], [], np.empty(0, np.int64)), 0
                for batch in reader:
                    shapes = shapely.force_2d(
                        shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
                    )
                    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
                    rows = np.flatnonzero(there)
                    values = batch.column(o.attribute).to_pylist() if o.attribute else None
                    priorities = batch.column(o.priority).to_pylist() if o.priority else None
                    found = self._features(
                        shapes[rows],
                        None if values is None else [values[r] for r in rows],
                        None if priorities is None else [priorities[r] for r in rows],
                        batch.column(meta["fid_column"]).to_numpy()[rows],
                    )
                    yield found, int((~there).sum())
        except (DataSourceError, DataLayerError, OSError) as error:
            raise SceneError(f"{self} cannot be read ({reason(error)}); is it complete?") from None

    def _features(
        self, shapes: np.ndarray, values: list[Any] | None, priorities: list[Any] | None, order: np.ndarray
    ) -> Features:
        import shapely

        n = len(order)
        texts = np.full(n, "", object)
        if values is None:
            assert self.options.feature_class is not None
            index = np.full(n, self.scheme.index(self.options.feature_class), np.int16)
        else:
            texts[:] = [text_of(v) for v in values]
            known = {text: self._index(text) for text in set(texts.tolist())}
            index = np.array([known[t] for t in texts], np.int16)
        broken = ~shapely.is_valid(shapes)
        if broken.any():
            shapes = shapes.copy()
            shapes[broken] = [_repaired(s) for s in shapes[broken]]
        return Features(shapes, index, texts, self._numbers(priorities, n), order, broken)

    def _index(self, text: str) -> int:
        """Class index, or code, of what stands in the attribute."""
        o, scheme = self.options, self.scheme
        if not text:
            return NO_CLASS
        if text in o.values:
            name = o.values[text]
            return IGNORE if name is None else scheme.index(name)
        if text in scheme.names:
            return scheme.names.index(text)
        sources = [str(k) for k in scheme.classes]
        if text.upper() in sources:
            return sources.index(text.upper())
        return IGNORE if text.upper() in map(str, scheme.ignore) else UNKNOWN

    def _numbers(self, priorities: list[Any] | None, n: int) -> np.ndarray:
        if priorities is None:
            return np.zeros(n)
        try:
            numbers = np.array([-np.inf if p is None else p for p in priorities], np.float64)
        except (TypeError, ValueError):
            raise SceneError(
                f"{self}: the column '{self.options.priority}' (scenes.vector.priority) holds "
                f"{next(p for p in priorities if isinstance(p, str))!r}, expected numbers"
            ) from None
        return np.where(np.isnan(numbers), -np.inf, numbers)


class _Whole:
    """A layer in memory, with an index of where its features are."""

    def __init__(self, features: Features, no_shape: int) -> None:
        from shapely import STRtree

        self.features, self.no_shape = features, no_shape
        self._tree = STRtree(features.shape)

    def within(self, *boxes: Bounds) -> Features:
        from shapely import box

        met = self._tree.query([box(*bounds) for bounds in boxes])[1]
        return self.features.pick(np.unique(met))


_lock = threading.Lock()
_wholes: OrderedDict[str, _Whole] = OrderedDict()


def _kept(layer: Layer) -> _Whole:
    """The whole layer, read once for all scenes and threads that ask for it as it now is."""
    o, scheme = layer.options.model_dump_json(), layer.scheme.model_dump_json()
    key = f"{layer.path}\0{_stamp(layer.path)}\0{o}\0{scheme}"
    with _lock:
        if key not in _wholes:
            parts = list(layer._batches())
            _wholes[key] = _Whole(Features.joined([f for f, _ in parts]), sum(n for _, n in parts))
            if len(_wholes) > _KEPT:
                _wholes.popitem(last=False)
        _wholes.move_to_end(key)
        return _wholes[key]


def open_layer(path: str | Path, options: VectorOptions, scheme: LabelScheme) -> Layer:
    """A vector layer whose options and columns fit; raises `SceneError` and `LabelError` in one line.

    `options.layer` may be left out where the file holds one layer.
    """
    from pyogrio.errors import DataLayerError, DataSourceError
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    path = str(path)
    options.check(scheme)
    if not Path(path).exists():
        raise SceneError(f"{path} does not exist; check the path")
    name = options.layer
    try:
        layers = _layers(path, _stamp(path))
        if name is None and len(layers) > 1:
            raise SceneError(
                f"{path} holds {len(layers)} layers ({', '.join(layers[:6])}); name one in scenes.vector.layer"
            )
        if name is not None and name not in layers:
            raise SceneError(f"{path} has no layer '{name}' (scenes.vector.layer); {nearest(name, layers)}")
        info = _info(path, name, _stamp(path))
    except (DataSourceError, DataLayerError) as error:
        raise SceneError(
            f"{path} cannot be opened as a vector layer ({reason(error)}); "
            "expected a GeoPackage, GeoJSON or Shapefile"
        ) from None
    if info["geometry_type"] is None:
        raise SceneError(f"{path} is a table without geometry; expected polygons or points")
    columns = [str(c) for c in info["fields"]]
    if not info["features"]:
        if options.background is None:
            raise SceneError(f"{path} holds no feature, {EXPECTED}")
        columns = columns or [c for c in (options.attribute, options.priority) if c]  # GeoJSON has none then
    for key, column in (("attribute", options.attribute), ("priority", options.priority)):
        if column is not None and column not in columns:
            raise SceneError(
                f"{path} has no column '{column}' (scenes.vector.{key}); {nearest(column, columns)}"
            )
    try:
        given = CRS.from_user_input(options.crs) if options.crs else None
    except (CRSError, ValueError):
        raise SceneError(
            f"scenes.vector.crs is '{options.crs}', which is no CRS; give one such as EPSG:25831"
        ) from None
    try:
        own = CRS.from_user_input(info["crs"]) if info["crs"] else None
    except (CRSError, ValueError):
        raise SceneError(
            f"{path} has a CRS that is not known here ({info['crs'][:60]}); convert it"
        ) from None
    if given is not None and (own is None or not _says_crs(path)):
        own = given
    return Layer(path, options, scheme, own, info["features"])


def _says_crs(path: str) -> bool:
    """Whether a file that GDAL has a CRS for says it: GeoJSON that says none is taken to be in degrees."""
    if Path(path).suffix.lower() not in (".geojson", ".json", ".geojsonl"):
        return True
    with open(path, "rb") as file:  # the member stands before the features or after them
        head = file.read(_CRS_WITHIN)
        file.seek(max(0, Path(path).stat().st_size - _CRS_WITHIN))
        return b'"crs"' in head + file.read()


@lru_cache(64)
def _layers(path: str, stamp: str) -> list[str]:
    import pyogrio

    return [str(name) for name in pyogrio.list_layers(path)[:, 0]]


@lru_cache(64)
def _info(path: str, layer: str | None, stamp: str) -> dict[str, Any]:
    """What the file says of a layer; kept, since text is read whole for it."""
    import pyogrio

    return pyogrio.read_info(path, layer=layer)


def files_of(path: str) -> tuple[str, ...]:
    """All files that a label file consists of: a Shapefile has companions."""
    if not path.lower().endswith(".shp"):
        return (path,)
    others = (Path(path).with_suffix(s) for s in (".dbf", ".shx", ".prj", ".cpg"))
    return (path, *(str(p) for p in others if p.exists()))


def _repaired(shape: Any) -> Any:
    """The shape made valid, of its own dimension: what collapses to a line or a point is left out."""
    import shapely

    mended = shapely.make_valid(shape)
    parts = shapely.get_parts(mended)
    parts = np.concatenate([shapely.get_parts(p) for p in parts]) if len(parts) else parts
    dimension = shapely.get_dimensions(shape)
    return shapely.union_all(parts[shapely.get_dimensions(parts) == dimension])


def _stamp(path: str) -> str:
    """What changes when a file does."""
    now = Path(path).stat()
    return f"{now.st_mtime_ns}:{now.st_size}"
