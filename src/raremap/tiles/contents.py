"""What the blocks of a store are made of: scenes as they are read, or a feature of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raremap.scene.features.channels import Channels
from raremap.scene.features.reader import ranges_of
from raremap.tiles.identity import feature_form, feature_identity, form_of, identity, image_identity
from raremap.tiles.store import BLOCK, Form

if TYPE_CHECKING:
    from raremap.scene.features.options import Feature
    from raremap.scene.window import Window
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.store import Store

# Bytes that a thread reads at a time; of files that can only be read from the top down.
_BYTES, _SEQUENTIAL_BYTES = 16 << 20, 64 << 20
# Blocks a side that a feature is made of at a time: its filters take several times their bytes.
_SIDE = 4


class Content(Protocol):
    """What a store is filled with."""

    @property
    def catalog(self) -> Catalog:
        """The catalog whose scenes they are."""
        ...

    @property
    def title(self) -> str:
        """What stands beside the bar."""
        ...

    @property
    def said(self) -> str:
        """What `of` is, in words."""
        ...

    @property
    def of(self) -> dict[str, Any]:
        """What all its scenes share, as JSON has it."""
        ...

    def form(self, name: str) -> Form:
        """What a block of a scene holds."""
        ...

    def identity(self, name: str, form: Form) -> dict[str, Any]:
        """What the blocks of a scene follow from, as JSON has it."""
        ...

    def steps(self, name: str, form: Form, wide: int) -> tuple[int, int, bool]:
        """Blocks `(rows, columns)` of a scene, `wide` blocks wide, that are read at a time; whether from end to end."""
        ...

    def read(self, name: str, form: Form, window: Window) -> list[np.ndarray]:
        """The layers of a window."""
        ...


@dataclass(frozen=True)
class Scenes:
    """Scenes as they are read: image, validity, class indices, and any label weights and shares of classes."""

    catalog: Catalog
    title: str = "cache"
    said: str = "the labels' scheme"

    @property
    def of(self) -> dict[str, Any]:
        """The labels' scheme."""
        return {"labels": self.catalog.scheme.model_dump(mode="json")}

    def form(self, name: str) -> Form:
        """What a block of a scene holds."""
        return form_of(self.catalog.scenes[name], self._shared)

    def identity(self, name: str, form: Form) -> dict[str, Any]:
        """What the blocks of a scene follow from, as JSON has it."""
        return identity(self.catalog.scenes[name], form)

    def steps(self, name: str, form: Form, wide: int) -> tuple[int, int, bool]:
        """Along the file's own blocks, of a bounded number of bytes."""
        with self.catalog.open_image(name) as image:
            block, sequential = image.block, image.sequential
        one = BLOCK * BLOCK * form.pixel
        if sequential:
            return max(1, _SEQUENTIAL_BYTES // (one * wide)), wide, True
        high = min(-(-block[0] // BLOCK), max(1, _BYTES // one))
        whole = -(-block[1] // BLOCK)
        most = max(1, _BYTES // (one * high))
        return high, most // whole * whole or most, False

    def read(self, name: str, form: Form, window: Window) -> list[np.ndarray]:
        """The layers of a window, from the scene's files."""
        record = self.catalog.scenes[name]
        with record.open_image() as image, self.catalog.open_mask(name) as mask:
            layers = [*image.read(window), mask.read(window)]
            shares = [mask.shares(window)] if self._shared else []
        if (weights := record.open_weights()) is not None:
            with weights:
                layers.append(weights.read(window))
        return layers + shares

    @property
    def _shared(self) -> int:
        """How many classes share labels."""
        return self.catalog.scheme.num_classes if self.catalog.soft else 0


@dataclass(frozen=True)
class FeatureOf:
    """A feature of scenes, with the values of the whole scene; made of a store's pixels where it has them, else of the files'."""

    catalog: Catalog
    feature: Feature
    pixels: Store
    said: str = "the feature"
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was found out of each scene, for all features to share."""

    @property
    def title(self) -> str:
        """What stands beside the bar."""
        return f"cache of {self.feature.called}"

    @property
    def of(self) -> dict[str, Any]:
        """The feature with its numbers."""
        return {"feature": feature_identity(self.feature)}

    def form(self, name: str) -> Form:
        """What a block of a scene holds."""
        return feature_form(self.feature)

    def identity(self, name: str, form: Form) -> dict[str, Any]:
        """What the blocks of a scene follow from, as JSON has it."""
        if name not in self.images:
            self.images[name] = image_identity(self.catalog.scenes[name])
        return self.images[name]

    def steps(self, name: str, form: Form, wide: int) -> tuple[int, int, bool]:
        """Squares of blocks."""
        return _SIDE, _SIDE, False

    def read(self, name: str, form: Form, window: Window) -> list[np.ndarray]:
        """The channels of a window, which is read with its margin."""
        record, channels = self.catalog.scenes[name], Channels(self.catalog.bands, (self.feature,))
        grown = channels.grown(window, record.grid)
        with record.open_image() as image:
            ranges = ranges_of(image, channels.ranged)
            source = self.pixels.open(name)[0] if self.pixels.holds(name, grown) else image
            read = source.read(grown)
        pixels = channels.pixels(*read, record.grid, grown, ranges)
        made = channels.compute(pixels, inner=window.slices(within=grown))
        return [made[len(channels.bands) :]]
