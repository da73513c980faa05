"""What every feature says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from raremap.options import Options

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels

ALL = tuple(range(8))
# Those that leave rows rows: flips up and down, left and right, and both.
FLIPS = (0, 2, 4, 6)
GREY = ("red", "green", "blue")
# Values that a tile gives to what is fitted to all of them.
SAMPLE = 4096


class FeatureOptions(Options):
    """What every feature says of itself; `name` calls its channel otherwise than by its kind.

    `units`; `margin`: pixels beyond a window that its values depend on; `survives`: the turns (`scene.turn`) after
    which it is the turned feature, so that flips and rotations of its channels alone would be right;
    `exact`: those of them after which not a bit is another; `ranged`: bands whose least and greatest value in the
    scene it needs; `grounded`: needs the pixel's size; `kept`: the type that a cache keeps its values in, None where
    they are made as fast as they are read.
    """

    kind: Any = None
    name: str | None = None

    units: ClassVar[str] = "none"
    grounded: ClassVar[bool] = False
    kept: ClassVar[str | None] = None

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
    def exact(self) -> tuple[int, ...]:
        """The turns after which not a bit of it is another."""
        return self.survives

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


def unknown_ground(feature: FeatureOptions) -> str:
    """That a scene does not say how large its pixels are."""
    return (
        f"the feature '{feature.called}' needs the size of a pixel, and the scene has no coordinates; "
        f"give it: {{kind: {feature.kind}, pixel_m: 10}}"
    )
