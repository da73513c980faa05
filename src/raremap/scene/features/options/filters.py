"""Grey, blurs and edges, as options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raremap.errors import SceneError
from raremap.scene.features.options.base import ALL, GREY, SAMPLE, FeatureOptions

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels


class _Filter(FeatureOptions):
    """A filter of one layer: a band, or "grey", the mean of red, green and blue."""

    of: str = "grey"

    units: ClassVar[str] = "as the bands"
    kept: ClassVar[str | None] = "float32"

    @property
    def inputs(self) -> tuple[str, ...]:
        return GREY if self.of == "grey" else (self.of,)

    def _layer(self, pixels: Pixels) -> np.ndarray:
        return pixels.layer(self.of, self.called)


class Grey(FeatureOptions):
    """Grey: (red + green + blue) / 3."""

    kind: Literal["grey"] = "grey"
    units: ClassVar[str] = "as the bands"

    @property
    def inputs(self) -> tuple[str, ...]:
        return GREY

    def __call__(self, pixels: Pixels) -> np.ndarray:
        return pixels.layer("grey", self.called)[None]


class Gaussian(_Filter):
    """Gaussian blur, cut at `size` // 2 pixels; `sigma` in pixels, default 0.3 ((size − 1) / 2 − 1) + 0.8 as OpenCV."""

    kind: Literal["gaussian"] = "gaussian"
    size: int = Field(default=10, ge=2, le=255)
    sigma: float | None = Field(default=None, gt=0)

    @property
    def margin(self) -> int:
        return self.size // 2

    @property
    def exact(self) -> tuple[int, ...]:
        # Sums along columns, then rows: in another order they are rounded otherwise.
        return (0,)

    def __call__(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.filters import gaussian_weights, smooth

        sigma = 0.3 * ((self.size - 1) / 2 - 1) + 0.8 if self.sigma is None else self.sigma
        return smooth(self._layer(pixels), pixels.valid, gaussian_weights(self.margin, sigma))[None]


class Median(_Filter):
    """Median of the valid pixels in a window of `size`; an even one reaches one pixel further up and left."""

    kind: Literal["median"] = "median"
    size: int = Field(default=10, ge=2, le=255)

    @property
    def margin(self) -> int:
        return self.size // 2

    @property
    def survives(self) -> tuple[int, ...]:
        # Code 7 changes rows with columns: an even window lies along that diagonal.
        return ALL if self.size % 2 else (0, 7)

    def __call__(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.filters import median

        return median(self._layer(pixels), pixels.valid, self.size)[None]


class Sobel(_Filter):
    """Sobel's gradients to the right and downwards, two channels: eight times the change a pixel."""

    kind: Literal["sobel"] = "sobel"
    units: ClassVar[str] = "8 × the bands', a pixel"

    @property
    def channels(self) -> tuple[str, ...]:
        return f"{self.called}_x", f"{self.called}_y"

    @property
    def margin(self) -> int:
        return 1

    @property
    def survives(self) -> tuple[int, ...]:
        return (0,)

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.filters import gradient

        return (8 * gradient(self._layer(pixels), pixels.valid)).astype(np.float32)


class Canny(_Filter):
    """Canny's edges, 0 or 1, after a Gaussian of `sigma` pixels (0: none).

    `low` and `high` are sizes of the Sobel gradient; by default its 80th and 95th percentile over the training
    pixels. A weak edge counts where at most `reach` steps join it to a strong one.
    """

    kind: Literal["canny"] = "canny"
    sigma: float = Field(default=1.0, ge=0, le=20)
    low: float | None = Field(default=None, ge=0)
    high: float | None = Field(default=None, ge=0)
    reach: int = Field(default=16, ge=0, le=256)
    units: ClassVar[str] = "0 or 1"
    kept: ClassVar[str | None] = "uint8"

    @model_validator(mode="after")
    def _thresholds(self) -> Canny:
        if (self.low is None) != (self.high is None):
            raise ValueError(
                "canny: give both low and high, or neither (then they come from the training pixels)"
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(
                f"canny: low is {self.low:g} and high {self.high:g}; low cannot be the greater one"
            )
        return self

    @property
    def _radius(self) -> int:
        return int(3 * self.sigma + 0.5)

    @property
    def margin(self) -> int:
        # The Gaussian, the gradient, its neighbours, and the way along weak edges.
        return self._radius + 2 + self.reach

    @property
    def survives(self) -> tuple[int, ...]:
        # Of two neighbours of one size one is the ridge, the same side before and after a turn.
        return (0,)

    @property
    def unfitted(self) -> bool:
        return self.low is None

    def _gradient(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.filters import gaussian_weights, gradient, smooth

        layer = self._layer(pixels)
        if self._radius:
            layer = smooth(layer, pixels.valid, gaussian_weights(self._radius, self.sigma))
        return 8 * gradient(layer, pixels.valid)

    def measure(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        right, down = self._gradient(pixels)
        size = np.hypot(right, down)[pixels.valid]
        return size[:: max(1, -(-len(size) // SAMPLE))]

    def fitted(self, measured: Sequence[np.ndarray]) -> Self:
        import numpy as np

        low, high = np.percentile(np.concatenate(measured), (80, 95))
        return self.model_copy(update={"low": float(low), "high": float(high)})

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.edges import canny

        if self.low is None or self.high is None:
            raise SceneError("canny has no thresholds yet: give low and high, or fit it to training pixels")
        right, down = self._gradient(pixels)
        return canny(right, down, self.low, self.high, self.reach).astype(np.float32)[None]
