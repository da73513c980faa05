"""`VectorMask`: polygons, lines and points as a mask on an image's grid, window by window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import LabelError, SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.layers import (
    EXPECTED,
    NO_CLASS,
    UNKNOWN,
    Bounds,
    Features,
    Layer,
    Survey,
    VectorOptions,
    open_layer,
)  # fmt: skip
from raremap.scene.shares import one_hot
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.scene.grid import Grid

# Shapes with more corners are cut to the window first: a coastline has a million, and few are in it.
_MANY_CORNERS = 2000
# Windows looked at to say how much ground several classes claim, and their side in pixels.
_LOOKS, _LOOK = 64, 512
_FINE_PIXELS = 1 << 24
# Shapes of another CRS that reach so many times the scene's size beyond it are cut there first.
_FAR = 8


class VectorMask:
    """Class indices of a vector layer on a grid, read by window; picklable.

    Every window gives what burning the whole scene at once would give there. Memory holds the features of a
    window, and layers of up to 64 MB (text formats: any) whole.
    """

    soft = False

    def __init__(self, layer: Layer, grid: Grid) -> None:
        self.layer, self.grid = layer, grid
        self.path, self.scheme, self.options = layer.path, layer.scheme, layer.options
        background = self.options.background
        self._fill = IGNORE if background is None else self.scheme.index(background)
        self._survey: Survey | None = None
        self._to_grid: Any = None  # made in the thread and the process that reads

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_to_grid": None}

    def __enter__(self) -> VectorMask:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was read; the next read opens the layer again."""
        self.layer.close()

    def read(self, window: Window) -> np.ndarray:
        """Class index uint8 `[h, w]` of a window; `IGNORE` where unlabelled. Raises `LabelError`, `SceneError`."""
        return self._burn(self._on(window), window)

    def shares(self, window: Window) -> np.ndarray:
        """Shares uint8 `[K, h, w]`, of one class each."""
        return one_hot(self.read(window), self.scheme.num_classes)

    def fractions(self, window: Window, oversample: int = 8) -> np.ndarray:
        """Share of each pixel that each class covers, float32 `[K, h, w]`, from `oversample`² points in it.

        The shares of a pixel add up to its labelled part. A point feature covers one of the points.
        """
        found, k = self._on(window), self.scheme.num_classes
        out = np.empty((k, window.height, window.width), np.float32)
        rows = max(1, _FINE_PIXELS // (window.width * oversample**2))
        for start in range(0, window.height, rows):
            part = Window(
                window.row_off + start, window.col_off, min(rows, window.height - start), window.width
            )
            fine = self._burn(found, part, oversample)
            cells = fine.reshape(part.height, oversample, part.width, oversample)
            for c in range(k):
                out[c, start : start + part.height] = (cells == c).mean((1, 3), dtype=np.float32)
        return out

    @property
    def survey(self) -> Survey:
        """What the layer holds on this grid; raises `LabelError` naming values that no class has, `SceneError` without shapes."""
        if self._survey is None:
            found = self.layer.survey(*self._boxes(self.grid.window))
            if found.unknown:
                self._refuse(found)
            if found.no_shape == self.layer.count != 0 and self.options.background is None:
                raise SceneError(
                    f"none of the {found.no_shape} features of {self.layer} has a shape, {EXPECTED}"
                )
            self._survey = found
        return self._survey

    @property
    def remark(self) -> str | None:
        """What a user should know of these labels: what was mended, left out, or claimed by several classes."""
        found = self.survey
        if not found.features:
            return f"{self.nothing}; it is {self.options.background or 'unlabelled'} all over"
        told = [
            f"{n} {what}"
            for n, what in (
                (found.repaired, "invalid shapes were repaired"),
                (found.no_shape, "features without a shape were left out"),
                (found.no_class, f"features without '{self.options.attribute}' were left out"),
            )
            if n
        ]
        if share := self._contested():
            wins = "the smallest" if self.options.order == "area" else "the last in the file"
            first = f"the highest '{self.options.priority}', then " if self.options.priority else ""
            told.append(
                f"{share:.2g} % of the labelled pixels lie under several classes ({first}{wins} wins)"
            )
        return f"{self.layer}: {'; '.join(told)}" if told else None

    @property
    def nothing(self) -> str:
        """The line that says that no feature is on this grid, and why, or where that is."""
        if not self.layer.count:
            return f"{self.layer} holds no feature"
        if self.survey.no_shape == self.layer.count:
            return f"none of the {self.layer.count} features of {self.layer} has a shape"
        scene = ", ".join(f"{b:g}" for b in self._ground(self.grid.window))
        return f"{self.layer} has no feature on the scene, whose ground is {scene} in the layer's CRS"

    def _on(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Shapes in pixels of the scene, and class indices, of what meets a window; the last one is on top."""
        import shapely

        found = self.layer.within(*self._boxes(window))
        if (found.index == UNKNOWN).any():
            survey = Survey()
            survey.add(found)
            self._refuse(survey)
        found = found.pick(np.flatnonzero(found.index != NO_CLASS))
        shapes = self._in_pixels(found)
        keys = [found.order]
        if self.options.order == "area":  # large before small, polygons before lines before points
            if self._elsewhere:  # both may have been cut to the same surroundings
                keys.append(-shapely.area(found.shape))
            keys += [-shapely.area(shapes), -shapely.get_dimensions(shapes)]
        on_top = np.lexsort([*keys, found.priority])
        return shapes[on_top], found.index[on_top].astype(np.uint8)

    def _burn(self, found: tuple[np.ndarray, np.ndarray], window: Window, oversample: int = 1) -> np.ndarray:
        """Burn shapes into a window, of `oversample`² points a pixel."""
        import shapely
        from affine import Affine
        from rasterio.features import rasterize

        out = np.full((window.height * oversample, window.width * oversample), self._fill, np.uint8)
        shapes = _cut(found[0], window)
        some = ~shapely.is_empty(shapes)
        if some.any():
            rasterize(
                _simple(shapes[some], found[1][some]),
                out=out,
                transform=Affine.translation(window.col_off, window.row_off) @ Affine.scale(1 / oversample),
                all_touched=self.options.all_touched,
            )
        return out

    def _in_pixels(self, found: Features) -> np.ndarray:
        """The shapes in columns and rows of the whole scene: the same numbers whatever the window."""
        import shapely

        shapes = found.shape
        if self._elsewhere:
            shapes = shapely.transform(self._near(shapes), self._reproject)
            lost = ~(np.isfinite(shapely.bounds(shapes)).all(1) | shapely.is_empty(shapes))
            if lost.any():
                raise SceneError(
                    f"{self.layer}: feature {found.order[lost][0]} reaches where the scene's CRS "
                    "is not defined; cut the layer to the scene's surroundings"
                )
        a, b, c, d, e, f = tuple(~self.grid.transform)[:6]
        return shapely.transform(shapes, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))

    def _near(self, shapes: np.ndarray) -> np.ndarray:
        """The shapes, cut where they reach far beyond the scene: of a continent's corners few have a place in its CRS."""
        import shapely

        boxes = np.array(self._boxes(self.grid.window))
        reach = _FAR * (boxes[0, 2:] - boxes[0, :2]).max()
        if not np.isfinite(reach):
            return shapes
        boxes += reach * np.array([-1, -1, 1, 1])
        bounds = shapely.bounds(shapes)[:, None]
        outside = (bounds[..., :2] < boxes[:, :2]).any(-1) | (bounds[..., 2:] > boxes[:, 2:]).any(-1)
        far = outside.all(1)
        parts = [_clipped(shapes, far, tuple(box)) for box in boxes.tolist()]
        if len(parts) == 1:
            return parts[0]
        near = shapes.copy()
        near[far] = [shapely.geometrycollections(both) for both in zip(*(p[far] for p in parts), strict=True)]
        return near

    @property
    def _elsewhere(self) -> bool:
        """Whether the layer's CRS is another than the grid's."""
        return self.layer.crs is not None and self.grid.crs is not None and self.layer.crs != self.grid.crs

    def _reproject(self, xy: np.ndarray) -> np.ndarray:
        if self._to_grid is None:
            from pyproj import Transformer

            assert self.layer.crs is not None
            assert self.grid.crs is not None
            source, target = self.layer.crs.to_wkt(), self.grid.crs.to_wkt()
            self._to_grid = Transformer.from_crs(source, target, always_xy=True)
        return np.column_stack(self._to_grid.transform(xy[:, 0], xy[:, 1]))

    def _boxes(self, window: Window) -> list[Bounds]:
        """Where features may lie that meet a window and a pixel around it, in the layer's CRS.

        Across the date line that is on both sides of it, where longitudes go on beyond 180 or begin at -180 again.
        """
        left, bottom, right, top = bounds = self._ground(window)
        if left <= right or not np.isfinite(bounds).all():
            return [bounds]
        return [(left, bottom, right + 360, top), (left - 360, bottom, right, top)]

    def _ground(self, window: Window) -> Bounds:
        """Bounds of a window and a pixel around it in the layer's CRS; left lies right of right across the date line."""
        from rasterio.warp import transform_bounds

        w = Window(window.row_off - 1, window.col_off - 1, window.height + 2, window.width + 2)
        bounds = self.grid.bounds(w)
        if not self._elsewhere:
            return bounds
        assert self.layer.crs is not None
        return transform_bounds(self.grid.crs, self.layer.crs, *bounds, densify_pts=21)

    def _contested(self) -> float:
        """Percentage of labelled pixels where features of several classes lie, from windows all over the scene."""
        whole = self.grid.window
        starts = [(r, c) for r in range(0, whole.height, _LOOK) for c in range(0, whole.width, _LOOK)]
        starts = starts[:: -(-len(starts) // _LOOKS)]
        windows = [Window(r, c, _LOOK, _LOOK).intersect(whole) for r, c in starts]
        contested = labelled = 0
        for window in windows:
            shapes, index = self._on(window)
            if not len(index):
                continue
            over = self._burn((shapes, index), window)
            under = self._burn((shapes[::-1], index[::-1]), window)
            contested += int(np.count_nonzero(over != under))
            labelled += int(np.count_nonzero(over != IGNORE))
        return 100 * contested / labelled if labelled else 0.0

    def _refuse(self, found: Survey) -> None:
        known = ", ".join(self.scheme.names)
        said = ", ".join(f"'{v}' ({n})" for v, n in found.unknown.most_common(5))
        more = f" and {len(found.unknown) - 5} more" if len(found.unknown) > 5 else ""
        raise LabelError(
            f"{self.layer}: '{self.options.attribute}' says {said}{more}, which no class is called ({known}); "
            "translate it under scenes.vector.values, or list it under labels"
        )


def open_vector(path: str | Path, options: VectorOptions, scheme: LabelScheme, grid: Grid) -> VectorMask:
    """The mask that a vector layer makes on an image's grid; raises `SceneError` where it has no place there."""
    layer = open_layer(path, options, scheme)
    if not grid.georeferenced:
        raise SceneError(
            f"vector labels {path} cannot be placed: their image has no georeferencing; give a mask of its size"
        )
    if layer.crs is None and grid.crs is not None:
        raise SceneError(f"{path} does not say its CRS; give it as scenes.vector.crs, such as EPSG:25831")
    if layer.crs is not None and grid.crs is None:
        raise SceneError(f"{path} has a CRS but its image has none; give the image its CRS")
    return VectorMask(layer, grid)


def _simple(shapes: np.ndarray, index: np.ndarray) -> list[tuple[dict[str, Any], int]]:
    """Their parts as GeoJSON with class indices, in order: several times faster than each shape's own."""
    import shapely

    for _ in range(2):  # collections hold multi-part shapes
        shapes, of = shapely.get_parts(shapes, return_index=True)
        index = index[of]
    polygons = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    rings, of = shapely.get_rings(shapes, return_index=True)
    kept = _lines(rings)
    ends = np.searchsorted(of, np.arange(len(shapes)), side="right").tolist()
    others = iter(_lines(shapes[~polygons]))
    out, start = [], 0
    for i, (end, polygon) in enumerate(zip(ends, polygons.tolist(), strict=True)):
        if polygon:
            shape = {"type": "Polygon", "coordinates": kept[start:end]}
        else:
            line = next(others)
            shape = (
                {"type": "LineString", "coordinates": line}
                if len(line) > 1
                else {"type": "Point", "coordinates": line[0]}
            )
        out.append((shape, int(index[i])))
        start = end
    return out


def _lines(shapes: np.ndarray) -> list[list[list[float]]]:
    """The corners of each."""
    import shapely

    ends = np.cumsum(shapely.get_num_coordinates(shapes)).tolist()
    corners = shapely.get_coordinates(shapes).tolist()
    return [corners[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _cut(shapes: np.ndarray, window: Window) -> np.ndarray:
    """Shapes with very many corners cut to a little more than the window."""
    import shapely

    box = (window.col_off - 2, window.row_off - 2, window.col_end + 2, window.row_end + 2)
    return _clipped(shapes, shapely.get_num_coordinates(shapes) > _MANY_CORNERS, box)


def _clipped(shapes: np.ndarray, which: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Shapes, some of them cut to a box (left, bottom, right, top); the array itself where none is."""
    import shapely

    if which.any():
        shapes = shapes.copy()
    for i in np.flatnonzero(which):
        try:
            shapes[i] = shapely.clip_by_rect(shapes[i], *box)
        except shapely.GEOSException:  # one that became invalid on the way to the grid is burned whole
            continue
    return shapes
