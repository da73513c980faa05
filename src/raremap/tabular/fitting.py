"""One model fitted on rows: weights or made-up rows for the rare class, and the prior that they move put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raremap.errors import MissingExtra, TrainingError
from raremap.tabular.columns import Columns
from raremap.tabular.encode import Encoder
from raremap.tabular.options import Boosting, Forest, Logistic

Estimator = Any
Options = Boosting | Forest | Logistic


@dataclass(frozen=True)
class Fitted:
    """An estimator of scikit-learn with its encoder; `logits` carry the natural shares of the rows it was fitted on.

    `shift` is what weights or made-up rows have added to the log-odds.
    """

    encoder: Encoder
    estimator: Estimator
    options: Options
    shift: float

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        """The estimator's own log-odds float64 `[n]` of encoded rows."""
        if isinstance(self.options, Forest):
            return clipped_log_odds(self.estimator.predict_proba(encoded)[:, 1], self.options.trees)
        return np.asarray(self.estimator.decision_function(encoded), np.float64)

    def logits(self, values: np.ndarray) -> np.ndarray:
        """Log-odds float64 `[n]` of rows `[n, p]`."""
        return self.raw(self.encoder(values)) - self.shift


def clipped_log_odds(probs: np.ndarray, trees: int) -> np.ndarray:
    """Log-odds of a forest's vote, half a tree away from 0 and 1."""
    p = np.clip(np.asarray(probs, np.float64), 0.5 / trees, 1 - 0.5 / trees)
    return np.log(p) - np.log1p(-p)


def fit(
    values: np.ndarray, truth: np.ndarray, columns: Columns, options: Options, balance: str, seed: int
) -> Fitted:
    """Fit on rows `[n, p]` and booleans `[n]` of both classes.

    Balanced weights, or as many positive rows as negative ones made up (SMOTE; SMOTE-NC with categorical columns), move
    the odds of every score by n₀/n₁ (Elkan 2001, theorem 2); `shift` is the logarithm of it.
    """
    smote = balance == "smote"
    fill = smote or not isinstance(options, Boosting)
    encoder = Encoder.fit(values, columns, fill, standardise=isinstance(options, Logistic))
    negatives, positives = int((~truth).sum()), int(truth.sum())
    weight = np.ones(len(truth))
    shift = 0.0
    filled = encoder.fill(values)
    if balance != "none":
        shift = float(np.log(negatives / positives))
    if balance == "weights":
        weight = np.where(truth, len(truth) / (2 * positives), len(truth) / (2 * negatives))
    if smote:
        filled, truth = _smote(filled, truth, encoder, seed)
        weight = np.ones(len(truth))
    estimator = _estimator(options, seed)
    estimator.fit(encoder.spread(filled), truth.astype(int), sample_weight=weight)
    return Fitted(encoder, estimator, options, shift)


def _estimator(options: Options, seed: int) -> Estimator:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingExtra("scikit-learn", "tables") from None
    if isinstance(options, Boosting):
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(
            learning_rate=options.learning_rate, max_iter=options.iterations, max_leaf_nodes=options.leaves,
            min_samples_leaf=options.min_leaf, l2_regularization=options.l2, early_stopping=False, random_state=seed,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    if isinstance(options, Forest):
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            options.trees, min_samples_leaf=options.min_leaf, random_state=seed, n_jobs=-1,
            max_features="sqrt" if options.features == "sqrt" else None,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=options.c, max_iter=2000)


_NEIGHBOURS = 5


def _smote(
    filled: np.ndarray, truth: np.ndarray, encoder: Encoder, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Filled rows with made-up ones of the rarer class; distances are of standardised numbers."""
    try:
        from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC
    except ImportError:
        raise MissingExtra("imbalanced-learn", "tables") from None
    rarer = int(min(truth.sum(), (~truth).sum()))
    if rarer < 2:
        raise TrainingError("SMOTE needs two rows of each class in every fold; use --balance weights")
    k = min(_NEIGHBOURS, rarer - 1)
    p = len(encoder.categories)
    codes = [i for i in range(filled.shape[1]) if i >= p or encoder.categories[i]]
    numeric = encoder.numeric
    made: Callable[..., Any]
    if not codes:
        made = SMOTE(random_state=seed, k_neighbors=k).fit_resample
    elif not numeric:
        made = SMOTEN(random_state=seed, k_neighbors=k).fit_resample
    else:
        made = SMOTENC(codes, random_state=seed, k_neighbors=k).fit_resample
    centre, scale = np.zeros(filled.shape[1]), np.ones(filled.shape[1])
    spread = filled[:, numeric].std(0, dtype=np.float64)
    centre[numeric], scale[numeric] = (
        filled[:, numeric].mean(0, dtype=np.float64),
        np.where(spread > 0, spread, 1),
    )
    rows, label = made((filled - centre) / scale, truth.astype(int))
    out = np.asarray(rows, np.float64) * scale + centre
    out[:, codes] = np.rint(out[:, codes])
    return out.astype(np.float32), np.asarray(label).astype(bool)
