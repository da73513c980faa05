"""DIAO's loop: whole repeats of tiles, each the one that evens the class shares most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

# Tiles whose bounds are kept in order: few enough to stay in the processor's cache.
_ACTIVE = 32_768
# Tiles of several sizes: how many groups of like size are kept apart, and how far the stream may grow before
# bounds are taken anew. Both only cost time: the bounds are loose by the product of the two.
_GROUPS = 32
_GROWTH = 1.01
_GO_ON, _NO_GAIN, _SPENT, _KL, _EFFECTIVE, _ALL = range(6)
_STOPS = {
    _NO_GAIN: "no repeat gains more",
    _SPENT: "the budget is spent",
    _KL: "KL is low enough",
    _EFFECTIVE: "the effective size would fall too low",
    _ALL: "every tile is repeated as often as it may be",
}


@dataclass(frozen=True)
class Greedy:
    """Repeats `[N]` (those to begin with included), what was chosen in order, KL(q ‖ P) before the first
    and after each choice, and why it ended."""

    repeats: np.ndarray
    chosen: np.ndarray
    kl: np.ndarray
    stopped: str


def solve_greedy(
    counts: np.ndarray,
    target: np.ndarray,
    most: np.ndarray,
    budget: int,
    first: np.ndarray | None = None,
    score: Literal["gain", "density"] = "gain",
    min_gain: float = 0.0,
    kl: float = 0.0,
    min_effective: float = 0.0,
    lazy: bool = True,
) -> Greedy:
    """Add repeats one by one to the pooled counts N until nothing is gained (DIAO, our reconstruction).

    `counts` `[N, K]` are labelled pixels, `target` q `[K]`, `first` the repeats to begin with (default 1
    each), `most` the largest `[N]`. Chosen is the tile with the largest fall of KL(q ‖ P) ("gain") or the
    largest `Σ_c d_c q_c / P_c`, minus KL's gradient ("density"); the first of equals. Either way KL never
    rises: it ends before a repeat that gains nothing, or `min_gain` nats or less for each share of the
    stream that the repeat adds. It also ends at `budget` repeats, at a KL of at most `kl`, and before the
    effective size (Σr)²/Σr² falls below `min_effective` tiles.

    `lazy` makes the same choices without scoring every tile each time. For "density", and for "gain" where
    tiles have equally many labelled pixels, what orders the tiles (`Σ q_c d_c/N_c`, `Σ q_c log(1 + x_c/N_c)`)
    only shrinks while N grows, so that an old value is a bound. Where sizes differ, the other part of the
    gain, −log(1 + t/T), grows with the stream T: it is bounded by its value at a T yet to come, and bounds are
    taken anew when T gets there. The choices are those of the plain search there too, up to the rounding of ties.
    Raises `ValueError` where the target asks for a class that no tile to begin with holds.
    """
    x = np.ascontiguousarray(counts, np.float64)
    most = np.asarray(most, np.int64)
    repeats = np.array(np.ones(len(x)) if first is None else first, np.int64)
    size, pooled = x.sum(1), repeats @ x
    if (pooled[target > 0] <= 0).any():
        raise ValueError("the target asks for a class that no tile to begin with holds")
    usable = size > 0
    density = score == "density"
    even = density or not usable.any() or float(np.ptp(size[usable])) == 0.0
    room = int(np.clip((most - repeats)[usable & (most > repeats)].sum(), 0, max(0, budget)))
    chosen, path = np.empty(room, np.int64), np.empty(room + 1)
    here = target > 0
    path[0] = (target[here] * np.log(target[here] / (pooled[here] / pooled.sum()))).sum()
    worth = x / np.where(usable, size, 1.0)[:, None] if density else x
    limits = np.array([min_gain, kl, min_effective])
    done, reason = 0, _KL if path[0] <= kl else _GO_ON
    active = _ACTIVE if lazy else len(x)
    while reason == _GO_ON and done < room:
        later = np.inf if even else pooled.sum() * _GROWTH
        # log(1 + z) ≤ z, so that one product bounds the gains of all tiles.
        bound = worth @ np.divide(target, pooled, out=np.zeros(len(target)), where=here)
        if not even:
            bound -= np.log1p(size / later)
        bound[~usable | (repeats >= most)] = -np.inf
        near, rest = _top(bound, active)
        near, edges = _grouped(near, size, 1 if even else _GROUPS)
        before = done
        done, reason = _choose(
            x, worth, size, target, near, bound[near], edges, rest, later, density, lazy,
            repeats, most, pooled, limits, chosen, path, done,
        )  # fmt: skip
        # No tile could be told best: too many are alike. Look at more of them.
        active = 2 * active if done == before else _ACTIVE if lazy else len(x)
    if reason == _GO_ON:
        reason = _SPENT if done >= budget else _ALL
    return Greedy(repeats, chosen[:done].copy(), path[: done + 1].copy(), _STOPS[reason])


def _top(bound: np.ndarray, active: int) -> tuple[np.ndarray, float]:
    """About `active` tiles with the largest bounds, in their order, and the largest bound of the others."""
    candidates = int(np.isfinite(bound).sum())
    if candidates <= active:
        return np.flatnonzero(np.isfinite(bound)), -np.inf
    cut = np.partition(bound, len(bound) - active)[len(bound) - active]
    near = np.flatnonzero(bound > cut)
    return near, float(cut)


def _grouped(near: np.ndarray, size: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The tiles in groups of like size, and the index of each group's first tile, with the number of tiles last."""
    if groups == 1 or len(near) == 0:
        return near, np.array([0, len(near)])
    sizes = size[near]
    span = max(float(np.ptp(sizes)), 1e-300)
    group = np.minimum(((sizes - sizes.min()) / span * groups).astype(np.int64), groups - 1)
    order = np.argsort(group, kind="stable")
    return near[order], np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])


