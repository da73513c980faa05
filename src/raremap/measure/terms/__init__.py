"""Terms of the loss: options objects that are called on logits and truth.

    FocalTversky(alpha=0.8)(logits, mask)          # one term
    view = View(logits, mask, shared=True)         # several, on one softmax
    Dice().of(view) + CrossEntropy().of(view)

`View` and `class_mean` need torch and are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from raremap.measure.terms.adaptive import Recall, Seesaw
from raremap.measure.terms.boundary import Boundary
from raremap.measure.terms.lovasz import Lovasz
from raremap.measure.terms.pixelwise import BoundaryCE, CenterCE, CrossEntropy, Focal, LogCosh, Poly
from raremap.measure.terms.prior import Prior, prior_offset
from raremap.measure.terms.regions import (
    Dice,
    FocalTversky,
    GeneralisedDice,
    IoU,
    LogCoshDice,
    Tversky,
    UnifiedFocal,
)
from raremap.measure.terms.term import Classes, Term

if TYPE_CHECKING:
    from raremap.measure.terms.view import View as View

Terms = Annotated[
    CrossEntropy
    | Focal
    | Poly
    | LogCosh
    | BoundaryCE
    | CenterCE
    | Seesaw
    | Recall
    | Dice
    | GeneralisedDice
    | IoU
    | Tversky
    | FocalTversky
    | LogCoshDice
    | UnifiedFocal
    | Lovasz
    | Boundary,
    Field(discriminator="kind"),
]

__all__ = [
    "Boundary",
    "BoundaryCE",
    "CenterCE",
    "Classes",
    "CrossEntropy",
    "Dice",
    "Focal",
    "FocalTversky",
    "GeneralisedDice",
    "IoU",
    "LogCosh",
    "LogCoshDice",
    "Lovasz",
    "Poly",
    "Prior",
    "Recall",
    "Seesaw",
    "Term",
    "Terms",
    "Tversky",
    "UnifiedFocal",
    "View",
    "prior_offset",
]


def __getattr__(name: str) -> Any:
    if name == "View":
        from raremap.measure.terms.view import View

        return View
    raise AttributeError(f"module 'raremap.measure.terms' has no attribute '{name}'")
