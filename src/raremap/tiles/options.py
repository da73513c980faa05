"""Options of tiles and splits; no heavy import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from raremap.errors import ConfigError, nearest
from raremap.options import Options
from raremap.tiles.windows import stride

if TYPE_CHECKING:
    import numpy as np

Use = Literal["train", "monitor", "calibration", "test", "holdout", "dropped"]
USES: tuple[Use, ...] = ("train", "monitor", "calibration", "test")


class TileOptions(Options):
    """How scenes are cut: windows of `size` pixels (one size or several), each `stride` pixels or sharing
    `overlap` with the next, edges covered.

    Left out, and counted by reason, are tiles with a smaller share of valid pixels than `min_valid`, without
    a labelled pixel, labelled with nothing but classes of `drop_only` (sea), or clouded on more than the share
    `max_cloud` of their valid pixels (by default clouds are no reason).
    """

    size: int | list[int] = 256
    overlap: float = Field(default=0.0, ge=0, lt=1)
    stride: int | list[int] | None = None
    min_valid: float = Field(default=0.5, ge=0, le=1)
    drop_only: list[str] = Field(default_factory=list)
    max_cloud: float | None = Field(default=None, ge=0, le=1)

    @field_validator("size", "stride", mode="before")
    @classmethod
    def _pixels(cls, value: Any) -> Any:
        # A union's own faults would be told once for each of its kinds.
        if not all(isinstance(v, int) for v in (value if isinstance(value, list) else [value or 0])):
            raise ValueError(f"input should be a valid integer or a list of them, found {value!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TileOptions:
        sizes = self.sizes
        if not sizes or min(sizes) < 16:
            raise ValueError(f"tiles have at least 16 pixels a side, found size {self.size}")
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"size lists {self.size}; give each size once")
        if self.stride is None:
            return self
        if self.overlap:
            raise ValueError("give either overlap (a share) or stride (pixels)")
        if isinstance(self.stride, list) and len(self.stride) != len(sizes):
            raise ValueError(
                f"{len(self.stride)} strides for {len(sizes)} sizes; give one for each, or one for all"
            )
        for size, step in zip(sizes, self.steps, strict=True):
            if not 1 <= step <= size:
                raise ValueError(
                    f"stride {step} does not fit tiles of {size} pixels; a stride of 1 to {size} leaves no gap"
                )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes."""
        return tuple(self.size) if isinstance(self.size, list) else (self.size,)

    @property
    def largest(self) -> int:
        """The largest size."""
        return max(self.sizes)

    @property
    def steps(self) -> tuple[int, ...]:
        """Pixels from one tile to the next, for each size."""
        if self.stride is None:
            return tuple(stride(size, self.overlap) for size in self.sizes)
        return tuple(self.stride) if isinstance(self.stride, list) else (self.stride,) * len(self.sizes)


class SplitOptions(Options):
    """Which places are for what.

    A place is a block of ground: `block_m` metres square, or `block_px` pixels square in scenes without
    a CRS, or read from `places`: a JSON or CSV file (file name, stem or scene name → place), or the
    number of the wildcard of `scenes.images` whose text is the place, or "touching": scenes whose
    footprints touch or overlap, directly or through others, are one place. Data with no geography are
    divided by `block_files`: runs of that many scenes in the order of their file names (10 after 9), with
    `places` inside each of these.
    Without any of them every scene is a place (all its dates, and what overlaps it, with it) where there are
    at least ten, else a place is a block of two tiles. Files of a mosaic that has coordinates but no CRS are
    one place where they touch, if that leaves ten places.

    The places are dealt to `folds` folds, rare classes first; `fold` is the test use. Of the rest, the
    shares `monitor` and `calibration` of the places are set aside. Uses can be given outright: `test`,
    `monitor_places`, `calibration_places` list places by name (a named place may be divided further:
    `within` cuts every place into blocks of that many pixels, so that one long place can hold
    training, monitor and calibration blocks).

    Tiles that share ground with another use, or lie nearer to it than `buffer_m` metres (`buffer_px` pixels),
    are dropped from the larger use and counted.

    `holdout` are places kept for the final figures: a list of names, or `FILE.json#NAME` for the list
    `places` under that name in a file. They are in no fold and in no use, unless `fold` is "holdout", which
    makes them the test.
    """

    folds: int = Field(default=5, ge=2)
    fold: int | Literal["holdout"] = 0
    places: str | int | None = None
    block_m: float | None = Field(default=None, gt=0)
    block_px: int | None = Field(default=None, gt=0)
    block_files: int | None = Field(default=None, gt=0)
    buffer_m: float | None = Field(default=None, gt=0)
    buffer_px: float | None = Field(default=None, gt=0)
    within: int | None = Field(default=None, gt=0)
    holdout: str | list[str] | None = None
    test: list[str] | None = None
    monitor_places: list[str] | None = None
    calibration_places: list[str] | None = None
    monitor: float = Field(default=0.1, gt=0, lt=0.5)
    calibration: float = Field(default=0.1, ge=0, lt=0.5)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> SplitOptions:
        if isinstance(self.fold, int) and not 0 <= self.fold < self.folds:
            raise ValueError(
                f"fold {self.fold} does not exist; there are {self.folds} folds, 0 to {self.folds - 1}"
            )
        if self.fold == "holdout" and self.holdout is None:
            raise ValueError("fold is 'holdout', but no place is held out; name them in split.holdout")
        blocks = sum(v is not None for v in (self.block_m, self.block_px, self.block_files))
        if blocks > 1 or (self.places is not None and (self.block_m or self.block_px)):
            raise ValueError(
                "give one of places, block_m, block_px and block_files (or places with block_files)"
            )
        if self.buffer_m is not None and self.buffer_px is not None:
            raise ValueError("give one of buffer_m and buffer_px")
        return self


