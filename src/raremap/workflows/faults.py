"""`raremap faults`: suspected label errors, ranked, as polygons to check."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import BundleError, OutputError
from raremap.files import written
from raremap.jobs import progress
from raremap.measure.decision import Decision
from raremap.measure.faults import Suspect, stored, suspects

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tiles.catalog import Catalog

    Given = Bundle | Ensemble | str | Path

_UNSEEN = ("test", "calibration", "monitor")
"""Uses whose labels the network was not trained on, the least touched first."""


@dataclass(frozen=True)
class Faults:
    """What was found: the file, the suspects (the worst first, with their catalog row), and how much was looked at."""

    path: Path
    names: tuple[str, ...]
    ranked: tuple[tuple[int, Suspect], ...]
    found: int
    tiles: int
    places: int
    unseen: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "faults": str(self.path),
            "written": len(self.ranked),
            "found": self.found,
            "tiles": self.tiles,
            "places": self.places,
            "tiles_of_training": self.unseen,
            "by_pair": [
                {"given": self.names[g], "suspected": self.names[s], "count": n}
                for (g, s), n in Counter((f.given, f.suspected) for _, f in self.ranked).most_common()
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.path}: the first {len(self.ranked):,} of {self.found:,} suspected label errors in {self.tiles:,} tiles "
            f"of {self.places} places"
        ]
        lines += [f"  {p['given']} → {p['suspected']}: {p['count']}" for p in self.to_dict()["by_pair"][:12]]
        if self.unseen:
            lines.append(
                f"{self.unseen:,} tiles were not looked at: every bundle was trained on them; give bundles of other folds"
            )
        return "\n".join(lines)


def faults(
    bundles: Given | Sequence[Given],
    catalog: Catalog | str | Path,
    out: str | Path,
    confidence: float = 0.5,
    min_pixels: int = 4,
    most: int = 1000,
    device: str = "auto",
    quiet: bool = False,
) -> Faults:
    """Rank patches whose label a model disputes that was not trained on them, and write them as polygons.

    Each tile is judged by the first of `bundles` that has it in the use test, else calibration or monitor; the bundles of
    all folds so judge every tile by a model that has not learned its labels (cross-fitting). A patch is of
    pixels where another class has at least `confidence`, and `min_pixels` or larger; the `most` with the highest
    score are kept. Patches end at the border of their tile. An ensemble gives its members, each by itself.

    The layer `faults` has rank, score, class given and suspected, mean confidence and margin (log-odds), thickness,
    area and place. Raises `BundleError` where no tile is unseen or the classes differ, `CatalogError` where
    sources changed, `OutputError` where the file cannot be written.
    """
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.scoring import WholeTiles, check_fits, scored

    if Path(out).suffix.lower() != ".gpkg":
        raise OutputError(f"{out} is not a GeoPackage; give a name that ends in .gpkg")
    loaded = _single(bundles)
    if isinstance(catalog, (str, Path)):
        catalog = Catalog.load(catalog)
    catalog.check_sources()
    for bundle in loaded:
        check_fits(bundle, catalog)
    judge = _judges(loaded, catalog)
    rows = np.flatnonzero(judge >= 0)
    if not len(rows):
        raise BundleError(
            "every tile of the catalog was in the training of the bundles; give a catalog of other places, "
            "or the bundles of other folds"
        )
    heap: list[tuple[float, int, int, Suspect]] = []
    order, found = count(), 0
    with progress("faults", len(rows), quiet) as bar:
        for number, bundle in enumerate(loaded):
            mine = np.flatnonzero(judge == number)
            if not len(mine):
                continue
            network = bundle.network(device=device)
            decision = bundle.decision or Decision((0.0,) * bundle.scheme.num_classes)
            whole = WholeTiles(catalog, layers=4)
            for part in scored(bundle, network, catalog, mine, bar):
                for tile in whole.add(part, stored(decision.posterior(part.probs), part.truth)):
                    truth, called, sure, doubt = tile
                    for suspect in suspects(truth, called, sure, doubt, confidence, min_pixels):
                        found += 1
                        # Of equals the first stays: a later one is less in the heap.
                        item = (suspect.score, -next(order), part.row, suspect)
                        (heapq.heappush if len(heap) < most else heapq.heappushpop)(heap, item)
    ranked = tuple((row, suspect) for _, _, row, suspect in sorted(heap, reverse=True))
    _write(Path(out), catalog, ranked)
    places = catalog.table["place"].to_numpy().astype(str)
    return Faults(
        Path(out),
        catalog.scheme.names,
        ranked,
        found,
        len(rows),
        len(set(places[rows])),
        int((judge < 0).sum()),
    )


def _single(bundles: Given | Sequence[Given]) -> list[Bundle]:
    """Every bundle by itself: each judges what it has not seen, which an ensemble's mean has."""
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble, load_bundle

    one = isinstance(bundles, (Bundle, Ensemble, str, Path))
    models = [load_bundle(b) if isinstance(b, (str, Path)) else b for b in ([bundles] if one else bundles)]
    return [b for m in models for b in (m.members if isinstance(m, Ensemble) else (m,))]


