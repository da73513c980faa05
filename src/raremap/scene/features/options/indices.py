"""Spectral indices, as options."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raremap.scene.features.options.base import FeatureOptions

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.features.pixels import Pixels


class Index(FeatureOptions):
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

    @property
    def sums(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The bands of either sum: those that count for it, and those that count against it."""
        return self.inputs[: len(self._plus)], self.inputs[len(self._plus) :]

    def __call__(self, pixels: Pixels) -> np.ndarray:
        from raremap.scene.features.indices import ratio

        plus, minus = ([pixels.layer(name, self.called) for name in names] for names in self.sums)
        return ratio(plus, minus, self.offset)[None]


class Ndvi(Index):
    """Vegetation: (nir − red) / (nir + red); Rouse et al. 1974."""

    kind: Literal["ndvi"] = "ndvi"
    nir: str = "nir"
    red: str = "red"
    _plus, _minus = ("nir",), ("red",)


class Ndmi(Index):
    """Moisture: (nir − swir1) / (nir + swir1), of Sentinel-2 (B8 − B11) / (B8 + B11); Gao 1996, Wilson & Sader 2002."""

    kind: Literal["ndmi"] = "ndmi"
    nir: str = "nir"
    swir1: str = "swir1"
    _plus, _minus = ("nir",), ("swir1",)


class Nbr(Index):
    """Burnt ground: (nir − swir2) / (nir + swir2); Key & Benson 2006."""

    kind: Literal["nbr"] = "nbr"
    nir: str = "nir"
    swir2: str = "swir2"
    _plus, _minus = ("nir",), ("swir2",)


class Ndwi(Index):
    """Open water: (green − nir) / (green + nir); McFeeters 1996."""

    kind: Literal["ndwi"] = "ndwi"
    green: str = "green"
    nir: str = "nir"
    _plus, _minus = ("green",), ("nir",)


class Mndwi(Index):
    """Open water beside buildings: (green − swir1) / (green + swir1); Xu 2006."""

    kind: Literal["mndwi"] = "mndwi"
    green: str = "green"
    swir1: str = "swir1"
    _plus, _minus = ("green",), ("swir1",)


class Ndbi(Index):
    """Built-up ground: (swir1 − nir) / (swir1 + nir); Zha et al. 2003."""

    kind: Literal["ndbi"] = "ndbi"
    swir1: str = "swir1"
    nir: str = "nir"
    _plus, _minus = ("swir1",), ("nir",)


class Bsi(Index):
    """Bare soil: ((swir1 + red) − (nir + blue)) / (swir1 + red + nir + blue); Rikimaru et al. 2002."""

    kind: Literal["bsi"] = "bsi"
    swir1: str = "swir1"
    red: str = "red"
    nir: str = "nir"
    blue: str = "blue"
    _plus, _minus = ("swir1", "red"), ("nir", "blue")
