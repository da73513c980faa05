"""The shape of the ground, as options."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raremap.errors import SceneError
from raremap.scene.features.options.base import ALL, FLIPS, FeatureOptions, unknown_ground

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels
    from raremap.scene.steps import Steps


class _Terrain(FeatureOptions):
    """The shape of the ground from the band `dem`, of heights of `metres` a unit.

    The pixel's size is the grid's, in degrees, feet or metres alike; `pixel_m` gives it where the scenes have
    no coordinates (and counts where they have).
    """

    dem: str = "dem"
    metres: float = Field(default=1.0, gt=0)
    pixel_m: float | None = Field(default=None, gt=0)

    grounded: ClassVar[bool] = True
    kept: ClassVar[str | None] = "float32"

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

    @property
    def exact(self) -> tuple[int, ...]:
        # Sines and cosines of such angles are alike to rounding only.
        return (0,)

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

    @property
    def exact(self) -> tuple[int, ...]:
        # A quarter turn changes the order of its sums.
        return FLIPS

    def __call__(self, pixels: Pixels) -> np.ndarray:
        import numpy as np

        from raremap.scene.features.terrain import curvature

        return curvature(*self._ground(pixels), self.form).astype(np.float32)[None]
