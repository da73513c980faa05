"""Normalisation of bands: statistics of training pixels only, kept with the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raremap.errors import SceneError
from raremap.options import Options

if TYPE_CHECKING:
    import numpy as np


class NormalizeOptions(Options):
    """`standard` (zero mean, unit deviation), `mean` (divide by it), `minmax`, `percentile` or `none`.

    `percentile` puts the `low` and `high` percentiles of each band at 0 and 1.
    """

    kind: Literal["standard", "mean", "minmax", "percentile", "none"] = "standard"
    low: float = Field(default=2.0, ge=0, lt=50)
    high: float = Field(default=98.0, gt=50, le=100)


@dataclass(frozen=True)
class Normalization:
    """`(band - shift) * scale` of each band, in float32; invalid pixels become 0."""

    kind: str
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def identity(cls, bands: int) -> Normalization:
        """Bands as they are stored."""
        return cls("none", (0.0,) * bands, (1.0,) * bands)

    def apply(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Float32 of an image `[C, h, w]` of any number type, with validity `[h, w]`."""
        import numpy as np

        out = image.astype(np.float32)
        out -= np.asarray(self.shift, np.float32)[:, None, None]
        out *= np.asarray(self.scale, np.float32)[:, None, None]
        if not valid.all():
            out[:, ~valid] = 0
        return out

    @property
    def middles(self) -> tuple[float, ...] | None:
        """Where each band was in the training: its mean, or the middle of its range; None for bands as they are stored."""
        if self.kind == "none":
            return None
        pairs = zip(self.shift, self.scale, strict=True)
        if self.kind == "standard":
            return self.shift
        return tuple(1 / scale if self.kind == "mean" else shift + 0.5 / scale for shift, scale in pairs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": self.kind, "shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Normalization:
        """What `to_dict` gave."""
        return cls(data["kind"], tuple(data["shift"]), tuple(data["scale"]))


def fit(
    pixels: Iterable[tuple[np.ndarray, np.ndarray]], bands: tuple[str, ...], options: NormalizeOptions
) -> Normalization:
    """The normalisation of a stream of images `[C, h, w]` with validity `[h, w]`, in one pass.

    Mean and deviation are merged exactly in float64 (Chan, Golub & LeVeque 1979). Percentiles come from a
    bounded sample: every tile gives the same number of evenly spaced valid pixels. Raises `SceneError`
    where no pixel is valid or a band is constant.
    """
    import numpy as np

    if options.kind == "none":
        return Normalization.identity(len(bands))
    c = len(bands)
    count, mean, m2 = 0, np.zeros(c), np.zeros(c)
    low, high = np.full(c, np.inf), np.full(c, -np.inf)
    sample: list[np.ndarray] = []
    for image, valid in pixels:
        values = image[:, valid].astype(np.float64)
        n = values.shape[1]
        if n == 0:
            continue
        m = values.mean(1)
        delta = m - mean
        m2 += ((values - m[:, None]) ** 2).sum(1) + delta**2 * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
        low, high = np.minimum(low, values.min(1)), np.maximum(high, values.max(1))
        if options.kind == "percentile":
            sample.append(values[:, :: max(1, n // 2000)])
    if count == 0:
        raise SceneError("no valid pixel in the training tiles; check scenes.nodata")
    constant = [b for b, lo, hi in zip(bands, low, high, strict=True) if lo == hi]
    if constant:
        raise SceneError(
            f"band '{constant[0]}' is constant over all training pixels; leave it out with scenes.use or scenes.features"
        )
    if options.kind == "mean":
        if (np.abs(mean) < 1e-12).any():
            raise SceneError(
                f"band '{bands[int(np.abs(mean).argmin())]}' has mean 0 and cannot be divided by it; use standard"
            )
        shift, scale = np.zeros(c), 1 / mean
    elif options.kind == "standard":
        shift, scale = mean, 1 / np.sqrt(m2 / count)
    else:
        if options.kind == "percentile":
            low, high = np.percentile(np.concatenate(sample, 1), (options.low, options.high), axis=1)
            if (flat := low == high).any():
                i = int(flat.argmax())
                raise SceneError(
                    f"band '{bands[i]}' is {low[i]:g} at percentile {options.low:g} and at {options.high:g} of the "
                    "training pixels and cannot be stretched between them; use minmax or standard"
                )
        shift, scale = low, 1 / np.maximum(high - low, 1e-12)
    return Normalization(options.kind, tuple(shift.tolist()), tuple(scale.tolist()))
