"""Where numbers lie beside those of the training: a model has learned nothing of what lies beyond."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

_TAIL = 0.001  # of the training rows, left out at either end: single wrong values make no range
_SIZEABLE = 0.05
_NAMED = 4


def range_of(values: np.ndarray) -> tuple[float, float] | None:
    """The quantiles 0.1 % and 99.9 % of the values that are not NaN; least and greatest of fewer than 1,000.

    >>> range_of(np.array([3.0, np.nan, 1.0, 2.0]))
    (1.0, 3.0)
    """
    there = values[~np.isnan(values)]
    if not len(there):
        return None
    return (
        float(np.quantile(there, _TAIL, method="lower")),
        float(np.quantile(there, 1 - _TAIL, method="higher")),
    )


@dataclass
class Beyond:
    """Numbers outside the training's range, by column: `count` of the `total` that are there."""

    count: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    trained: dict[str, tuple[float, float]] = field(default_factory=dict)
    met: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray, trained: tuple[float, float]) -> None:
        """Count values `[n]` of a column; NaN is none."""
        there = int((~np.isnan(values)).sum())
        if not there:
            return
        outside = int(((values < trained[0]) | (values > trained[1])).sum())
        low, high = self.met.get(name, (np.inf, -np.inf))
        self.met[name] = (min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values))))
        self.trained[name] = trained
        self.total[name] += there
        if outside:
            self.count[name] += outside

    def line(self, unit: str) -> str | None:
        """What is to be told where a twentieth or more of a column lies outside; the worst column first."""
        shares = {n: c / self.total[n] for n, c in self.count.items() if c >= _SIZEABLE * self.total[n]}
        if not shares:
            return None
        worst, *others = sorted(shares, key=lambda n: -shares[n])
        (low, high), (least, most) = self.trained[worst], self.met[worst]
        named = ", ".join(f"'{n}' in {_percent(shares[n])}" for n in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return (
            f"'{worst}' lies outside what the model has met in {_percent(shares[worst])} of the {unit} ({low:.4g} to {high:.4g} "
            f"in training, {least:.4g} to {most:.4g} here){f'; so do {named}{more}' if others else ''}; are the units of "
            "measure the same? The model has learned nothing there"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
