"""Clouds and snow: which pixels they cover, from a band or a file that says so; heavy imports inside functions."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raremap.errors import SceneError, nearest
from raremap.labels import IGNORE
from raremap.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from raremap.scene.grid import Grid
    from raremap.scene.masks import Mask
    from raremap.scene.raster import ImageReader
    from raremap.scene.window import Window

SCL = {"cloud": (3, 8, 9, 10), "snow": (11,), "clear": (0, 1, 2, 4, 5, 6, 7)}
"""Sentinel-2's scene classification: cloud shadow, cloud of medium and high probability, cirrus; snow."""
_PLAIN = {"cloud": (1,), "snow": (), "clear": (0,)}
_NO_VIEW = (0, 1)  # of Sentinel-2's scene classification: no data, saturated or defective
_CLOUD, _SNOW, _UNKNOWN = 1, 2, 3


class CloudOptions(Options):
    """What says where clouds are: a `band` of the image, or `files` found like masks.

    Files on another grid (Sentinel-2's SCL of 20 m) are read on the image's, by nearest pixel.
    `cloud` and `snow` list its values; every other value is clear. Without them a band, a file or its folder called
    SCL is read as Sentinel-2's scene classification (3, 8, 9, 10 are clouds and their shadows, 11 is snow), and any
    other must hold 0 (clear) and 1 (cloud).
    """

    band: str | None = None
    files: str | list[str] | None = None
    cloud: list[int] | None = Field(default=None, min_length=1)
    snow: list[int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        """`clouds: SCL` is a band, `clouds: "scl/*.tif"` are files."""
        if not isinstance(data, str):
            return {"files": data} if isinstance(data, list) else data
        a_file = re.search(r"[/\\*?{\[]", data) or os.path.splitext(data)[1]
        return {"files": data} if a_file else {"band": data}

    @model_validator(mode="after")
    def _one(self) -> CloudOptions:
        if (self.band is None) == (self.files is None):
            raise ValueError("give either a band of the image or files of their own")
        if both := set(self.cloud or ()) & set(self.snow or ()):
            raise ValueError(f"value {min(both)} is listed under cloud and under snow")
        if self.snow is not None and self.cloud is None:
            raise ValueError("snow is given without cloud; list the values of both")
        return self


class CloudRecord(Options):
    """Where a scene's clouds are read, and with which values, as a catalog keeps it.

    `bands` are of the image, `files` files beside it: one for each date that the image holds. A pixel of
    several dates is clouded where `rule` of them are.
    """

    bands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    cloud: tuple[int, ...] | None = None
    snow: tuple[int, ...] = ()
    rule: Literal["any", "all"] = "all"

    def open(self, image: ImageReader | None, grid: Grid) -> CloudReader:
        """The reader of a scene's clouds; `image` has the bands `bands`. Raises `SceneError`."""
        if image is not None and self.bands:
            return CloudReader([image], self)
        listed = self.cloud is not None
        return CloudReader([_open_file(path, grid, listed) for path in self.files], self)


def _open_file(path: str, grid: Grid, listed: bool) -> ImageReader:
    """A cloud mask; where it lies on another grid than the image's, by nearest pixel on that."""
    from raremap.scene.ongrid import OnGrid
    from raremap.scene.raster import open_image

    with open_image(path) as file:
        named = [b for b in file.bands if _is_scl(b)]
        if len(file.bands) > 1 and len(named) != 1:
            raise SceneError(
                f"cloud mask {path} has the bands {', '.join(file.bands)}, expected one band or one called SCL"
            )
    reader = open_image(path, bands=named or None)
    if reader.nodata == 0 and not listed and not _holds_scl(reader.bands[0], path):
        reader.nodata = None  # 0 says clear, whatever the tag: else the mask would know of no clear pixel
    return OnGrid(reader, grid) if reader.grid.difference(grid) else reader


def _is_scl(name: str) -> bool:
    return "SCL" in re.split(r"[^A-Z]+", name.upper())


def _holds_scl(band: str, path: str) -> bool:
    """Whether a band is Sentinel-2's scene classification, by its own name, its file's or its folder's."""
    *folders, file = re.split(r"[/\\]", path)
    return _is_scl(band) or _is_scl(file) or folders[-1:] in (["scl"], ["SCL"])


class CloudReader:
    """Clouded and snowy pixels of a scene, read by window."""

    def __init__(self, readers: Sequence[ImageReader], record: CloudRecord) -> None:
        self._readers, self._record = tuple(readers), record

    def __enter__(self) -> CloudReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        for reader in self._readers:
            reader.close()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Whether each pixel of a window is clouded, and whether it is snow, bool `[h, w]` both."""
        codes = self._codes(window)
        return self._decided(codes == _CLOUD), self._decided(codes == _SNOW)

    def hidden(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel is no view of the ground for sure: clouded, or of unknown cloudiness, bool `[h, w]` both.

        Unknown is what the mask does not cover, its own nodata, and 0 and 1 of Sentinel-2's scene classification
        (no data, defective). Snow is a view.
        """
        codes = self._codes(window)
        cloud = self._decided(codes == _CLOUD)
        return cloud, self._decided((codes == _CLOUD) | (codes == _UNKNOWN)) & ~cloud

    def _codes(self, window: Window) -> np.ndarray:
        import numpy as np

        return np.concatenate([self._classes(reader, window) for reader in self._readers])

    def _decided(self, layers: np.ndarray) -> np.ndarray:
        """What is so of the pixels, from what is so of each date `[dates, h, w]`."""
        import numpy as np

        decide = np.any if self._record.rule == "any" else np.all
        return layers[0] if len(layers) == 1 else decide(layers, axis=0)

    def _classes(self, reader: ImageReader, window: Window) -> np.ndarray:
        """0 (clear), `_CLOUD`, `_SNOW` or `_UNKNOWN`, uint8 `[bands, h, w]`."""
        import numpy as np

        image, valid = reader.read(window)
        record, path = self._record, reader.paths[0]
        out = np.zeros(image.shape, np.uint8)
        for band, name, codes in zip(image, reader.bands, out, strict=True):
            scl = _holds_scl(name, path)
            known = SCL if scl else _PLAIN
            # A band of the image has the image's nodata value, of which 0 says nothing about clouds.
            codes[~valid & (band != 0) if record.bands else ~valid] = _UNKNOWN
            if scl:
                codes[np.isin(band, _NO_VIEW)] = _UNKNOWN
            if record.cloud is not None:
                known = {"cloud": record.cloud, "snow": record.snow}
            codes[np.isin(band, known["cloud"])] = _CLOUD
            codes[np.isin(band, known["snow"])] = _SNOW
            odd = valid & ~np.isin(band, [v for values in known.values() for v in values])
            if record.cloud is None and odd.any():
                what = "which Sentinel-2's scene classification has not" if scl else "expected 0 or 1"
                raise SceneError(
                    f"cloud mask {path} has value {band[odd][0]:g} in band {name}, {what}; "
                    "list its values under scenes.clouds.cloud and scenes.clouds.snow, or --cloud-values"
                )
        return out


class ClearMask:
    """A mask whose clouded pixels are `IGNORE`; everything else is the mask's own."""

    def __init__(self, mask: Mask, clouds: CloudReader) -> None:
        self._mask, self._clouds = mask, clouds

    @property
    def grid(self) -> Grid:
        """The grid of both."""
        return self._mask.grid

    @property
    def remark(self) -> str | None:
        """What the mask says."""
        return self._mask.remark

    def __enter__(self) -> ClearMask:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        self._mask.close()
        self._clouds.close()

    @property
    def soft(self) -> bool:
        """What the mask is."""
        return self._mask.soft

    def read(self, window: Window) -> np.ndarray:
        """Class index `[h, w]` of a window; `IGNORE` where unlabelled or clouded."""
        return self.split(window)[0]

    def shares(self, window: Window) -> np.ndarray:
        """The mask's own shares `[K, h, w]`."""
        return self._mask.shares(window)

    def split(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Class index `[h, w]` of the clear pixels, and of the clouded ones; `IGNORE` elsewhere."""
        index = self._mask.read(window)
        cloud = self._clouds.read(window)[0]
        under = index.copy()
        index[cloud], under[~cloud] = IGNORE, IGNORE
        return index, under


def check_band(band: str, known: Sequence[str], path: str) -> None:
    """Raise `SceneError` where the image has no such band to read clouds from."""
    if band not in known:
        raise SceneError(
            f"{path} has no band '{band}' for scenes.clouds, it has {', '.join(known)}; {nearest(band, known)}"
        )