def _judges(bundles: Sequence[Bundle], catalog: Catalog) -> np.ndarray:
    """Number of the bundle that judges each tile, -1 where all were trained on it."""
    from raremap.tiles.options import SplitOptions
    from raremap.tiles.splits import uses as uses_of

    judge, rank = np.full(len(catalog), -1), np.full(len(catalog), len(_UNSEEN))
    places = catalog.table["place"].to_numpy().astype(str)
    for number, bundle in enumerate(bundles):
        if bundle.info.get("catalog") == catalog.fingerprint:
            uses = uses_of(catalog, SplitOptions(**bundle.info["split"]), warn=False)
        elif known := bundle.info.get("places"):
            by_place = {p: use for use, held in known.items() for p in held}
            uses = np.array([by_place.get(p, "test") for p in places], object)
        else:
            raise BundleError(
                f"bundle {bundle.name} does not say on which places it was trained; its doubts cannot be told from "
                "what it has learned by heart"
            )
        here = np.array([_UNSEEN.index(u) if u in _UNSEEN else len(_UNSEEN) for u in uses])
        better = here < rank
        judge[better], rank[better] = number, here[better]
    return judge


def _write(out: Path, catalog: Catalog, ranked: Sequence[tuple[int, Suspect]]) -> None:
    """The polygons as a GeoPackage, in the CRS of the first scene."""
    import geopandas as gpd
    import pyogrio

    names = catalog.scheme.names
    places = catalog.table["place"].to_numpy().astype(str)
    scenes = [catalog.scenes[str(s)] for s in catalog.scene_names]
    crs = scenes[0].grid.crs
    rows: dict[str, list[Any]] = {k: [] for k in _COLUMNS}
    geometry = []
    for rank, (row, suspect) in enumerate(ranked, start=1):
        polygon, area_m2 = _polygon(scenes[row].grid, catalog.windows[row], suspect)
        if crs is not None and scenes[row].grid.crs not in (None, crs):
            polygon = gpd.GeoSeries([polygon], crs=scenes[row].grid.crs).to_crs(crs).iloc[0]
        geometry.append(polygon)
        values = (
            rank, suspect.score, names[suspect.given], names[suspect.suspected], suspect.confidence, suspect.margin,
            suspect.thickness, suspect.pixels, area_m2, str(catalog.scene_names[row]), places[row], None,
        )  # fmt: skip
        for key, value in zip(_COLUMNS, values, strict=True):
            rows[key].append(value)
    frame = gpd.GeoDataFrame(rows, geometry=gpd.GeoSeries(geometry, crs=crs), crs=crs)
    frame["checked"] = frame["checked"].astype("string")
    with written(out) as fresh:
        fresh.unlink()  # an empty file is not a GeoPackage to GDAL
        pyogrio.write_dataframe(
            frame, fresh, layer="faults", driver="GPKG", geometry_type="MultiPolygon", promote_to_multi=True
        )


_COLUMNS = (
    "rank", "score", "given", "suspected", "confidence", "margin", "thickness_px", "pixels", "area_m2", "scene",
    "place", "checked",
)  # fmt: skip


def _polygon(grid: Any, window: Any, suspect: Suspect) -> tuple[Any, float | None]:
    """A patch's outline in its scene's coordinates, and its ground in square metres."""
    from rasterio.features import shapes
    from shapely import unary_union
    from shapely.geometry import shape

    from raremap.scene.groundarea import pixel_areas
    from raremap.scene.window import Window

    top, left = int(suspect.rows.min()), int(suspect.cols.min())
    mask = np.zeros((int(suspect.rows.max()) - top + 1, int(suspect.cols.max()) - left + 1), np.uint8)
    mask[suspect.rows - top, suspect.cols - left] = 1
    here = Window(window.row_off + top, window.col_off + left, *mask.shape)
    outline = shapes(mask, mask=mask > 0, connectivity=4, transform=grid.shifted(here).transform)
    areas = pixel_areas(grid, here)
    ground = None if areas is None else float(np.broadcast_to(areas, mask.shape)[mask > 0].sum())
    return unary_union([shape(s) for s, _ in outline]), ground
