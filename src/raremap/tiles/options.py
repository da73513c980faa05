"""Options of tiles and splits; no heavy import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raremap.options import Options

Use = Literal["train", "monitor", "calibration", "test", "holdout", "dropped"]
USES: tuple[Use, ...] = ("train", "monitor", "calibration", "test")


class TileOptions(Options):
    """How scenes are cut: windows of `size` pixels that share `overlap` with the next, edges covered.

    Tiles with a smaller share of valid pixels than `min_valid`, or without a labelled pixel, are left
    out and counted.
    """

    size: int = Field(default=256, ge=16)
    overlap: float = Field(default=0.0, ge=0, lt=1)
    min_valid: float = Field(default=0.5, ge=0, le=1)


class SplitOptions(Options):
    """Which places are for what.

    A place is a block of ground: `block_m` metres square, or `block_px` pixels square in scenes without
    a CRS, or read from `places`: a JSON or CSV file (file name, stem or scene name → place), or the
    number of the wildcard of `scenes.images` whose text is the place. Without any of them every scene
    is a place where there are at least ten, else a place is a block of two tiles.

    The places are dealt to `folds` folds, rare classes first; `fold` is the test use. Of the rest, the
    shares `monitor` and `calibration` of the places are set aside. Uses can be given outright: `test`,
    `monitor_places`, `calibration_places` list places by name (a named place may be divided further:
    `within` cuts every place into blocks of that many pixels, so that one long place can hold
    training, monitor and calibration blocks).

    `holdout` are places kept for the final figures: a list of names, or `FILE.json#NAME` for the list
    `places` under that name in a file. They are in no fold and in no use, unless `fold` is "holdout", which
    makes them the test.
    """

    folds: int = Field(default=5, ge=2)
    fold: int | Literal["holdout"] = 0
    places: str | int | None = None
    block_m: float | None = Field(default=None, gt=0)
    block_px: int | None = Field(default=None, gt=0)
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
        if sum(v is not None for v in (self.places, self.block_m, self.block_px)) > 1:
            raise ValueError("give one of places, block_m and block_px")
        return self


class ThinOptions(Options):
    """Fewer labels in training, to see what a method still does with them; other uses keep theirs.

    `keep` is the share of labelled training tiles that stay (smaller shares are parts of larger ones; a tile
    of every class always stays). `imbalance` thins each rare class until the commonest class has that many
    times its pixels: its labels are kept in some tiles and ignored in the others.
    """

    keep: float = Field(default=1.0, gt=0, le=1)
    imbalance: float | None = Field(default=None, gt=1)
