"""The census: how uneven the classes are, over everything, by use and by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.plain import plain

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog


def shares(counts: np.ndarray) -> np.ndarray:
    """Class shares of counts `[..., K]`; NaN where nothing is counted."""
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def entropy(p: np.ndarray) -> float:
    """Shannon entropy of shares, in nats."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p ‖ q) in nats; infinite where q lacks a class that p has."""
    here = p > 0
    if (q[here] == 0).any():
        return float("inf")
    return float((p[here] * np.log(p[here] / q[here])).sum())


def rare_classes(
    train_shares: np.ndarray, names: tuple[str, ...], named: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The rare classes: those the scheme names, else those whose training share is below half of 1/K."""
    if named is not None:
        return named
    return tuple(n for n, s in zip(names, train_shares, strict=True) if 0 < s < 0.5 / len(names))


@dataclass(frozen=True)
class Distribution:
    """Class counts of a set of tiles, and what they say of balance (nats; u is uniform over all classes)."""

    tiles: int
    places: int
    counts: np.ndarray
    tiles_with: np.ndarray
    places_with: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Class shares."""
        return shares(self.counts)

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """JSON-ready figures; infinite values are null."""
        p = np.nan_to_num(self.shares)
        u = np.full(len(p), 1 / len(p))
        present = p[p > 0]
        return {
            "tiles": self.tiles,
            "places": self.places,
            "pixels": round(float(self.counts.sum())),
            "shares": dict(zip(names, p.tolist(), strict=True)),
            "tiles_with": dict(zip(names, self.tiles_with.tolist(), strict=True)),
            "places_with": dict(zip(names, self.places_with.tolist(), strict=True)),
            "entropy": entropy(p),
            "kl_from_uniform": kl(p, u),
            "kl_uniform_from": plain(kl(u, p)),
            "imbalance_ratio": float(present.max() / present.min()) if len(present) else None,
        }


@dataclass(frozen=True)
class Census:
    """Distributions of everything, of each use, and class shares of each place."""

    names: tuple[str, ...]
    rare: tuple[str, ...]
    total: Distribution
    by_use: dict[str, Distribution]
    by_place: dict[str, np.ndarray]
    dropped: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "classes": list(self.names),
            "rare": list(self.rare),
            "total": self.total.to_dict(self.names),
            "by_use": {use: d.to_dict(self.names) for use, d in self.by_use.items()},
            "by_place": {p: dict(zip(self.names, c.tolist(), strict=True)) for p, c in self.by_place.items()},
            "dropped": self.dropped,
        }

    def __str__(self) -> str:
        uses = list(self.by_use)
        width = max(10, *(len(n) + 2 for n in self.names))
        head = (
            f"{'class':<{width}}{'all':>9}" + "".join(f"{u:>13}" for u in uses) + f"{'tiles':>8}{'places':>8}"
        )
        lines = [head]
        for i in np.argsort(-np.nan_to_num(self.total.shares), kind="stable"):
            name = self.names[i]
            cells = "".join(f"{np.nan_to_num(self.by_use[u].shares[i]):>13.3%}" for u in uses)
            mark = " *" if name in self.rare else ""
            lines.append(
                f"{name + mark:<{width}}{np.nan_to_num(self.total.shares[i]):>9.3%}{cells}"
                f"{self.total.tiles_with[i]:>8}{self.total.places_with[i]:>8}"
            )
        rows: list[tuple[str, str, str]] = [
            ("tiles", "tiles", "d"),
            ("places", "places", "d"),
            ("entropy", "entropy (nats)", ".3f"),
            ("kl_from_uniform", "KL(p||u)", ".3f"),
            ("kl_uniform_from", "KL(u||p)", ".3f"),
            ("imbalance_ratio", "max/min", ".1f"),
        ]
        everything = self.total.to_dict(self.names)
        by_use = {u: d.to_dict(self.names) for u, d in self.by_use.items()}
        for key, label, spec in rows:
            cells = [everything[key], *(by_use[u][key] for u in uses)]
            # Of nothing labelled there is no ratio; a divergence that JSON has as null is infinite.
            none = "–" if key == "imbalance_ratio" else "inf"
            texts = [none if c is None else format(c, spec) for c in cells]
            lines.append(f"{label:<{width}}{texts[0]:>9}" + "".join(f"{t:>13}" for t in texts[1:]))
        if self.rare:
            lines.append("* rare")
        lines += [f"left out: {n} tiles ({reason})" for reason, n in self.dropped.items() if n]
        return "\n".join(lines)


def census(
    catalog: Catalog, uses: np.ndarray | None = None, at_borders: dict[str, int] | None = None
) -> Census:
    """Count a catalog, over all tiles and by use (`uses`, `[N]` of str).

    Pixels are counted as samples are drawn: once for each tile and each date that shows them. `at_borders` are
    the tiles that the division into uses dropped, by reason.
    """
    places = catalog.table["place"].to_numpy().astype(str)
    uses = np.full(len(catalog), "all") if uses is None else uses
    order = [u for u in ("train", "monitor", "calibration", "test") if (uses == u).any()]
    total = _distribution(catalog.counts, places)
    by_use = {u: _distribution(catalog.counts[uses == u], places[uses == u]) for u in order}
    train = by_use["train"].shares if "train" in by_use else total.shares
    names, inverse = np.unique(places, return_inverse=True)
    summed = np.zeros((len(names), catalog.counts.shape[1]))
    np.add.at(summed, inverse, catalog.counts)
    lost = {**catalog.dropped, **(at_borders or {})}
    return Census(
        names=catalog.scheme.names,
        rare=rare_classes(train, catalog.scheme.names, catalog.scheme.rare),
        total=total,
        by_use=by_use,
        by_place=dict(zip(names.tolist(), summed, strict=True)),
        dropped=lost,
    )


def _distribution(counts: np.ndarray, places: np.ndarray) -> Distribution:
    with_class = counts > 0
    return Distribution(
        tiles=len(counts),
        places=len(np.unique(places)),
        counts=counts.sum(0),
        tiles_with=with_class.sum(0),
        places_with=np.array([len(np.unique(places[with_class[:, k]])) for k in range(counts.shape[1])]),
    )
