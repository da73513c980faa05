"""Options of the balance: what the network sees. No heavy import."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raremap.options import Options


class TargetOptions(Options):
    """The class shares that training should see: `q ∝ π^a · (1 − m)^gamma`, π the natural shares.

    `a` 1 is natural, 0 uniform. With `gamma` above 0 the target follows m, the moving F1 of each class on
    the monitor places (dynamic adaptive sampling): `momentum` of m, `inertia` of q, a floor of `floor`/K
    and at most `cap` times the target that gamma 0 has. `shares` sets the shares of named classes; the
    others divide what is left in the same proportions.
    """

    a: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.0, ge=0, le=8)
    shares: dict[str, float] = Field(default_factory=dict)
    floor: float = Field(default=0.2, ge=0, lt=1)
    cap: float = Field(default=5.0, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    inertia: float = Field(default=0.5, ge=0, lt=1)

    @field_validator("shares")
    @classmethod
    def _shares_leave_something(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= s <= 1 for s in shares.values()) or sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares of the target must be 0 to 1 and sum to 1 at most, found {shares}")
        return shares


class CopyPasteOptions(Options):
    """Composites: objects of rare classes from training places, pasted where their surroundings are plausible.

    `share` composites are proposed for each training tile, of up to `objects` objects each that cover at
    most `cover` of the tile; where objects are of a few pixels, more of them change more. Objects are of
    `classes` (default: the rare ones, without those whose ground goes on beyond its tile, such as roads), have
    `min_area` to `max_area` pixels (default: an eighth of the tile's), and at most `per_class` of a class are kept.
    `placement` "filtered" asks that what lies under and around the object (`ring` pixels) is what such
    objects touch in the training places: at least the `plausibility` quantile of real objects, and that the
    slope is like that at home where a terrain band tells it; "random" asks only that nothing protected or
    ignored is covered, at the same season and resolution. Scale is drawn from 1/`scale` to `scale`. A composite is drawn at most
    `repeats` times as often as a tile of the natural stream.
    """

    share: float = Field(default=0.5, gt=0, le=4)
    objects: int = Field(default=4, ge=1, le=64)
    cover: float = Field(default=0.15, gt=0, le=1)
    classes: tuple[str, ...] | None = None
    min_area: int = Field(default=4, ge=1)
    max_area: int | None = Field(default=None, ge=1)
    per_class: int = Field(default=500, ge=1)
    placement: Literal["filtered", "random"] = "filtered"
    plausibility: float = Field(default=0.1, ge=0, le=1)
    ring: int = Field(default=4, ge=1, le=64)
    season_days: int = Field(default=45, ge=0, description="largest difference of the days of the year")
    scale: float = Field(default=1.25, ge=1, le=2)
    feather: float = Field(default=1.0, ge=0, le=8, description="sigma of the image's edge, pixels")
    match: bool = Field(default=True, description="gain and offset of the object matched to its new ring")
    tries: int = Field(default=20, ge=1)
    repeats: int = Field(default=1, ge=1)

    @property
    def margin(self) -> int:
        """Pixels around an object that its patch needs: the ring, and all of a feather that scaling makes narrower."""
        return max(self.ring, math.ceil(self.scale * math.ceil(2 * self.feather)))

    @model_validator(mode="after")
    def _areas_in_order(self) -> CopyPasteOptions:
        if self.max_area is not None and self.max_area < self.min_area:
            raise ValueError(f"max_area {self.max_area} is below min_area {self.min_area}")
        return self


def _on_or_off(value: Any) -> Any:
    """`true` is the default options, `false` none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


CopyPaste = Annotated[CopyPasteOptions | None, BeforeValidator(_on_or_off)]


class _Stream(Options):
    """`aim`: where the crop is smaller than the tile, the share of crops whose position is drawn by the target
    too; the others lie anywhere (true: 1, false: 0)."""

    aim: float = Field(default=0.0, ge=0, le=1)


class Uniform(_Stream):
    """Every training tile alike: the natural stream."""

    kind: Literal["uniform"] = "uniform"


class _Targeted(_Stream):
    """Solvers that come near to a target; composites by request."""

    target: TargetOptions = TargetOptions()
    max_repeats: float = Field(
        default=4.0, ge=1, description="a tile's weight, times the natural one, at most"
    )
    copy_paste: CopyPaste = None


class Diao(_Targeted):
    """Dynamic imbalance-aware oversampling: whole repeats, added greedily where they even the shares most.

    `score` "gain" takes the exact fall of KL(q ‖ P), "density" its gradient. It stops when a repeat gains
    `min_gain` nats or less for each share of the stream that it adds, when `budget` repeats for each tile
    are spent, when KL is at most `kl`, or before the effective size falls below `min_effective` of the tiles.
    """

    kind: Literal["diao"]
    score: Literal["gain", "density"] = "gain"
    budget: float = Field(default=1.0, ge=0)
    min_gain: float = Field(default=0.0, ge=0)
    kl: float = Field(default=0.0, ge=0)
    min_effective: float = Field(default=0.0, ge=0, le=1)


class Mixture(_Targeted):
    """The convex optimum: weights that minimise KL(q ‖ Σ wᵢdᵢ) + rho · KL(w ‖ uniform), capped."""

    kind: Literal["mixture"]
    rho: float = Field(default=0.0, ge=0)
    gap: float = Field(default=1e-3, gt=0, description="optimality gap at which it stops, nats")


class RepeatFactor(_Stream):
    """LVIS repeat factors: max over a tile's classes of max(1, √(threshold / f)), f the share of tiles with it."""

    kind: Literal["repeat_factor"]
    threshold: float = Field(default=1e-3, gt=0, le=1)


class RareClass(_Stream):
    """DAFormer's rare-class sampling: a class by softmax((1 − f) / temperature), then a tile that holds it."""

    kind: Literal["rare_class"]
    temperature: float = Field(default=0.01, gt=0)
    min_pixels: int = Field(default=64, ge=1)


class Copies(_Stream):
    """`copies` further copies of tiles in which a rare class (or one of `classes`) holds over `share`."""

    kind: Literal["copies"]
    share: float = Field(default=0.1, ge=0, lt=1)
    copies: int = Field(default=3, ge=1)
    classes: tuple[str, ...] | None = None


class InverseFrequency(_Stream):
    """Tile weights Σ_c d_c / π_c^power, at most `max_repeats` times the natural one."""

    kind: Literal["inverse_frequency"]
    power: float = Field(default=1.0, gt=0, le=2)
    max_repeats: float = Field(default=10.0, ge=1)


BalanceOptions = Annotated[
    Uniform | Diao | Mixture | RepeatFactor | RareClass | Copies | InverseFrequency,
    Field(discriminator="kind"),
]
