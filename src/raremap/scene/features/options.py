"""Which features there are: options that are their own callables, `Ndvi()(pixels)` → float32 `[n, h, w]`.

No heavy import: arrays are computed in the modules beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from raremap.errors import SceneError, nearest
from raremap.options import Options

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels
    from raremap.scene.steps import Steps

ALL = tuple(range(8))
_GREY = ("red", "green", "blue")
# Values that a tile gives to what is fitted to all of them.
_SAMPLE = 4096


class FeatureOptions(Options):
    """What every feature says of itself; `name` calls its channel otherwise than by its kind.

    `units`; `margin`: pixels beyond a window that its values depend on; `survives`: the turns (`scene.turn`) after
    which it is the turned feature, so that flips and rotations of its channels alone would be right;
    `ranged`: bands whose least and greatest value in the scene it needs; `grounded`: needs the pixel's size.
    """

    kind: Any = None
    name: str | None = None

    units: ClassVar[str] = "none"
    grounded: ClassVar[bool] = False

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.name or self.kind

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of its channels."""
        return (self.called,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The bands that it is made of, by name or alias."""
        raise NotImplementedError

    @property
    def margin(self) -> int:
        """Pixels beyond a window that its values depend on."""
        return 0

    @property
    def survives(self) -> tuple[int, ...]:
        """The turns that may come before or after it."""
        return ALL

    @property
    def ranged(self) -> tuple[str, ...]:
        """Bands whose least and greatest value in the scene it needs."""
        return ()

    @property
    def unfitted(self) -> bool:
        """Whether numbers of it are still to be taken from training pixels."""
        return False

    def measure(self, pixels: Pixels) -> np.ndarray:
        """What `fitted` needs of one tile."""
        raise NotImplementedError

    def fitted(self, measured: Sequence[np.ndarray]) -> Self:
        """The feature with its numbers from all tiles."""
        return self

    def __call__(self, pixels: Pixels) -> np.ndarray:
        """Channels float32 `[n, h, w]`; what stands at invalid pixels has no meaning."""
        raise NotImplementedError


class _Index(FeatureOptions):
    """Difference of two sums of bands by their sum, from −1 to 1; 0 where the sum is 0.

    `offset` is added to each band first: −1000 for Sentinel-2's level 2A since 2022. Where bands fall
    below 0 the ratio could be anything; it is cut at −1 and 1.
    """

    offset: float = 0.0

    _plus: ClassVar[tuple[str, ...]]
    _minus: ClassVar[tuple[str, ...]]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(getattr(self, role) for role in self._plus + self._minus)

    def __call__(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.indices import ratio

        n = len(self._plus)
        bands = [pixels.layer(name, self.called) for name in self.inputs]
        return ratio(bands[:n], bands[n:], self.offset)[None]


class Ndvi(_Index):
    """Vegetation: (nir − red) / (nir + red); Rouse et al. 1974."""

    kind: Literal["ndvi"] = "ndvi"
    nir: str = "nir"
    red: str = "red"
    _plus, _minus = ("nir",), ("red",)


class Ndmi(_Index):
    """Moisture: (nir − swir1) / (nir + swir1), of Sentinel-2 (B8 − B11) / (B8 + B11); Gao 1996, Wilson & Sader 2002."""

    kind: Literal["ndmi"] = "ndmi"
    nir: str = "nir"
    swir1: str = "swir1"
    _plus, _minus = ("nir",), ("swir1",)


class Nbr(_Index):
    """Burnt ground: (nir − swir2) / (nir + swir2); Key & Benson 2006."""

    kind: Literal["nbr"] = "nbr"
    nir: str = "nir"
    swir2: str = "swir2"
    _plus, _minus = ("nir",), ("swir2",)


class Ndwi(_Index):
    """Open water: (green − nir) / (green + nir); McFeeters 1996."""

    kind: Literal["ndwi"] = "ndwi"
    green: str = "green"
    nir: str = "nir"
    _plus, _minus = ("green",), ("nir",)


class Mndwi(_Index):
    """Open water beside buildings: (green − swir1) / (green + swir1); Xu 2006."""

    kind: Literal["mndwi"] = "mndwi"
    green: str = "green"
    swir1: str = "swir1"
    _plus, _minus = ("green",), ("swir1",)


class Ndbi(_Index):
    """Built-up ground: (swir1 − nir) / (swir1 + nir); Zha et al. 2003."""

    kind: Literal["ndbi"] = "ndbi"
    swir1: str = "swir1"
    nir: str = "nir"
    _plus, _minus = ("swir1",), ("nir",)


class Bsi(_Index):
    """Bare soil: ((swir1 + red) − (nir + blue)) / (swir1 + red + nir + blue); Rikimaru et al. 2002."""

    kind: Literal["bsi"] = "bsi"
    swir1: str = "swir1"
    red: str = "red"
    nir: str = "nir"
    blue: str = "blue"
    _plus, _minus = ("swir1", "red"), ("nir", "blue")


class _Filter(FeatureOptions):
    """A filter of one layer: a band, or "grey", the mean of red, green and blue."""

    of: str = "grey"

    units: ClassVar[str] = "as the bands"

    @property
    def inputs(self) -> tuple[str, ...]:
        return _GREY if self.of == "grey" else (self.of,)

    def _layer(self, pixels: Pixels) -> np.ndarray:
        return pixels.layer(self.of, self.called)


class Grey(FeatureOptions):
    """Grey: (red + green + blue) / 3."""

    kind: Literal["grey"] = "grey"
    units: ClassVar[str] = "as the bands"

    @property
    def inputs(self) -> tuple[str, ...]:
        return _GREY

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
        return size[:: max(1, -(-len(size) // _SAMPLE))]

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


class _MinMax(FeatureOptions):
    """Bands moved to 0 at their least and 1 at their greatest value, a channel each; 0 where both are one."""

    of: tuple[str, ...] = Field(default=_GREY, min_length=1)

    units: ClassVar[str] = "0 to 1"

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"{self.called}_{band}" for band in self.of)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.of

    def _stretched(self, pixels: Pixels, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
        from raremap.scene.features.indices import stretched

        return stretched([pixels.layer(b, self.called) for b in self.of], low, high)


class LocalMinMax(_MinMax):
    """Min–max of each scene by itself: (x − least of the scene) / (greatest − least)."""

    kind: Literal["local"] = "local"

    @property
    def ranged(self) -> tuple[str, ...]:
        return self.of

    def __call__(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.names import require_band

        ranges = [pixels.ranges[require_band(b, pixels.bands, self.called)] for b in self.of]
        return self._stretched(pixels, [r[0] for r in ranges], [r[1] for r in ranges])


class GlobalMinMax(_MinMax):
    """Min–max of all training pixels; `low` and `high` are theirs unless they are given."""

    kind: Literal["global"] = "global"
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_each(self) -> GlobalMinMax:
        if (self.low is None) != (self.high is None):
            raise ValueError(
                "global: give both low and high, or neither (then they come from the training pixels)"
            )
        for key, values in (("low", self.low), ("high", self.high)):
            if values is not None and len(values) != len(self.of):
                raise ValueError(
                    f"global: {key} has {len(values)} values, expected {len(self.of)}, one a band"
                )
        return self

    @property
    def unfitted(self) -> bool:
        return self.low is None

    def measure(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        values = np.stack([pixels.layer(b, self.called)[pixels.valid] for b in self.of])
        return np.stack([values.min(1), values.max(1)])

    def fitted(self, measured: Sequence[np.ndarray]) -> Self:
        import numpy as np

        both = np.stack(list(measured))
        low, high = both[:, 0].min(0).tolist(), both[:, 1].max(0).tolist()
        return self.model_copy(update={"low": tuple(low), "high": tuple(high)})

    def __call__(self, pixels: Pixels) -> np.ndarray:
        if self.low is None or self.high is None:
            raise SceneError("global has no range yet: give low and high, or fit it to training pixels")
        return self._stretched(pixels, self.low, self.high)


class _Terrain(FeatureOptions):
    """The shape of the ground from the band `dem`, of heights of `metres` a unit.

    The pixel's size is the grid's, in degrees, feet or metres alike; `pixel_m` gives it where the scenes have
    no coordinates (and counts where they have).
    """

    dem: str = "dem"
    metres: float = Field(default=1.0, gt=0)
    pixel_m: float | None = Field(default=None, gt=0)

    grounded: ClassVar[bool] = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.dem,)

    @property
    def margin(self) -> int:
        return 1

    def _ground(self, pixels: Pixels) -> tuple[np.ndarray, np.ndarray, Steps]:
        import numpy as np

        from raremap.scene.steps import Steps

        steps = pixels.steps if self.pixel_m is None else Steps.square(self.pixel_m)
        if steps is None:
            raise SceneError(unknown_ground(self))
        heights = pixels.band(self.dem, self.called).astype(np.float64) * self.metres
        return heights, pixels.valid, steps


class Slope(_Terrain):
    """Steepest slope (Horn 1981)."""

    kind: Literal["slope"] = "slope"
    units: ClassVar[str] = "degrees"

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.terrain import slope, uphill

        return slope(*uphill(*self._ground(pixels))).astype(np.float32)[None]


class Aspect(_Terrain):
    """Sine (east) and cosine (north) of the azimuth that a slope faces, two channels; both 0 where it is flat."""

    kind: Literal["aspect"] = "aspect"

    @property
    def channels(self) -> tuple[str, ...]:
        return f"{self.called}_sin", f"{self.called}_cos"

    @property
    def survives(self) -> tuple[int, ...]:
        return (0,)

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.terrain import aspect, uphill

        return aspect(*uphill(*self._ground(pixels))).astype(np.float32)


class Hillshade(_Terrain):
    """Light of a sun at `azimuth` and `altitude`, degrees; the sun stays where it is when a sample is turned."""

    kind: Literal["hillshade"] = "hillshade"
    azimuth: float = Field(default=315.0, ge=0, le=360)
    altitude: float = Field(default=45.0, gt=0, le=90)
    units: ClassVar[str] = "0 to 1"

    @property
    def survives(self) -> tuple[int, ...]:
        # A flip along the sun's own direction.
        along = {0: 4, 180: 4, 90: 6, 270: 6, 45: 5, 225: 5, 135: 7, 315: 7}
        if self.altitude == 90:
            return ALL
        return (0, *([along[int(self.azimuth) % 360]] if self.azimuth % 45 == 0 else []))

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.terrain import hillshade, uphill

        light = hillshade(*uphill(*self._ground(pixels)), self.azimuth, self.altitude)
        return light.astype(np.float32)[None]


class Curvature(_Terrain):
    """How convex the ground is: in all, along the slope (`profile`) or across it (`plan`); Zevenbergen & Thorne 1987."""

    kind: Literal["curvature"] = "curvature"
    form: Literal["total", "profile", "plan"] = "total"
    units: ClassVar[str] = "1 / m"

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.terrain import curvature

        return curvature(*self._ground(pixels), self.form).astype(np.float32)[None]


_Any = (
    Ndvi | Ndmi | Nbr | Ndwi | Mndwi | Ndbi | Bsi
    | Grey | Gaussian | Median | Canny | Sobel
    | LocalMinMax | GlobalMinMax
    | Slope | Aspect | Hillshade | Curvature
)  # fmt: skip
KINDS: dict[str, type[FeatureOptions]] = {c.model_fields["kind"].default: c for c in get_args(_Any)}
_OTHER_NAMES = {"gray": "grey", "vi": "ndmi", "edges": "canny"}


def _read(value: Any) -> Any:
    """A plain name is the kind with its defaults; a wrong one is told with the nearest."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, dict):
        kind = str(value.get("kind")).lower()
        kind = _OTHER_NAMES.get(kind, kind)
        if kind not in KINDS:
            raise ValueError(f"no feature is called '{value.get('kind')}'; {nearest(kind, KINDS)}")
        return {**value, "kind": kind}
    return value


Feature = Annotated[Annotated[_Any, Field(discriminator="kind")], BeforeValidator(_read)]


def unknown_ground(feature: FeatureOptions) -> str:
    """That a scene does not say how large its pixels are."""
    return (
        f"the feature '{feature.called}' needs the size of a pixel, and the scene has no coordinates; "
        f"give it: {{kind: {feature.kind}, pixel_m: 10}}"
    )
