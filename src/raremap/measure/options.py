"""Options of the decision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raremap.options import Options


class DecisionOptions(Options):
    """How classes are decided from probabilities: a `bias` on their logarithms, or plain `argmax`.

    The bias maximises `metric` on calibration places; it stays zero unless its cross-fitted gain exceeds
    its standard error. "f_beta" is the F-score of the class `of`: `beta` above 1 asks for fewer
    omissions, below 1 for fewer false alarms. At most `sample` pixels are kept for the fit. `shrink` is the
    number of objects at which half of a class's bias is kept; 0 keeps all of it.
    """

    kind: Literal["bias", "argmax"] = "bias"
    metric: Literal["macro_f1", "miou", "balanced_accuracy", "f_beta"] = "macro_f1"
    of: str | None = None
    beta: float = Field(default=1.0, gt=0)
    sample: int = Field(default=400_000, ge=1000)
    shrink: float = Field(default=20.0, ge=0)

    @model_validator(mode="after")
    def _one_class(self) -> DecisionOptions:
        if (self.metric == "f_beta") != (self.of is not None):
            raise ValueError("decision.of names the class of decision.metric: f_beta; give both or neither")
        return self
