"""Options of augmentation; no heavy import."""

from __future__ import annotations

from pydantic import Field, model_validator

from raremap.options import Options


class AugmentOptions(Options):
    """How samples are changed; each at random, by itself.

    `dihedral`: one of the eight flips and quarter turns. `gain` and `offset`, the colour jitter: a band is multiplied
    by exp(N(0, gain)) around its mean and moved by N(0, offset), in units of the normalised image; features are
    made of what comes out. Bands of the ground's shape (by name: dem, slope, ..., and those that terrain features
    read) and those named in `still` keep their values. `scale`: a crop shows from 1/first to 1/second times the ground
    along a side, [0.75, 1.33] say, drawn evenly in the logarithm; null leaves it. `cutmix`: how often a rectangle of
    another sample, drawn by the same plan, takes the place of a sample's own (Yun et al. 2019).
    """

    dihedral: bool = True
    gain: float = Field(default=0.05, ge=0, le=1)
    offset: float = Field(default=0.05, ge=0, le=1)
    still: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    cutmix: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> AugmentOptions:
        if self.scale is not None and not 0.25 <= self.scale[0] <= self.scale[1] <= 4:
            raise ValueError(
                f"scale goes from {self.scale[0]:g} to {self.scale[1]:g}; expected two numbers from 0.25 to 4, the smaller first"
            )
        return self

    @property
    def least_scale(self) -> float:
        """The least that a crop is enlarged by."""
        return 1.0 if self.scale is None else min(1.0, self.scale[0])
