"""How a scene is predicted: windows, their overlap and blending, and the views of it that are averaged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from raremap.options import Options

Tta = Literal["none", "flips", "d4"]

# Codes of `scene.turn`; each set holds the inverse of all that it holds.
_TURNS: dict[str, tuple[int, ...]] = {"none": (0,), "flips": (0, 2, 4, 6), "d4": tuple(range(8))}


class PredictOptions(Options):
    """Windows of `window`² pixels that share the fraction `overlap` with their neighbours.

    `blend` weighs the probabilities of windows that share a pixel: "hann" trusts a window's centre more
    than its edge, "mean" trusts all of it alike. `batch` is the number of windows that the network gets
    at once (None: as many as make 512² pixels, which is fastest on ordinary processors).

    `tta` averages probabilities over turned windows: "flips" are left–right, up–down and both, "d4" all eight flips
    and quarter turns. `scales` averages over resolutions: 0.5 shows the network a window of half the pixels a side.
    """

    window: int = Field(default=512, ge=1)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    blend: Literal["hann", "mean"] = "hann"
    batch: int | None = Field(default=None, ge=1)
    tta: Tta = "none"
    scales: tuple[float, ...] = (1.0,)

    @field_validator("scales")
    @classmethod
    def _usable_scales(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or len(set(scales)) < len(scales) or not all(0.1 <= s <= 4 for s in scales):
            raise ValueError(
                f"scales are {list(scales)}, expected different numbers from 0.1 to 4, such as [1.0, 0.5]"
            )
        return scales

    @property
    def turns(self) -> tuple[int, ...]:
        """Codes of the turns (`scene.turn`) that are averaged; the first changes nothing."""
        return _TURNS[self.tta]

    @property
    def averaged(self) -> str:
        """What is averaged, in words; empty where nothing is."""
        turns = [] if self.tta == "none" else [f"{len(self.turns)} turns"]
        scales = [] if self.scales == (1.0,) else [f"scales {', '.join(f'{s:g}' for s in self.scales)}"]
        return ", ".join(turns + scales)

    def way(self) -> dict[str, Any]:
        """What of it a decision is fitted for; what is not averaged is left out."""
        out: dict[str, Any] = {"window": self.window, "overlap": self.overlap}
        if self.tta != "none":
            out["tta"] = self.tta
        if self.scales != (1.0,):
            out["scales"] = list(self.scales)
        return out
