"""Whether a training reads its tiles from a cache of decoded blocks, and where that is."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raremap.errors import OutputError, RaremapWarning
from raremap.tiles.fill import fill, size_of, sized, stored_bytes

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.reader import TileReader

Use = Literal["auto"] | bool


def use_cache(reader: TileReader, catalog: Catalog, use: Use, folder: Path, quiet: bool = False) -> None:
    """Let a reader read from the cache in `folder`, which gets what it lacks first.

    "auto": where the reader's tiles do not fit in memory and the cache takes at most half of what is free on the
    disk; where it cannot be made a `RaremapWarning` says so, nothing of it stays, and the files are read. True:
    always, and `OutputError` where it cannot be made.
    """
    if use is False or (use == "auto" and reader.in_memory):
        return
    if use is True:
        reader.use(fill(catalog, reader.windows, folder, quiet))
        return
    size, free = size_of(catalog, reader.windows), _free(folder) + stored_bytes(folder)
    if size > free / 2:
        _without(f"a cache would take {sized(size)}, more than half of the {sized(free)} free for it")
        return
    try:
        reader.use(fill(catalog, reader.windows, folder, quiet, keep=False))
    except OutputError as error:
        _without(str(error))


def _without(why: str) -> None:
    warnings.warn(f"training reads its tiles from their files each time: {why}", RaremapWarning, stacklevel=4)


def _free(folder: Path) -> int:
    """What is free where a folder is or will be."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path())
    return shutil.disk_usage(there).free
