"""The decision: which class, given probabilities. A temperature and a bias by class, fitted last (`fitting`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np


@dataclass(frozen=True)
class Decision:
    """`argmax_c [log p_c / temperature + shift_c + bias_c]`; without any of them the plain argmax.

    Temperature and shift make better probabilities, the bias a better map. `gain` is what temperature and
    bias gain in `metric` on calibration places that they were not fitted on, `gain_se` its standard error
    over places (None: unknown). `held` counts the calibration places that hold each class, `objects` their
    objects (see `fitting`). `way` is the way of predicting that it was fitted for. `shift` moves the
    probabilities to other class shares (`moved_to`).
    """

    bias: tuple[float, ...]
    metric: str = "macro-F1"
    gain: float = 0.0
    gain_se: float | None = None
    places: int = 0
    held: tuple[int, ...] = ()
    note: str = "argmax"
    way: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    objects: tuple[int, ...] = ()
    shift: tuple[float, ...] = ()

    @property
    def fitted(self) -> bool:
        """Whether its classes may differ from the plain argmax."""
        return any(self.bias) or any(self.shift)

    @property
    def softens(self) -> bool:
        """Whether its probabilities differ from the network's."""
        return self.temperature != 1.0 or any(self.shift)

    def scarce(self, names: Sequence[str]) -> str:
        """A remark on the classes that fewer than two calibration places hold; empty where there is none."""
        few = [f"{n} ({c})" for n, c in zip(names, self.held, strict=False) if c < 2]
        return f"fewer than two calibration places hold {', '.join(few)}: no bias was tested" if few else ""

    @cached_property
    def _factors(self) -> np.ndarray:
        moved = np.asarray(self.bias, np.float64) + (np.asarray(self.shift) if self.shift else 0.0)
        return np.exp(self.temperature * moved).astype(np.float32)

    @property
    def factors(self) -> tuple[float, ...]:
        """By what the network's probabilities are multiplied before the greatest is taken, `[K]`."""
        return tuple(self._factors.tolist())

    def threshold(self, of: int) -> float:
        """Of two classes: the network's probability of class `of` above which it is chosen; 0.5 with the plain argmax."""
        if len(self.bias) != 2:
            raise ValueError(f"a decision of {len(self.bias)} classes has no one threshold")
        # p·f_of > (1 - p)·f_other
        factors = self._factors.astype(np.float64)
        return float(factors[1 - of] / factors.sum())

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Class index uint8 `[h, w]` of the network's probabilities float32 `[K, h, w]`."""
        self._check(probs)
        return _argmax(probs, self._factors)

    def odds(self, probs: np.ndarray, over: np.ndarray, than: np.ndarray) -> np.ndarray:
        """Log-odds float32 `[h, w]` of classes `over [h, w]` over classes `than [h, w]`, as the decision weighs them.

        Positive where `over` is preferred; of the network's probabilities float32 `[K, h, w]`.
        """
        self._check(probs)
        logs = (
            np.log(
                np.maximum(
                    np.take_along_axis(probs, c[None].astype(np.intp), 0)[0], np.finfo(np.float32).tiny
                )
            )
            for c in (over, than)
        )
        moved = np.asarray(self.bias, np.float32) + np.asarray(self.shift or 0.0, np.float32)
        high, low = logs
        return (high - low) / np.float32(self.temperature) + moved[over] - moved[than]

    def posterior(self, probs: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[K, ...]` after temperature and shift, of the network's own."""
        self._check(probs)
        if not self.softens:
            return probs
        logs = np.log(np.maximum(probs, np.finfo(np.float32).tiny)) / np.float32(self.temperature)
        if self.shift:
            logs += np.asarray(self.shift, np.float32).reshape(-1, *[1] * (probs.ndim - 1))
        logs -= logs.max(0)
        np.exp(logs, out=logs)
        return logs / logs.sum(0)

    def moved_to(self, shares: tuple[float, ...], prior: tuple[float, ...]) -> Decision:
        """For ground with other class shares than the `prior` that the network has learned.

        log p + log(shares) - log(prior) (Saerens et al. 2002, equation 2.4); a share of 0 rules a class
        out. The bias is left aside: it was fitted for the shares of the calibration places. Raises
        `ValueError` where a class is to have a share that had none: its probabilities say nothing.
        """
        new, old = np.asarray(shares, np.float64), np.asarray(prior, np.float64)
        if ((new > 0) & (old <= 0)).any():
            raise ValueError(f"shares {shares} for a class that had none in {prior}")
        ratio = np.divide(new / new.sum(), old / old.sum(), out=np.zeros_like(new), where=new > 0)
        shift = np.log(ratio, out=np.full_like(new, -np.inf), where=new > 0)
        return replace(
            self,
            bias=(0.0,) * len(self.bias),
            shift=tuple(shift.tolist()),
            note="moved to given class shares",
        )

    def _check(self, probs: np.ndarray) -> None:
        if len(self.bias) != len(probs):
            raise ValueError(f"a decision of {len(self.bias)} classes on probabilities of {len(probs)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decision:
        """What `to_dict` gave."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)


def most_likely(probs: np.ndarray) -> np.ndarray:
    """Class index uint8 `[h, w]` of the greatest of probabilities `[K, h, w]`; the first where equal."""
    return _argmax(probs, np.ones(len(probs), np.float32))


@numba.njit(cache=True, nogil=True)
def _argmax(probs, factors):  # pragma: no cover - compiled
    k, h, w = probs.shape
    out = np.zeros((h, w), np.uint8)
    best = np.empty(w, np.float32)
    for r in range(h):
        for x in range(w):
            best[x] = probs[0, r, x] * factors[0]
        for c in range(1, k):
            for x in range(w):
                score = probs[c, r, x] * factors[c]
                if score > best[x]:
                    best[x] = score
                    out[r, x] = c
    return out
