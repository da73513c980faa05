"""Pretrained weights for other bands than they were made with: the first layer widened by wavelength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

RGB = ("red", "green", "blue")


def plain_name(band: str) -> str:
    """A band's name without its date, in lower case, so that the same band is found under its other names.

    >>> [plain_name(b) for b in ("Red", "pre_red", "post-green", "B04", "red_edge_1", "nir")]
    ['red', 'red', 'green', 'red', 'red_edge_1', 'nir']
    """
    name = band.strip().lower()
    for date in ("pre", "post"):
        for mark in "_-. ":
            name = name.removeprefix(date + mark).removesuffix(mark + date)
    return _SENTINEL2.get(name, name)


# Sentinel-2's numbers; Landsat 8 and 9 have the same for blue, green and red.
_SENTINEL2 = {
    "b1": "coastal", "b01": "coastal", "b2": "blue", "b02": "blue", "b3": "green", "b03": "green",
    "b4": "red", "b04": "red", "b5": "rededge1", "b05": "rededge1", "b6": "rededge2", "b06": "rededge2",
    "b7": "rededge3", "b07": "rededge3", "b8": "nir", "b08": "nir", "b8a": "nir2", "b9": "watervapour",
    "b09": "watervapour", "b10": "cirrus", "b11": "swir1", "b12": "swir2",
}  # fmt: skip


def widened(weight: Tensor, bands: Sequence[str], source: Sequence[str] = RGB) -> Tensor:
    """Filters `[O, S, kh, kw]` of `source` bands as filters `[O, C, kh, kw]` of `bands`.

    A band that the source has too gets its filter (divided by how often it occurs, as with several dates);
    every other one the mean of all filters times S / C. The same bands in another order give the same
    response; without any common band, C equal bands give what S of them gave.
    """
    if weight.shape[1] != len(source):
        raise ValueError(f"filters are of {weight.shape[1]} bands, and {len(source)} are named")
    names, origin = [plain_name(b) for b in bands], [plain_name(b) for b in source]
    mean = weight.mean(1) * (len(source) / len(names))
    return torch.stack(
        [weight[:, origin.index(n)] / names.count(n) if n in origin else mean for n in names], 1
    )


def widened_state(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    bands: Sequence[str] | None,
    stems: Sequence[str],
    source: Sequence[str] = RGB,
) -> dict[str, Tensor]:
    """Weights of an encoder of `source` bands, for one whose tensors have these `shapes`.

    `stems` are the names of the tensors that see the bands. Without band names as many bands as the source
    has are taken to be those, and others to be none of them.
    """
    out = dict(state)
    for name in stems:
        count = shapes[name][1]
        if bands is None:
            names = list(source) if count == len(source) else [f"band {i}" for i in range(count)]
        else:
            names = list(bands)
        out[name] = widened(state[name], names, source)
    return out
