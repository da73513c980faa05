"""A bundle over the tiles of a use, as `predict` would map them: the one loop behind calibration, evaluation
and comparison."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import BundleError, CatalogError, nearest
from raremap.jobs import Progress, Silent
from raremap.labels import IGNORE
from raremap.maps.stream import Network, Strip, stream
from raremap.measure.confusion import confusion
from raremap.measure.decision import most_likely
from raremap.measure.tally import Tally
from raremap.scene.clouds import ClearMask
from raremap.scene.raster import Image

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.scene.window import Window
    from raremap.tiles.catalog import Catalog, SceneRecord


@dataclass(frozen=True)
class Scored:
    """Probabilities `[K, h, w]` beside class index `[h, w]` (`IGNORE` where unlabelled, invalid or counted
    already) of a part of one tile; `row` is the tile's catalog row. `clouded` is the class index of the pixels
    under cloud, which `truth` leaves out; None where clouds are not known."""

    row: int
    window: Window
    probs: np.ndarray
    truth: np.ndarray
    clouded: np.ndarray | None = None


def check_fits(bundle: Bundle | Ensemble | Exported, catalog: Catalog) -> None:
    """Raise `BundleError` where the catalog has other classes or lacks a band of the bundle."""
    if bundle.scheme.names != catalog.scheme.names:
        odd = next((n for n in catalog.scheme.names if n not in bundle.scheme.names), None)
        what = f"class '{odd}', which the bundle does not know" if odd else "other classes than the bundle"
        raise BundleError(
            f"the catalog has {what} (bundle: {', '.join(bundle.scheme.names)}); use the catalog it was trained on"
        )
    for band in bundle.bands:
        if band not in catalog.bands:
            raise BundleError(
                f"the catalog has no band '{band}', which the bundle needs; {nearest(band, catalog.bands)}"
            )


def scored(
    bundle: Bundle | Ensemble | Exported,
    network: Network,
    catalog: Catalog,
    rows: np.ndarray,
    progress: Progress | None = None,
) -> Generator[Scored]:
    """Every labelled pixel of the tiles once, predicted in the scene's own windows with their surroundings.

    `probs` are views that the next part may overwrite. Where tiles of a scene overlap the first one in
    `rows` has the pixel. `progress` counts tiles.
    """
    report = progress or Silent()
    scenes = catalog.scene_names
    for name in dict.fromkeys(str(s) for s in scenes[rows]):
        here = rows[scenes[rows] == name]
        windows = [catalog.windows[r] for r in here]
        corners = np.array(windows).T
        ground, told = sum(w.height * w.width for w in windows), 0.0
        with _image(catalog.scenes[name], bundle) as image, catalog.open_mask(name) as mask:
            strips = stream(image, network, bundle.scheme.num_classes, bundle.predict, wanted=windows)
            with closing(strips):
                for strip in strips:
                    truth, clouded = (
                        mask.split(strip.window)
                        if isinstance(mask, ClearMask)
                        else (mask.read(strip.window), None)
                    )
                    for labels in (truth, clouded):
                        if labels is not None:
                            labels[~strip.valid] = IGNORE
                    yield from _by_tile(here, windows, corners, strip, truth, clouded)
                    done = len(here) * truth.size / ground
                    report.advance(done)
                    told += done
        report.advance(len(here) - told)


def tally(
    bundle: Bundle | Ensemble | Exported,
    network: Network,
    catalog: Catalog,
    rows: np.ndarray,
    rare: Sequence[int] = (),
    progress: Progress | None = None,
    clouded: np.ndarray | None = None,
) -> tuple[Tally, Tally]:
    """What is counted of each tile with the bundle's decision, and with the plain argmax; objects of `rare` classes.

    Clouded pixels are in neither: their confusion with the decision is added to `clouded` `[n, K, K]`.
    """
    k = bundle.scheme.num_classes
    position = {int(r): i for i, r in enumerate(rows)}
    plain = Tally.empty(len(rows), k, np.int32)
    decision = bundle.decision
    decides = decision is not None and (decision.fitted or decision.softens)
    decided = Tally.empty(len(rows), k, np.int32) if decides else plain
    whole = WholeTiles(catalog, layers=3)
    for part in scored(bundle, network, catalog, rows, progress):
        at = position[part.row]
        plain.add_probs(at, part.truth, part.probs)
        layers = [part.truth, most_likely(part.probs)]
        if clouded is not None and part.clouded is not None:
            called = decision.apply(part.probs) if decides and decision is not None else layers[1]
            clouded[at] += confusion(part.clouded, called, k)
        if decides:
            assert decision is not None
            decided.add_probs(at, part.truth, decision.posterior(part.probs))
            layers.append(decision.apply(part.probs))
        for tile in whole.add(part, layers):
            plain.add_map(at, tile[0], tile[1], rare)
            if decides:
                decided.add_map(at, tile[0], tile[2], rare)
    return decided, plain


class WholeTiles:
    """Puts the parts of tiles together, of uint8 layers only: what needs neighbours needs whole tiles."""

    def __init__(self, catalog: Catalog, layers: int) -> None:
        self._catalog, self._layers = catalog, layers
        self._open: dict[int, tuple[np.ndarray, int]] = {}

    def add(self, part: Scored, layers: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The tile's layers uint8 `[layers, h, w]` when the last part has come."""
        window = self._catalog.windows[part.row]
        size = window.height * window.width
        fresh = np.full((self._layers, window.height, window.width), IGNORE, np.uint8), 0
        tile, filled = self._open.pop(part.row, fresh)
        inside = part.window.slices(within=window)
        for layer, values in zip(tile, layers, strict=False):
            layer[inside] = values
        filled += part.truth.size
        if filled < size:
            self._open[part.row] = tile, filled
        else:
            yield tile


def _by_tile(
    rows: np.ndarray,
    windows: list[Window],
    corners: np.ndarray,
    strip: Strip,
    truth: np.ndarray,
    clouded: np.ndarray | None,
) -> Iterator[Scored]:
    """The parts of a strip that lie in each tile; `truth` and `clouded` are used up on the way."""
    row, col, height, width = corners
    w = strip.window
    meets = (row < w.row_end) & (row + height > w.row_off) & (col < w.col_end) & (col + width > w.col_off)
    for i in np.flatnonzero(meets):
        piece = windows[i].intersect(w)
        inside = piece.slices(within=w)
        under = clouded[inside].copy() if clouded is not None else None
        yield Scored(int(rows[i]), piece, strip.probs[:, *inside], truth[inside].copy(), under)
        truth[inside] = IGNORE
        if clouded is not None:
            clouded[inside] = IGNORE


def _image(record: SceneRecord, bundle: Bundle | Ensemble | Exported) -> Image:
    return bundle.opened(record.open_image(bundle.bands))


def rows_of(uses: np.ndarray, use: str, bundle: Bundle | Ensemble | Exported | None = None) -> np.ndarray:
    """Catalog rows of a use; raises `CatalogError` where there is none."""
    rows = np.flatnonzero(uses == use)
    if len(rows) == 0:
        there = ", ".join(sorted(set(uses))) or "none"
        told = f"the catalog has no tile in the use '{use}'; there are: {there}"
        if use == "test" and hasattr(bundle, "members"):
            told += (
                ". Every place was used by a member of the ensemble, as with folds: evaluate its members, look at "
                "kfold.html, or take a catalog of other places"
            )
        raise CatalogError(told)
    return rows
