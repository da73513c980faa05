"""Whether a training reads its tiles, and features of them, from a cache of decoded blocks, and where that is."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raremap.errors import OutputError, RaremapWarning
from raremap.tiles.contents import FeatureOf
from raremap.tiles.fill import fill, fill_feature, size_of, sized, stored_bytes
from raremap.tiles.identity import feature_folder

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.options import Feature
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.fill import Windows
    from raremap.tiles.reader import TileReader
    from raremap.tiles.store import Store

Use = Literal["auto"] | bool
_TILES = "training reads its tiles from their files each time"
_FEATURES = "training makes features anew for each sample"


def use_cache(reader: TileReader, catalog: Catalog, use: Use, folder: Path, quiet: bool = False) -> None:
    """Let a reader read from the cache in `folder`, which gets what it lacks first.

    "auto": where the reader's tiles do not fit in memory and the cache takes at most half of what is free on the
    disk; where it cannot be made a `RaremapWarning` says so, nothing of it stays, and the files are read. True:
    always, and `OutputError` where it cannot be made.
    """
    if use is False or (use == "auto" and reader.in_memory):
        return
    if use == "auto" and (much := _too_much(size_of(catalog, reader.windows), [folder], folder)):
        _without(_TILES, much)
        return
    try:
        reader.use(fill(catalog, reader.windows, folder, quiet, keep=use is True))
    except OutputError as error:
        if use is True:
            raise
        _without(_TILES, str(error))


def keep_features(
    reader: TileReader,
    catalog: Catalog,
    use: Use,
    folder: Path,
    lasting: Collection[int],
    plain: np.ndarray,
    quiet: bool = False,
) -> None:
    """Let a reader that reads from the cache in `folder` take costly features from there, too; they have their numbers.

    `lasting` are the places of those that samples show as the scene has them: they are kept of all tiles, others of
    the rows `plain`, which are shown as they are. `use` as in `use_cache`: by "auto" the cache with its features takes
    at most half of what is free, and what cannot be kept is made anew for each sample.
    """
    if reader.store is None:
        return
    wanted: dict[Feature, Windows] = {
        feature: reader.tiles(None if i in lasting else plain)
        for i, feature in enumerate(reader.channels.features)
        if feature.kept
    }
    own = {feature_folder(folder, feature) for feature in wanted}
    if wanted and use == "auto" and (much := _too_much(size_of(catalog, {}, wanted), own, folder)):
        _without(_FEATURES, much)
        return
    stores: dict[Feature, Store] = {}
    images: dict[str, dict[str, Any]] = {}
    try:
        for feature, windows in wanted.items():
            content = FeatureOf(catalog, feature, reader.store, images=images)
            stores[feature] = fill_feature(content, windows, folder, quiet, keep=use is True)
    except OutputError as error:
        if use is True:
            raise
        _without(_FEATURES, str(error))
    reader.use_features(stores)


def _too_much(size: int, own: Iterable[Path], folder: Path) -> str | None:
    """Why stores of `size` bytes in folders of their own, in `folder`, would be more than "auto" takes, or None."""
    held = stored_bytes(folder, features=True)
    free = _free(folder) + held
    size += held - sum(map(stored_bytes, own))
    return (
        f"a cache would take {sized(size)}, more than half of the {sized(free)} free for it"
        if size > free / 2
        else None
    )


def _without(what: str, why: str) -> None:
    warnings.warn(f"{what}: {why}", RaremapWarning, stacklevel=4)


def _free(folder: Path) -> int:
    """What is free where a folder is or will be."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path())
    return shutil.disk_usage(there).free
