"""How a finished map is cleaned: what is too small, too narrow, too doubtful."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raremap.options import Options

BySize = dict[str, float] | float
"""A number for all classes, or by class name."""


def _any(sizes: BySize | None) -> bool:
    return any(sizes.values()) if isinstance(sizes, dict) else bool(sizes)


class CleanOptions(Options):
    """What `raremap clean` does, in this order: level, majority, opening, closing, then small components.

    `level` is so many steps up the tree of classes (0: none), which the map's tags hold, or `parents` as
    in a label scheme; the other options then name the classes of that level.
    `majority` is the side in pixels of a square window whose commonest class a pixel gets (odd; 1: none).
    `open` and `close` are sizes in metres by class name: opening takes away what is narrower, and gives it to the
    nearest other class; closing fills gaps that are narrower. They are done class after class, as they stand
    here, all openings first. `mmu` is the minimum mapping unit in square metres on the ground: a smaller component
    goes to the likeliest class beside it (with probabilities: by their mean over the component; without: that with
    the longest border), so that none is left. One that lacks less than half a percent stays, since the scale
    of a projection shall not decide. Components under `small` square metres whose mean probability of their class
    is below `min_confidence` go too. `connectivity` says whether pixels that touch by a corner are
    one component (8) or not (4), as in polygons.
    """

    mmu: BySize = Field(default_factory=dict)
    open: dict[str, float] = Field(default_factory=dict)
    close: dict[str, float] = Field(default_factory=dict)
    majority: int = Field(default=1, ge=1, le=51)
    min_confidence: float | None = Field(default=None, gt=0, le=1)
    small: BySize | None = None
    connectivity: Literal[4, 8] = 8
    level: int = Field(default=0, ge=0)
    parents: dict[str, str] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CleanOptions:
        if self.majority % 2 == 0:
            raise ValueError(f"majority {self.majority} has no middle pixel; give an odd number")
        if (self.min_confidence is None) != (self.small is None):
            raise ValueError(
                "min_confidence and small belong together: components under `small` m² need that probability"
            )
        for key in ("mmu", "open", "close", "small"):
            sizes = getattr(self, key)
            for size in sizes.values() if isinstance(sizes, dict) else [sizes or 0]:
                if not 0 <= size < float("inf"):
                    raise ValueError(f"{key} {size} is no size; give a number of 0 or more")
        return self

    @property
    def idle(self) -> bool:
        """Whether it leaves every map as it is."""
        filters = self.majority > 1 or self.open or self.close
        return not (self.level or filters or _any(self.mmu) or _any(self.small))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that it names."""
        given = (self.mmu, self.open, self.close, self.small)
        return tuple(name for sizes in given if isinstance(sizes, dict) for name in sizes)
