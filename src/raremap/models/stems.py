"""Pretrained weights for other bands than they were made with: the first layer widened by wavelength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raremap.scene.bandnames import colour

RGB = ("red", "green", "blue")
# Near infrared, broad and narrow: where weights know one of them, it stands for the other.
_NIR = ("nir", "nir08")


def plain_name(band: str) -> str:
    """A band's name as `colour` has it, without its date, so that the same band is found under its other names.

    >>> [plain_name(b) for b in ("Red", "pre_red", "post-green", "B04", "red_edge_1", "nir")]
    ['red', 'red', 'green', 'red', 'rededge1', 'nir']
    """
    name = band.strip().lower()
    for date in ("pre", "post"):
        for mark in "_-. ":
            name = name.removeprefix(date + mark).removesuffix(mark + date)
    return colour(name)


def same_bands(bands: Sequence[str], source: Sequence[str]) -> list[int | None]:
    """Of each band the index of the one of `source` that sees the same, None where there is none.

    >>> same_bands(["B08", "red_edge_1", "slope"], ["rededge1", "NIR_NARROW"])
    [1, 0, None]
    """
    names, origin = [plain_name(b) for b in bands], [plain_name(b) for b in source]
    for one, other in (_NIR, _NIR[::-1]):
        if other in origin and one not in origin and other not in names:
            names = [other if n == one else n for n in names]
    return [origin.index(n) if n in origin else None for n in names]


def widened(weight: Tensor, bands: Sequence[str], source: Sequence[str] = RGB) -> Tensor:
    """Filters `[O, S, kh, kw]` of `source` bands as filters `[O, C, kh, kw]` of `bands`.

    A band that the source has too gets its filter (divided by how often it occurs, as with several dates);
    every other one the mean of all filters times S / C. The same bands in another order give the same
    response; without any common band, C equal bands give what S of them gave.
    """
    if weight.shape[1] != len(source):
        raise ValueError(f"filters are of {weight.shape[1]} bands, and {len(source)} are named")
    found = same_bands(bands, source)
    mean = weight.mean(1) * (len(source) / len(bands))
    return torch.stack([mean if i is None else weight[:, i] / found.count(i) for i in found], 1)


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
