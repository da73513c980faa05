"""What can be chosen in the training of a table's model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raremap.options import Options

Share = Annotated[float, Field(gt=0, lt=1)]


class Boosting(Options):
    """Histogram gradient boosting; missing values go to the side of a split that suits them."""

    kind: Literal["boosting"] = "boosting"
    learning_rate: float = Field(0.05, gt=0)
    iterations: int = Field(100, ge=1)
    leaves: int = Field(15, ge=2)
    min_leaf: int = Field(20, ge=1)
    l2: float = Field(1.0, ge=0)

    @property
    def grid(self) -> tuple[Boosting, ...]:
        """What nested tuning tries: from a few stumps to trees of many leaves."""
        return (
            self,
            self.model_copy(update={"leaves": 4}),
            self.model_copy(update={"leaves": 31, "iterations": 2 * self.iterations}),
            self.model_copy(update={"leaves": 2, "iterations": 2 * self.iterations}),
        )


class Forest(Options):
    """Random forest; missing values are filled with the median, and a column says where."""

    kind: Literal["forest"] = "forest"
    trees: int = Field(300, ge=1)
    min_leaf: int = Field(5, ge=1)
    features: Literal["sqrt", "all"] = "sqrt"

    @property
    def grid(self) -> tuple[Forest, ...]:
        """What nested tuning tries: from full trees to smooth ones."""
        return tuple(self.model_copy(update={"min_leaf": n}) for n in (self.min_leaf, 1, 20))


class Logistic(Options):
    """Logistic regression with a ridge on standardised columns; missing values as in `Forest`."""

    kind: Literal["logistic"] = "logistic"
    c: float = Field(1.0, gt=0)

    @property
    def grid(self) -> tuple[Logistic, ...]:
        """What nested tuning tries: from a strong ridge to nearly none."""
        return tuple(self.model_copy(update={"c": self.c * f}) for f in (1.0, 0.01, 0.1, 10.0))


Model = Annotated[Boosting | Forest | Logistic, Field(discriminator="kind")]
MODELS = {"boosting": Boosting, "forest": Forest, "logistic": Logistic}


class TableOptions(Options):
    """A training on a table: its label and columns, folds, imbalance, calibration and tuning.

    `positive` is the label's value that is looked for, where it is neither true nor 1. Text and dictionary columns are
    categorical, numbers and booleans numeric; `categorical` names numbers that are codes; `drop` leaves columns out. `missing` are texts and
    numbers that stand for no value, in every column and also when the model is used.

    Folds keep a `group` together, or square blocks of `block_m` metres by the coordinates: a geometry's centroid, or
    the columns `x` and `y` (found by common names where not given); without either they are random, and a warning
    says so. `balance` is how the rare class is heard: `weights` and `smote` move the prior, which is corrected.
    `calibration` is fitted on scores out of fold. `prior` is the true share of the positive class where the table was
    not drawn at its natural shares; probabilities, threshold and all figures are given for it.
    """

    label: str
    positive: str | None = None
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    layer: str | None = None
    x: str | None = None
    y: str | None = None
    group: str | None = None
    block_m: float | None = Field(None, gt=0)
    folds: int = Field(5, ge=2)
    inner_folds: int = Field(3, ge=2)
    model: Model = Field(default_factory=lambda: Boosting.model_validate({}))
    tune: bool = True
    metric: Literal["average_precision", "auc"] = "average_precision"
    balance: Literal["weights", "smote", "none"] = "weights"
    calibration: Literal["sigmoid", "isotonic", "none"] = "sigmoid"
    prior: Share | None = None
    replicates: int = Field(1000, ge=2)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> TableOptions:
        if self.group is not None and self.block_m is not None:
            raise ValueError("group and block_m are two ways to make folds; give one")
        if (self.x is None) != (self.y is None):
            raise ValueError("x and y belong together; give both or none")
        if not self.tune and (self.metric != "average_precision" or self.inner_folds != 3):
            raise ValueError("metric and inner_folds are of tuning, and tune is false; leave them out")
        return self
