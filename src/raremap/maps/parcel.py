"""Drawn rectangles as bytes, to be sent and kept: arrays compressed, in a zip file without a pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np

from raremap.maps.drawing import Drawn
from raremap.scene.window import Window

_LEVEL = 1  # class maps shrink to a few hundredths at any level


def packed(drawings: Iterable[Drawn]) -> bytes:
    """All of them, one compressed after the other, so that no two are in memory at once."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as file:
        for i, drawn in enumerate(drawings):
            window = np.array(drawn.window, np.int64)
            for name, array in {"window": window, "counts": drawn.counts, **drawn.layers}.items():
                with file.open(f"{i}/{name}", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def unpacked(data: bytes) -> Iterator[Drawn]:
    """What was packed, one at a time."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names: dict[int, list[str]] = {}
        for entry in file.namelist():
            number, name = entry.split("/")
            names.setdefault(int(number), []).append(name)
        for number, found in names.items():
            arrays = {}
            for name in found:
                with file.open(f"{number}/{name}") as entry:
                    arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
            window = Window(*arrays.pop("window").tolist())
            counts = arrays.pop("counts")
            yield Drawn(window, arrays, counts)
