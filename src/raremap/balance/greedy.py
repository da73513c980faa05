"""DIAO's loop: whole repeats of tiles, each the one that evens the class shares most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

# Groups of equal tiles whose bounds are kept in order: few enough to stay in the processor's cache.
_ACTIVE = 16_384
# Tiles of several sizes: how many heaps of like size are kept apart, and how far the stream may grow before
# all bounds are taken anew. Both only cost time: the bounds are loose by the product of the two.
_HEAPS = 16
_GROWTH = 1.02
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
    largest `Σ_c d_c q_c / P_c`, minus KL's gradient ("density"); of equals the one with the fewest repeats,
    so that equal tiles take turns, then the first. Either way KL never rises: it ends before a repeat that
    gains nothing, or `min_gain` nats or less for each share of the stream that the repeat adds. It also ends
    at `budget` repeats, at a KL of at most `kl`, and before the effective size (Σr)²/Σr² falls below
    `min_effective` tiles.

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
    rows = np.flatnonzero((size > 0) & (repeats < most))
    room = int(min((most - repeats)[rows].sum(), max(0, budget)))
    chosen, path = np.empty(room, np.int64), np.empty(room + 1)
    here = target > 0
    path[0] = (target[here] * np.log(target[here] / (pooled[here] / pooled.sum()))).sum()
    density = score == "density"
    equal = _alike(x, size, here, rows, repeats, density)
    # What the score of a group depends on: densities, or counts and size.
    lead = equal.rows[equal.first[:-1]]
    worth = x[np.ix_(lead, np.flatnonzero(here))]
    if density:
        worth /= size[lead, None]
    q, sizes = target[here], size[lead]
    even = density or len(lead) == 0 or float(np.ptp(sizes)) == 0.0
    limits = np.array([min_gain, kl, min_effective])
    # A bound and a value, summed in another order, differ by less than this share of them.
    blur = (len(q) + 8) * 2.3e-16
    done, reason = 0, _KL if path[0] <= kl else _GO_ON
    least = _ACTIVE if lazy else len(x) + 1
    active = least
    while reason == _GO_ON and done < room:
        later = np.inf if even else pooled.sum() * _GROWTH
        # log(1 + z) ≤ z, so that one product bounds the gains of all tiles.
        sums = worth @ (q / pooled[here])
        bound = sums if even else sums - np.log1p(sizes / later)
        bound = np.where(equal.left > 0, bound, -np.inf)
        near, rest = _top(bound, active)
        rest += blur * (abs(rest) + float(sizes.max(initial=0.0)) / pooled.sum()) if np.isfinite(rest) else 0
        near, edges = _by_size(near, sizes, 1 if even else _HEAPS)
        before = done
        done, reason = _choose(
            x, size, target, worth[near], q, sizes[near], near, sums[near], edges, rest, later, blur, density, lazy,
            equal.rows, equal.first, equal.left, np.flatnonzero(here),
            repeats, most, pooled, limits, chosen, path, done,
        )  # fmt: skip
        # No tile could be told best: too many are alike. Look at more of them.
        active = 2 * active if done == before else least
    if reason == _GO_ON:
        reason = _SPENT if done >= budget else _ALL
    return Greedy(repeats, chosen[:done].copy(), path[: done + 1].copy(), _STOPS[reason])


@dataclass(frozen=True)
class _Alike:
    """Groups of tiles that always have the same score: group g has `left[g]` tiles at `rows[first[g]:]`."""

    rows: np.ndarray
    first: np.ndarray
    left: np.ndarray


def _alike(
    x: np.ndarray, size: np.ndarray, here: np.ndarray, rows: np.ndarray, repeats: np.ndarray, density: bool
) -> _Alike:
    """Groups of equal tiles, each ordered by repeats; pure tiles are equal by the thousand."""
    code = _codes(x, size, here, rows, density)
    order = np.argsort(code, kind="stable") if np.ptp(repeats) == 0 else np.lexsort((repeats[rows], code))
    code = code[order]
    maybe = np.flatnonzero(code[1:] == code[:-1])
    one, two = rows[order[maybe]], rows[order[maybe + 1]]
    a, b = x[one][:, here], x[two][:, here]
    if density:
        a, b = a / size[one, None], b / size[two, None]
    new = np.ones(len(rows), bool)
    new[maybe[(a == b).all(1) & (density | (size[one] == size[two]))] + 1] = False
    first = np.flatnonzero(new)
    return _Alike(rows[order], np.append(first, len(rows)), np.diff(np.append(first, len(rows))))


@numba.njit(cache=True)
def _codes(x, size, here, rows, density):  # pragma: no cover
    """A number for each row, the same for equal ones."""
    code = np.empty(len(rows))
    for j in range(len(rows)):
        i = rows[j]
        total = 0.0 if density else 0.7236 * size[i]
        for c in range(len(here)):
            if here[c]:
                part = x[i, c] / size[i] if density else x[i, c]
                total += part * np.sqrt(c + 2.1357)
        code[j] = total
    return code


def _top(bound: np.ndarray, active: int) -> tuple[np.ndarray, float]:
    """About `active` groups with the largest bounds, in their order, and the largest bound of the others."""
    candidates = int(np.isfinite(bound).sum())
    if candidates <= active:
        return np.flatnonzero(np.isfinite(bound)), -np.inf
    cut = np.partition(bound, len(bound) - active)[len(bound) - active]
    return np.flatnonzero(bound > cut), float(cut)


def _by_size(near: np.ndarray, sizes: np.ndarray, heaps: int) -> tuple[np.ndarray, np.ndarray]:
    """The groups ordered by ranges of size, and where each range begins, with their number last."""
    if heaps == 1 or len(near) == 0:
        return near, np.array([0, len(near)])
    own = sizes[near]
    span = max(float(np.ptp(own)), 1e-300)
    heap = np.minimum(((own - own.min()) / span * heaps).astype(np.int64), heaps - 1)
    order = np.argsort(heap, kind="stable")
    return near[order], np.concatenate([[0], np.cumsum(np.bincount(heap, minlength=heaps))])


@numba.njit(cache=True)
def _choose(
    x, size, target, worth, q, sizes, near, sums, edges, rest, later, blur, density, lazy,
    rows, first, left, columns,
    repeats, most, pooled, limits, chosen, path, done,
):  # fmt: skip  # pragma: no cover
    """Choose among the groups `near` until another might be better; gives how many were chosen, and a reason to end.

    `sums` bound Σ q log(1 + x/N) (or are what "density" compares). Each range of sizes is a heap of upper bounds
    that hold until the stream has grown to `soon`; then they are shifted to the next `soon`, up to `later`.
    """
    number, k, heaps = len(near), len(q), len(edges) - 1
    sized = later < np.inf
    keys, held = np.empty(number), np.empty(number, np.int64)
    filled, smallest, slack = np.zeros(heaps, np.int64), np.full(heaps, np.inf), np.zeros(heaps)
    for h in range(heaps):
        filled[h] = edges[h + 1] - edges[h]
        for j in range(edges[h], edges[h + 1]):
            held[j] = j
            smallest[h] = min(smallest[h], sizes[j])
    aside, aside_of = np.empty(number, np.int64), np.empty(number, np.int64)
    share = np.empty(k)
    ones, squares = 0.0, 0.0
    for i in range(len(repeats)):
        ones += repeats[i]
        squares += repeats[i] * repeats[i]
    # Summed anew each time, so that it does not depend on where the search began.
    total = 0.0
    for c in range(len(target)):
        total += pooled[c]
    soon, growth, wasted = -1.0, 1e-3, 0
    while done < len(chosen):
        if total > later:
            return done, _GO_ON
        if total > soon:
            # Shifting the bounds costs about as much as looking at a tenth of the tiles: do it when that many
            # were looked at in vain.
            if soon > 0.0:
                growth = growth / 2 if wasted > number / 8 else growth * 2 if wasted < number / 16 else growth
            soon, wasted = (min(later, total * (1.0 + growth)) if sized else np.inf), 0
            for h in range(heaps):
                for j in range(edges[h], edges[h] + filled[h]):
                    keys[j] = sums[held[j]]
                    if sized:
                        w = sizes[held[j]] / soon
                        keys[j] -= w * (1.0 - 0.5 * w)  # at most log(1 + w)
                for j in range(filled[h] // 2 - 1, -1, -1):
                    _sink(keys, held, edges[h], j, filled[h])
        if sized:
            # A bound holds for the stream at `soon`; every tile of the heap is worth less by this much now.
            for h in range(heaps):
                slack[h] = np.log1p(smallest[h] / total) - np.log1p(smallest[h] / soon)
        for c in range(k):
            share[c] = 1.0 / pooled[columns[c]]
        best, which, put = -np.inf, -1, 0
        while True:
            top, of = -np.inf, -1
            for h in range(heaps):
                if filled[h] > 0 and (of < 0 or keys[edges[h]] - slack[h] > top):
                    top, of = keys[edges[h]] - slack[h], h
            if of < 0:
                break
            slot = held[edges[of]]
            if lazy and top + blur * (abs(sums[slot]) + abs(top)) < best:
                break
            value, looked = 0.0, True
            if density:
                for c in range(k):
                    value += q[c] * (worth[slot, c] * share[c])
            else:
                for c in range(k):
                    # A bound of log(1 + z) that shrinks with z, and is made without a logarithm.
                    z = worth[slot, c] * share[c]
                    value += q[c] * (z * (1.0 - z * (0.5 - z / 3.0)))
                w = sizes[slot] / total
                above = value - w * (1.0 - 0.5 * w) if sized else value
                looked = which < 0 or not lazy or above + blur * (abs(value) + abs(above)) >= best
                if looked:
                    value = 0.0
                    for c in range(k):
                        value += q[c] * np.log1p(worth[slot, c] * share[c])
            sums[slot] = value
            if not looked:
                value = -np.inf
            aside[put], aside_of[put] = slot, of
            put += 1
            if sized and looked:
                value -= np.log1p(sizes[slot] / total)
            if which < 0 or value > best:
                best, which = value, slot
            elif value == best:
                i, j = rows[first[near[slot]]], rows[first[near[which]]]
                if repeats[i] < repeats[j] or (repeats[i] == repeats[j] and i < j):
                    which = slot
            filled[of] -= 1
            last = edges[of] + filled[of]
            keys[edges[of]], held[edges[of]] = keys[last], held[last]
            _sink(keys, held, edges[of], 0, filled[of])
        if which < 0:
            return done, _ALL if rest == -np.inf else _GO_ON
        if best <= rest:
            return done, _GO_ON
        wasted += put - 1
        group = near[which]
        i = rows[first[group]]
        gain = -np.log1p(size[i] / total)
        for c in range(len(target)):
            if target[c] > 0.0:
                gain += target[c] * np.log1p(x[i, c] / pooled[c])
        if gain <= limits[0] * size[i] / (total + size[i]) or gain <= 0.0:
            return done, _NO_GAIN
        r = repeats[i]
        if (ones + 1.0) ** 2 / (squares + 2 * r + 1) < limits[2]:
            return done, _EFFECTIVE
        for c in range(len(target)):
            pooled[c] += x[i, c]
        total = 0.0
        for c in range(len(target)):
            total += pooled[c]
        ones += 1.0
        squares += 2 * r + 1
        repeats[i] = r + 1
        chosen[done] = i
        path[done + 1] = path[done] - gain
        done += 1
        _turn(rows, repeats, most, first, left, group)
        if path[done] <= limits[1]:
            return done, _KL
        for j in range(put):
            if aside[j] != which or left[group] > 0:
                h = aside_of[j]
                last = edges[h] + filled[h]
                held[last], keys[last] = aside[j], sums[aside[j]]
                if sized:
                    w = sizes[aside[j]] / soon
                    keys[last] -= w * (1.0 - 0.5 * w)
                filled[h] += 1
                _rise(keys, held, edges[h], filled[h] - 1)
    return done, _GO_ON


@numba.njit(cache=True)
def _turn(rows, repeats, most, first, left, group):  # pragma: no cover
    """The group's first tile was repeated: bring the one with the fewest repeats to the front, drop it when full."""
    start = first[group]
    if repeats[rows[start]] >= most[rows[start]]:
        left[group] -= 1
        rows[start], rows[start + left[group]] = rows[start + left[group]], rows[start]
    n, i = left[group], 0
    while True:
        least = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < n:
                a, b = rows[start + child], rows[start + least]
                if repeats[a] < repeats[b] or (repeats[a] == repeats[b] and a < b):
                    least = child
        if least == i:
            return
        rows[start + i], rows[start + least] = rows[start + least], rows[start + i]
        i = least


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
