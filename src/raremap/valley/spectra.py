"""Surfaces and their reflectance in the ten bands, in percent.

Typical values from general knowledge, not measurements. Classes are of use, not of cover: each one mixes
several of these surfaces, and most surfaces stand in several classes.
"""

from __future__ import annotations

import numpy as np

BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
COARSE = (False, False, False, True, True, True, False, True, True, True)  # sampled at 20 m

_TABLE = {
    "conifer": "2/4/3/7/16/19/21/22/12/6",
    "deciduous_april": "4/6/6/10/18/21/23/25/22/13",
    "deciduous_august": "2/5/3/9/27/34/36/38/18/8",
    "cereal": "3/6/4/9/32/41/43/45/18/9",
    "stubble": "8/11/15/19/22/25/27/29/37/28",
    "olive_vine": "6/9/11/14/21/24/26/28/29/21",
    "scrub": "4/6/7/11/18/21/23/25/23/14",
    "grass_april": "4/8/5/12/28/34/36/38/23/13",
    "grass_august": "7/10/13/18/23/26/28/31/35/24",
    "ploughed": "9/13/17/20/22/24/26/27/34/29",
    "quarry": "20/25/29/31/32/33/35/35/40/35",
    "tile_roof": "8/11/18/21/24/26/28/29/31/27",
    "town": "11/13/15/17/18/19/21/22/23/20",
    "industrial_roof": "25/27/28/29/30/31/32/32/31/27",
    "asphalt": "8/9/10/11/11/12/13/13/15/14",
    "park": "4/8/5/12/29/36/38/40/22/12",
    "clear_water": "4/4/2/2/2/1/1/1/1/0.5",
    "turbid_water": "7/10/9/8/5/5/4/4/1/1",
    "gravel": "14/18/21/23/25/26/27/28/33/29",
    "scar": "10/13/17/20/22/23/25/26/33/28",
}

NAMES = tuple(_TABLE)
SPECTRA = np.array([[float(v) for v in row.split("/")] for row in _TABLE.values()], np.float32) / 100
"""Reflectance float32 `[surfaces, bands]`, 0 to 1."""

# The order above, as numbers that compiled code can use.
(
    CONIFER, DECIDUOUS_APRIL, DECIDUOUS_AUGUST, CEREAL, STUBBLE, OLIVE, SCRUB, GRASS_APRIL, GRASS_AUGUST, PLOUGHED,
    QUARRY, TILE_ROOF, TOWN, INDUSTRIAL_ROOF, ASPHALT, PARK, CLEAR_WATER, TURBID_WATER, GRAVEL, SCAR,
) = range(len(NAMES))  # fmt: skip
