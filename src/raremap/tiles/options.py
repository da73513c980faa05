"""Options of tiles and splits; no heavy import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raremap.options import Options
from raremap.tiles.windows import stride

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
    divided by `block_files`: runs of that many scenes in the order of their file names (10 after 9).
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
        if sum(v is not None for v in (self.places, self.block_m, self.block_px, self.block_files)) > 1:
            raise ValueError("give one of places, block_m, block_px and block_files")
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