class ThinOptions(Options):
    """Fewer labels in training, to see what a method still does with them; other uses keep theirs.

    `keep` is the share of labelled training tiles that stay (smaller shares are parts of larger ones; a tile
    of every class always stays). `imbalance` thins each rare class until the commonest class has that many
    times its pixels: its labels are kept in some tiles and ignored in the others.
    """

    keep: float = Field(default=1.0, gt=0, le=1)
    imbalance: float | None = Field(default=None, gt=1)


class _Points(Options):
    """What all kinds of points have in common.

    `margin` pixels around a point belong to its object, where the object is wide enough; in one that is not, its
    innermost pixel is all there is. `radius` labels a disk around each point, cut to the point's object. `shares`
    are the true area shares of the classes, by name or in their order, where points come in others; "counted"
    takes the points' own, "estimated" those that the trained scores find on unlabelled ground. By default they
    are counted where the points tell them (see `UniformPoints`) and estimated elsewhere.
    """

    margin: int = Field(default=0, ge=0)
    radius: int = Field(default=0, ge=0)
    shares: Literal["counted", "estimated"] | dict[str, float] | tuple[float, ...] | None = None

    @field_validator("shares")
    @classmethod
    def _shares_sum_to_one(cls, shares: Any) -> Any:
        values = shares.values() if isinstance(shares, dict) else shares
        if shares is None or isinstance(shares, str):
            return shares
        if any(not 0 <= s <= 1 for s in values) or abs(sum(values) - 1) > 1e-3:
            raise ValueError(
                f"shares are parts of the ground from 0 to 1 that sum to 1; these sum to {sum(values):g}"
            )
        return shares

    def __call__(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A class index `[h, w]` with `IGNORE` wherever no point is; `rng` is used for this mask alone."""
        from raremap.labels import IGNORE
        from raremap.tiles.points import drawn

        kept = drawn(mask, cast("PointOptions", self), rng)
        out = mask.copy()
        out[~kept] = IGNORE
        return out

    @property
    def estimates(self) -> bool:
        """Whether the true shares are to be estimated after training."""
        return self.shares == "estimated" or (self.shares is None and not self._fair)

    @property
    def _fair(self) -> bool:
        """Whether a pixel of one class is as likely to be a point as one of another."""
        return False

    def by_class(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """The shares that were given, in the order of `names` and with a sum of 1; None where none were.

        Raises `ConfigError` where they are not of these classes.
        """
        if self.shares is None or isinstance(self.shares, str):
            return None
        values = self.shares
        if isinstance(values, dict):
            for name in values:
                if name not in names:
                    raise ConfigError(
                        f"points.shares names '{name}', which is not a class; {nearest(name, names)}"
                    )
            missing = [n for n in names if n not in values]
            if missing:
                raise ConfigError(f"points.shares leaves out '{missing[0]}'; give the share of every class")
            values = tuple(values[n] for n in names)
        if len(values) != len(names):
            raise ConfigError(
                f"points.shares has {len(values)} numbers for {len(names)} classes; give one for each"
            )
        return tuple(v / sum(values) for v in values)


class UniformPoints(_Points):
    """Pixels of a tile drawn alike: `count` of them, or a `share` of those that are labelled (one at least).

    They come in the true shares, so that these can be counted (without `margin` and `radius`, which favour wide
    objects), and rare classes are rare among them.
    """

    kind: Literal["uniform"] = "uniform"
    count: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> UniformPoints:
        if (self.count is None) == (self.share is None):
            raise ValueError("give count, the pixels of a tile, or share, the part of them; not both")
        return self

    @property
    def _fair(self) -> bool:
        return self.margin == 0 and self.radius == 0


class PerClassPoints(_Points):
    """`count` pixels of each class that a tile holds (all of a class that has fewer)."""

    kind: Literal["per_class"] = "per_class"
    count: int = Field(default=10, ge=1)


class PerObjectPoints(_Points):
    """`count` pixels of each object, 8-connected pixels of a class inside a tile (all of one that has fewer).

    Small objects have as many as large ones. An object that a tile's border cuts is one object in each tile.
    """

    kind: Literal["per_object"] = "per_object"
    count: int = Field(default=1, ge=1)


PointOptions = Annotated[UniformPoints | PerClassPoints | PerObjectPoints, Field(discriminator="kind")]


def points_text(points: PointOptions | None) -> str:
    """Points in a few words, `per_object count=5 margin=2`, without what is by default; nothing for dense labels."""
    import json

    if points is None:
        return ""
    own = points.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    # The count is what one wants to read, whether it is the default or not.
    own = {**({"count": points.count} if points.count is not None else {}), **own}
    # Spaces stand between keys, so those in the names of classes are written as YAML and JSON escape them.
    words = {k: json.dumps(v, separators=(",", ":")).replace(" ", "\\u0020") for k, v in own.items()}
    return " ".join([points.kind, *(f"{k}={v}" for k, v in words.items())])
