"""`LabelScheme`: what the values or colours of a mask mean, and how classes are numbered.

Three numberings, never mixed:

- **source**: what stands in the mask file and in the written map (values such as 1..12, or colours);
- **index**: 0..K-1 in the scheme's order; everything between mask and map works on it;
- `IGNORE` (255) in the index numbering: unlabelled, outside, or not a class. It never counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from raremap.errors import LabelError, nearest
from raremap.options import Options

if TYPE_CHECKING:
    import numpy as np

IGNORE = 255
"""Index of pixels that have no class. It is also the nodata value of every map, unless it is a class."""

# Distinguishable hues for classes that come without a colour (Paul Tol's muted scheme, then tab20).
_PALETTE = [
    "#88CCEE",
    "#CC6677",
    "#DDCC77",
    "#117733",
    "#332288",
    "#AA4499",
    "#44AA99",
    "#999933",
    "#882255",
    "#661100",
    "#6699CC",
    "#888888",
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
]


class LabelScheme(Options):
    """The classes of a mask: source value or colour → name, in the order that gives the index.

    `classes` maps an integer value, or a colour `#RRGGBB` where the mask is a picture, to a name.
    Values in `ignore` (integers or colours) are unlabelled. Whatever is in neither is an error.
    `rare` names the rare classes where the shares alone should not decide. `parents` makes a tree: class → its
    group, group → the next one above (see `classtree`); `colors` may name groups too.

    >>> scheme = LabelScheme({0: "other", 7: "landslide"})
    >>> scheme.names, scheme.values, scheme.num_classes
    (('other', 'landslide'), (0, 7), 2)
    """

    classes: dict[int | str, str]
    ignore: tuple[int | str, ...] = ()
    colors: dict[str, str] = Field(default_factory=dict)
    parents: dict[str, str] = Field(default_factory=dict)
    rare: tuple[str, ...] | None = None

    def __init__(self, classes: dict[Any, str] | None = None, **data: Any) -> None:
        if classes is not None:
            data["classes"] = classes
        super().__init__(**data)

    @field_validator("classes", mode="before")
    @classmethod
    def _keys(cls, classes: Any) -> Any:
        if not isinstance(classes, dict):
            return classes
        return {_source(key): str(name) for key, name in classes.items()}

    @field_validator("ignore", mode="before")
    @classmethod
    def _ignored(cls, ignore: Any) -> Any:
        return tuple(_source(v) for v in ([ignore] if isinstance(ignore, (int, str)) else ignore))

    @model_validator(mode="after")
    def _consistent(self) -> LabelScheme:
        if not 2 <= len(self.classes) <= 254:
            raise ValueError(f"a scheme needs 2 to 254 classes, this one has {len(self.classes)}")
        if len(set(self.names)) != len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise ValueError(f"class name '{twice}' is given twice; every class needs its own name")
        kinds = {isinstance(key, str) for key in self.classes}
        if len(kinds) > 1:
            raise ValueError("classes mixes values and colours; give all as integers or all as #RRGGBB")
        if kinds != {isinstance(v, str) for v in self.ignore} and self.ignore:
            raise ValueError(
                "ignore must be given like classes: integers with integers, colours with colours"
            )
        for value in self.classes:
            if value in self.ignore:
                raise ValueError(f"{value!r} is both a class ('{self.classes[value]}') and ignored")
            if isinstance(value, int) and not 0 <= value <= 65535:
                raise ValueError(f"class value {value} is outside 0..65535")
        groups = set(self.parents.values())
        for where, more in (
            (self.colors, groups),
            (self.parents, groups),
            (dict.fromkeys(self.rare or ()), ()),
        ):
            for name in where:
                if name not in self.names and name not in more:
                    raise ValueError(f"'{name}' is not a class; {nearest(name, self.names)}")
        for name in self.parents:
            above = [name]
            while above[-1] in self.parents:
                above.append(self.parents[above[-1]])
                if above[-1] in above[:-1]:
                    raise ValueError(
                        f"parents go in a circle: {' in '.join(above)}; end at a group without a parent"
                    )
        return self

    @classmethod
    def named(cls, name: str) -> LabelScheme:
        """A built-in scheme: see `BUILT_IN`."""
        if name not in BUILT_IN:
            raise LabelError(f"no built-in label scheme is called '{name}'; {nearest(name, BUILT_IN)}")
        return BUILT_IN[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(self.classes.values())

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def is_colored(self) -> bool:
        """Whether the masks are pictures whose colours are the classes."""
        return isinstance(next(iter(self.classes)), str)

    @property
    def values(self) -> tuple[int, ...]:
        """Source value of each index, as maps are written: the mask's own, or 0..K-1 for colours."""
        if self.is_colored:
            return tuple(range(self.num_classes))
        return tuple(int(v) for v in self.classes)

    @property
    def palette(self) -> tuple[str, ...]:
        """Display colour `#RRGGBB` of each index."""
        keys = tuple(self.classes)
        return tuple(
            self.colors.get(name, str(keys[i]) if self.is_colored else _PALETTE[i % len(_PALETTE)])
            for i, name in enumerate(self.names)
        )

    @property
    def rgb(self) -> np.ndarray:
        """Display colours as uint8 `[K, 3]`."""
        import numpy as np

        return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in self.palette], np.uint8)

    @property
    def map_nodata(self) -> int:
        """Nodata value of written maps: 255, or the highest free value where 255 is a class.

        Raises `LabelError` where the classes' values do not fit a byte beside a nodata value.
        """
        if max(self.values) > 255:
            raise LabelError(
                f"class value {max(self.values)} does not fit a uint8 map; renumber the classes below 256"
            )
        return next(v for v in range(255, -1, -1) if v not in self.values)

    def index(self, name: str) -> int:
        """Index of a class by its name; raises `LabelError` with the nearest known name."""
        if name not in self.names:
            raise LabelError(f"'{name}' is not a class; {nearest(name, self.names)}")
        return self.names.index(name)

    def encode(self, mask: np.ndarray, source: str = "mask", nodata: float | None = None) -> np.ndarray:
        """Index uint8 `[H, W]` of a mask of source values `[H, W]` or colours `[3+, H, W]`.

        A `nodata` value of the file that is not a class becomes `IGNORE`; one that is a class stays a
        class (reading code warns). Raises `LabelError` naming the unknown value, its count and `source`.
        """
        import numpy as np

        if self.is_colored:
            if mask.ndim != 3 or mask.shape[0] < 3:
                raise LabelError(
                    f"{source} has {mask.shape[0] if mask.ndim == 3 else 1} band(s), but labels.classes are colours; give classes as values, or an RGB mask"
                )
            packed = (mask[0].astype(np.uint32) << 16) | (mask[1].astype(np.uint32) << 8) | mask[2]
            keys = {int(k[1:], 16): i for i, k in enumerate(self.classes)}  # type: ignore[index]
            dropped = [int(v[1:], 16) for v in self.ignore]  # type: ignore[index]
            return self._encode_sparse(packed, keys, dropped, source)
        if mask.ndim == 3:
            if mask.shape[0] != 1:
                raise LabelError(
                    f"{source} has {mask.shape[0]} bands, but labels.classes are values; give classes as colours '#RRGGBB', or a mask of one band"
                )
            mask = mask[0]
        dropped = [int(v) for v in self.ignore]
        if (
            nodata is not None
            and not (isinstance(nodata, float) and np.isnan(nodata))
            and nodata not in self.values
        ):
            dropped.append(int(nodata))
        keys = {value: i for i, value in enumerate(self.values)}
        if mask.dtype == np.uint8:
            return self._encode_bytes(mask, keys, dropped, source)
        if not np.issubdtype(mask.dtype, np.integer):
            whole = np.where(np.isfinite(mask), mask, dropped[0] if dropped else 0)
            if (whole != np.round(whole)).any():
                raise LabelError(
                    f"{source} holds fractions such as {whole[whole != np.round(whole)].flat[0]:g}; a mask holds whole class values"
                )
            if not np.isfinite(mask).all() and not dropped:
                raise LabelError(
                    f"{source} holds NaN and the scheme ignores no value; set its nodata or labels.ignore"
                )
            mask = whole.astype(np.int64)
        return self._encode_sparse(mask, keys, dropped, source)

    def _encode_bytes(
        self, mask: np.ndarray, keys: dict[int, int], dropped: list[int], source: str
    ) -> np.ndarray:
        import numpy as np

        # 254 marks what is not in the scheme; at most 254 classes use 0..253.
        table = np.full(256, 254, np.uint8)
        for value, index in keys.items():
            if value < 256:
                table[value] = index
        table[[v for v in dropped if 0 <= v < 256]] = IGNORE
        out = table[mask]
        if (out == 254).any():
            self._refuse(mask[out == 254], source)
        return out

    def _encode_sparse(
        self, mask: np.ndarray, keys: dict[int, int], dropped: list[int], source: str
    ) -> np.ndarray:
        import numpy as np

        found, inverse = np.unique(mask, return_inverse=True)
        table = np.array([keys.get(int(v), IGNORE if int(v) in dropped else 254) for v in found], np.uint8)
        if (table == 254).any():
            self._refuse(mask[(table == 254)[inverse].reshape(mask.shape)], source)
        return table[inverse].reshape(mask.shape)

    def _refuse(self, bad: np.ndarray, source: str) -> None:
        import numpy as np

        values, counts = np.unique(bad, return_counts=True)
        top = counts.argmax()
        word = f"#{int(values[top]):06X}" if self.is_colored else str(int(values[top]))
        known = ",".join(str(k) for k in self.classes)
        also = f" and {len(values) - 1} other unknown values" if len(values) > 1 else ""
        raise LabelError(
            f"mask {source} has value {word} ({int(counts[top])} pixels){also}, not in labels {{{known}}}; "
            "add it under labels.classes or list it under labels.ignore"
        )

    def decode(self, index: np.ndarray) -> np.ndarray:
        """Source values uint8 of an index array; `IGNORE` becomes `map_nodata`."""
        import numpy as np

        table = np.full(256, self.map_nodata, np.uint8)
        table[: self.num_classes] = self.values
        return table[index]


