"""Masks finer than their images, brought to the images' grids on the way: written once, kept beside the run."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import RaremapWarning
from raremap.jobs import Progress, Silent
from raremap.labels import LabelScheme
from raremap.scene.alignment import Apart
from raremap.scene.gdal import fingerprint, grid_of, modified, opened
from raremap.scene.grid import Grid
from raremap.scene.options import RescaleOptions
from raremap.scene.raster import open_image
from raremap.scene.sources import SceneSource

if TYPE_CHECKING:
    from raremap.cluster import Cluster

_STAMP = "raremap_rescaled_from"


def on_image_grids(
    sources: Sequence[SceneSource],
    options: RescaleOptions,
    scheme: LabelScheme,
    folder: Path,
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> list[SceneSource]:
    """The scenes with every mask on its image's grid: `folder`/NAME.tif where it was on another.

    Dates that share a mask and a grid share the file, too. One that is there is kept while the mask, the grid, the
    labels and the options are those it was made from. A mask may be without a labelled pixel: its tiles are
    counted as such later. Where one mask serves several places, scenes beyond it are left out, with a warning that
    counts them. Raises what `rescale_labels` does.
    """
    progress = progress or Silent()
    places = {(source.mask, source.site) for source in sources}
    serves = Counter(mask for mask, _ in places)
    made: dict[str, Path] = {}
    beyond: list[tuple[SceneSource, Apart]] = []
    out = []
    for source in sources:
        try:
            out.append(_settled(source, options, scheme, folder, cluster, made))
        except Apart as error:
            if serves[source.mask] == 1:
                raise
            beyond.append((source, error))
        progress.advance()
    if beyond:
        first, error = beyond[0]
        if not out:
            raise error
        warnings.warn(
            f"{len(beyond)} of {len(sources)} scenes lie beyond {first.mask} and are left out, "
            f"the first is {first.images[0]}",
            RaremapWarning,
            stacklevel=2,
        )
    return out


def _settled(
    source: SceneSource, options: RescaleOptions, scheme: LabelScheme, folder: Path, cluster: Cluster | None,
    made: dict[str, Path],
) -> SceneSource:  # fmt: skip
    assert source.mask is not None, "training scenes have masks"
    with open_image(source.images, names=source.bands) as image:
        grid = image.grid
    with opened(source.mask) as file:
        if grid_of(file).difference(grid) is None:
            return source
    stamp = _stamp(source.mask, grid, options, scheme)
    path = made.setdefault(stamp, folder / f"{source.name}.tif")
    if not path.exists() or _stamped(path) != stamp:
        from raremap.scene.resample import rescale_labels

        rescale_labels(
            source.mask, grid, path, options, scheme, source.images[0], tags={_STAMP: stamp}, cluster=cluster,
            empty=True,
        )  # fmt: skip
    return replace(source, mask=str(path))


def _stamp(mask: str, grid: Grid, options: RescaleOptions, scheme: LabelScheme) -> str:
    # The time sees what was written in the middle of a large file.
    parts = [
        fingerprint(mask),
        modified(mask),
        grid.to_dict(),
        options.model_dump(),
        scheme.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _stamped(path: Path) -> str | None:
    with opened(path) as file:
        return file.tags().get(_STAMP)