@numba.njit(cache=True)
def _choose(
    x, worth, size, q, near, keys, edges, rest, later, density, lazy,
    repeats, most, pooled, limits, chosen, path, done,
):  # fmt: skip  # pragma: no cover
    """Choose among `near` until another tile might be better; gives how many were chosen, and a reason to end.

    Each group of tiles is a heap of upper bounds that hold until the stream has grown to `later`.
    """
    k, groups = len(q), len(edges) - 1
    held = near.copy()
    filled, smallest = np.zeros(groups, np.int64), np.full(groups, np.inf)
    for g in range(groups):
        start = edges[g]
        filled[g] = edges[g + 1] - start
        for i in range(filled[g]):
            smallest[g] = min(smallest[g], size[near[start + i]])
        for i in range(filled[g] // 2 - 1, -1, -1):
            _sink(keys, held, start, i, filled[g])
    aside_key, aside, aside_of = (
        np.empty(len(near)),
        np.empty(len(near), np.int64),
        np.empty(len(near), np.int64),
    )
    slack = np.zeros(groups)
    sized = later < np.inf
    ones, squares = 0.0, 0.0
    for i in range(len(repeats)):
        ones += repeats[i]
        squares += repeats[i] * repeats[i]
    total = pooled.sum()
    while done < len(chosen):
        if total > later:
            return done, _GO_ON
        if sized:
            # A bound holds for the stream at `later`; every tile of the group is worth less by this much now.
            for g in range(groups):
                slack[g] = np.log1p(smallest[g] / total) - np.log1p(smallest[g] / later)
        best, which, put = -np.inf, -1, 0
        while True:
            top, of = -np.inf, -1
            for g in range(groups):
                if filled[g] > 0:
                    key = keys[edges[g]] - slack[g]
                    if of < 0 or key > top or (key == top and held[edges[g]] < held[edges[of]]):
                        top, of = key, g
            if of < 0:
                break
            i = held[edges[of]]
            # Bounds and values are rounded differently: look once more where they differ by less than that.
            if lazy and top + 1e-15 * abs(keys[edges[of]]) < best:
                break
            value = 0.0
            for c in range(k):
                if q[c] > 0.0:
                    z = worth[i, c] / pooled[c]
                    value += q[c] * (z if density else np.log1p(z))
            exact, bound = value, value
            if sized:
                exact -= np.log1p(size[i] / total)
                bound -= np.log1p(size[i] / later)
            aside_key[put], aside[put], aside_of[put] = bound, i, of
            put += 1
            if exact > best or (exact == best and i < which):
                best, which = exact, i
            filled[of] -= 1
            last = edges[of] + filled[of]
            keys[edges[of]], held[edges[of]] = keys[last], held[last]
            _sink(keys, held, edges[of], 0, filled[of])
        if which < 0:
            return done, _ALL if rest == -np.inf else _GO_ON
        if best <= rest:
            return done, _GO_ON
        gain = -np.log1p(size[which] / total)
        for c in range(k):
            if q[c] > 0.0:
                gain += q[c] * np.log1p(x[which, c] / pooled[c])
        if gain <= limits[0] * size[which] / (total + size[which]) or gain <= 0.0:
            return done, _NO_GAIN
        r = repeats[which]
        if (ones + 1.0) ** 2 / (squares + 2 * r + 1) < limits[2]:
            return done, _EFFECTIVE
        for c in range(k):
            pooled[c] += x[which, c]
        total += size[which]
        ones += 1.0
        squares += 2 * r + 1
        repeats[which] = r + 1
        chosen[done] = which
        path[done + 1] = path[done] - gain
        done += 1
        if path[done] <= limits[1]:
            return done, _KL
        for j in range(put):
            if aside[j] != which or repeats[which] < most[which]:
                g = aside_of[j]
                last = edges[g] + filled[g]
                keys[last], held[last] = aside_key[j], aside[j]
                filled[g] += 1
                _rise(keys, held, edges[g], filled[g] - 1)
    return done, _GO_ON


@numba.njit(cache=True)
def _before(keys, rows, i, j):  # pragma: no cover
    return keys[i] > keys[j] or (keys[i] == keys[j] and rows[i] < rows[j])


@numba.njit(cache=True)
def _sink(keys, rows, start, i, filled):  # pragma: no cover
    while True:
        first = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < filled and _before(keys, rows, start + child, start + first):
                first = child
        if first == i:
            return
        a, b = start + i, start + first
        keys[a], keys[b] = keys[b], keys[a]
        rows[a], rows[b] = rows[b], rows[a]
        i = first


@numba.njit(cache=True)
def _rise(keys, rows, start, i):  # pragma: no cover
    while i > 0:
        parent = (i - 1) // 2
        a, b = start + i, start + parent
        if not _before(keys, rows, a, b):
            return
        keys[a], keys[b] = keys[b], keys[a]
        rows[a], rows[b] = rows[b], rows[a]
        i = parent