def _source(key: Any) -> int | str:
    """A source value as int, or a colour as upper-case `#RRGGBB`."""
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise ValueError(f"{key!r} is neither an integer nor a colour '#RRGGBB'")
    if isinstance(key, int):
        return key
    if key.lstrip("-").isdigit():
        return int(key)
    digits = key[1:] if key.startswith("#") else key
    if len(digits) == 6 and all(c in "0123456789abcdefABCDEF" for c in digits):
        return "#" + digits.upper()
    raise ValueError(f"'{key}' is neither an integer nor a colour '#RRGGBB'")


def _scheme(
    names: str, colors: str, first: int = 0, ignore: tuple[int, ...] = (), **more: Any
) -> LabelScheme:
    words = names.split()
    return LabelScheme(
        {first + i: name for i, name in enumerate(words)},
        colors=dict(zip(words, colors.split(), strict=True)),
        ignore=ignore,
        **more,
    )


BUILT_IN: dict[str, LabelScheme] = {
    # The twelve classes of Catalonia's land-cover map; 0 is "no data".
    "catalonia": _scheme(
        "herbaceous_crops woody_crops forest scrub_grass bare urban isolated_urban green_areas industrial mining transport water",
        "#F2E28C #C9A94F #2E6B34 #9CC36B #C8B9A6 #B2182B #EF6548 #4DAF7C #7B5EA7 #3B3B3B #8C8C8C #2C7FB8",
        first=1,
        ignore=(0,),
    ),
    "landslide": _scheme("background landslide", "#D9D9D9 #E31A1C", ignore=(255,), rare=("landslide",)),
    # OpenEarthMap (Xia et al. 2023); 0 is unknown.
    "openearthmap": _scheme(
        "bareland rangeland developed road tree water agriculture building",
        "#800000 #00FF24 #949494 #FFFFFF #226126 #0045FF #4BB549 #DE1F07",
        first=1,
        ignore=(0,),
    ),
    # Chesapeake Bay land cover, 7 classes (Robinson et al. 2019); 15 is no data.
    "chesapeake-7": _scheme(
        "water forest low_vegetation barren impervious_other impervious_road",
        "#00C5FF #267300 #A3FF73 #FFAA00 #9C9C9C #000000",
        first=1,
        ignore=(0, 15),
    ),
    "chesapeake-4": _scheme(
        "water forest field impervious", "#0000FF #008000 #80FF80 #806060", first=1, ignore=(0, 15)
    ),
    # LoveDA (Wang et al. 2021); 0 is no data.
    "loveda": _scheme(
        "background building road water barren forest agriculture",
        "#FFFFFF #FF0000 #FFFF00 #0000FF #9F81B7 #00FF00 #FFC380",
        first=1,
        ignore=(0,),
    ),
    "worldcover": LabelScheme(
        {
            10: "tree",
            20: "shrubland",
            30: "grassland",
            40: "cropland",
            50: "built_up",
            60: "bare_sparse",
            70: "snow_ice",
            80: "water",
            90: "wetland",
            95: "mangroves",
            100: "moss_lichen",
        },
        colors={
            "tree": "#006400",
            "shrubland": "#FFBB22",
            "grassland": "#FFFF4C",
            "cropland": "#F096FF",
            "built_up": "#FA0000",
            "bare_sparse": "#B4B4B4",
            "snow_ice": "#F0F0F0",
            "water": "#0064C8",
            "wetland": "#0096A0",
            "mangroves": "#00CF75",
            "moss_lichen": "#FAE6A0",
        },
        ignore=(0,),
    ),
}
"""Built-in schemes by name."""
