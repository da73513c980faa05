"""Bands stretched to the range of the scene or of the training pixels, as options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raremap.errors import SceneError
from raremap.scene.features.options.base import GREY, FeatureOptions

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels


class _MinMax(FeatureOptions):
    """Bands moved to 0 at their least and 1 at their greatest value, a channel each; 0 where both are one."""

    of: tuple[str, ...] = Field(default=GREY, min_length=1)

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
