"""The convex optimum of the stream: tile weights whose mixture comes nearest to the target."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

_CHECK_EVERY = 10
_MOST_STEPS = 100_000


@dataclass(frozen=True)
class Solution:
    """Weights `[N]` that sum to 1, the value of what is minimised (nats), and how far from the optimum at most."""

    weights: np.ndarray
    objective: float
    gap: float
    iterations: int


def solve_mixture(
    counts: np.ndarray,
    target: np.ndarray,
    cap: np.ndarray | float,
    rho: float = 0.0,
    gap: float = 1e-3,
    start: np.ndarray | None = None,
    iterations: int = _MOST_STEPS,
) -> Solution:
    """Minimise `KL(q ‖ P) + rho · KL(w ‖ u)`, `P ∝ Σ wᵢxᵢ`, over weights w that sum to 1, each at most its cap.

    `counts` `[N, K]` are labelled pixels x of tiles (each has some; where all have equally many, P is Σ wᵢdᵢ),
    `target` q `[K]` is 0 for classes that no tile holds, u is 1/N, `cap` a number or `[N]`, `start` feasible
    weights to start from.

    Expectation-maximisation for mixture proportions (Dempster, Laird & Rubin 1977; `wᵢ ← wᵢ Σ q_c dᵢc/P_c`)
    with its M-step solved under the caps and the penalty. Where tiles are labelled unequally, log Σ wᵢtᵢ (t
    their labelled pixels) is bounded by its tangent. The objective falls at every step. It stops when the
    Frank-Wolfe gap is at most `gap`. That is an upper bound of the distance to the optimum: the problem is
    convex in P's parts wᵢtᵢ/Σwt. Only with a penalty and unequal sizes together it is none, but still 0 where
    no change helps. Raises `ValueError` where the caps leave no room.
    """
    n = len(counts)
    size = counts.sum(1)
    even = bool(np.ptp(size) <= 1e-9 * size.max())
    x = np.ascontiguousarray(counts / (size[:, None] if even else size.mean()))
    size = np.ones(n) if even else size / size.mean()
    caps = np.broadcast_to(np.asarray(cap, np.float64), (n,)).copy()
    if caps.sum() < 1 - 1e-9:
        raise ValueError(f"weights of at most {caps.max():.3g} on {n} tiles cannot sum to 1")
    w = np.full(n, 1 / n) if start is None else np.asarray(start, np.float64).copy()
    w = fill(np.maximum(w, 1e-300), caps)
    pooled, scored, mu, whole = np.zeros(len(target)), np.zeros(n), 0.0, np.array([0, n])
    left, value, step = np.inf, np.inf, 0
    for step in range(iterations + 1):
        _mix(x, w, pooled)
        total = pooled.sum()
        # What no weighted tile holds cannot be reached by multiplying; it is no part of the problem then.
        here = (target > 0) & (pooled > 0)
        _score(x, np.divide(target, pooled, out=np.zeros(len(target)), where=here), scored)
        cost = size / total
        if step % _CHECK_EVERY == 0 or step == iterations:
            value = float((target[here] * np.log(target[here] / (pooled[here] / total))).sum())
            if rho:
                logs = np.log(np.maximum(w * n, 1e-300))
                value += rho * float((w * logs).sum())
                slope = scored - cost - rho * (logs + 1)
                left = float((_best(slope, caps) * slope).sum() - (slope * w).sum())
            else:
                left = _ratio(scored, cost, caps, even) - 1.0
            if left <= gap:
                break
        if step == iterations:
            break
        if rho:
            mu = _penalised(w * scored, cost, caps, rho, w, mu)
        elif even:
            w = fill(w * scored, caps)
        else:
            lean(whole, w * scored, cost, caps, w)
    return Solution(w, value, max(0.0, left), step)


def _best(slope: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The weights v that sum to 1, keep their caps and have the largest Σ v·slope."""
    most = int(min(len(slope), np.ceil(1 / caps.min()) + 1)) if caps.min() > 0 else len(slope)
    top = np.argpartition(slope, len(slope) - most)[len(slope) - most :]
    top = top[np.argsort(-slope[top], kind="stable")]
    best = np.zeros(len(slope))
    best[top] = np.diff(np.minimum(np.cumsum(caps[top]), 1.0), prepend=0.0)
    return best


def _ratio(gain: np.ndarray, cost: np.ndarray, caps: np.ndarray, even: bool) -> float:
    """The largest Σ v·gain / Σ v·cost over weights v that sum to 1 and keep their caps (Dinkelbach 1967)."""
    ratio = 1.0
    for _ in range(100):
        v = _best(gain - ratio * cost, caps)
        better = float((v * gain).sum() / (v * cost).sum())
        if even or better <= ratio * (1 + 1e-14):
            return better
        ratio = better
    return ratio


@numba.njit(cache=True)
def lean(first, gain, cost, cap, weights):  # pragma: no cover
    """In each part the weights that minimise `Σ (cost w - gain log w)`, at most `cap`, summing to 1.

    Part i are the entries `first[i]` to `first[i + 1] - 1`; where nothing is gained its weights stay.
    """
    for part in range(len(first) - 1):
        start, stop = first[part], first[part + 1]
        total, full, base, top = 0.0, 0.0, np.inf, -np.inf
        for j in range(start, stop):
            if gain[j] > 0.0:
                total += gain[j]
                full += cap[j]
                base, top = min(base, cost[j]), max(top, cost[j])
        if total <= 0.0:
            continue
        # w = gain / (cost - base + t), or the cap where that is less or has no bound: the sum falls with t.
        low, high, t = base - top, total, total
        for _ in range(100):
            held, slope = 0.0, 0.0
            for j in range(start, stop):
                if gain[j] > 0.0:
                    under = cost[j] - base + t
                    if gain[j] >= cap[j] * under:
                        held += cap[j]
                    else:
                        held += gain[j] / under
                        slope += gain[j] / under**2
            if full <= 1.0 or abs(held - 1.0) < 1e-13:
                break
            if held > 1.0:
                low = t
            else:
                high = t
            t = t + (held - 1.0) / slope if slope > 0.0 else low
            if not low < t < high:
                t = (low + high) / 2
        held, room = 0.0, 0.0
        for j in range(start, stop):
            weights[j] = 0.0
            if gain[j] > 0.0:
                under = cost[j] - base + t
                most = full <= 1.0 or gain[j] >= cap[j] * under
                weights[j] = cap[j] if most else gain[j] / under
            held += weights[j]
            room += cap[j] - weights[j]
        for j in range(start, stop):
            if held > 1.0:
                weights[j] /= held
            elif room > 0.0:
                # Where all that help are full, the others share the rest.
                weights[j] += (cap[j] - weights[j]) * ((1.0 - held) / room)


@numba.njit(cache=True)
def _mix(x, w, pooled):  # pragma: no cover
    pooled[:] = 0.0
    for i in range(len(w)):
        for c in range(len(pooled)):
            pooled[c] += w[i] * x[i, c]


@numba.njit(cache=True)
def _score(x, ratio, scored):  # pragma: no cover
    for i in range(len(scored)):
        total = 0.0
        for c in range(len(ratio)):
            total += x[i, c] * ratio[c]
        scored[i] = total


@numba.njit(cache=True)
def fill(a, caps):  # pragma: no cover
    """`min(cap, a/μ)` with the μ that makes it sum to 1."""
    n = len(a)
    mu = a.sum()
    for _ in range(n + 1):
        held, free = 0.0, 0.0
        for i in range(n):
            if a[i] >= caps[i] * mu:
                held += caps[i]
            else:
                free += a[i]
        if held >= 1.0 - 1e-15 or free <= 0.0:
            break
        new = free / (1.0 - held)
        if new >= mu * (1.0 - 1e-15):
            break
        mu = new
    w = np.minimum(caps, a / mu)
    short = 1.0 - w.sum()
    if short > 1e-12:
        # Whatever has mass is full: the rest takes what is left, evenly.
        room = caps - w
        w = w + room * (short / room.sum())
    return w


@numba.njit(cache=True)
def _penalised(a, cost, caps, rho, w, mu):  # pragma: no cover
    """The M-step with a penalty: w solves `a/w = ρ·log(n·w) + cost + μ`, capped, with the μ that makes it sum to 1.

    Newton in log w (concave, so it converges from anywhere) inside Newton on μ; changes w, gives μ.
    """
    n = len(a)
    low, high = -np.inf, np.inf
    for _ in range(100):
        total, slope = 0.0, 0.0
        for i in range(n):
            y = np.log(max(w[i] * n, 1e-300))
            an = a[i] * n
            for _ in range(60):
                part = an * np.exp(-y)
                step = (rho * y + cost[i] + mu - part) / (rho + part)
                y -= step
                if abs(step) < 1e-7:  # the error is the square of the step
                    break
            x = np.exp(y) / n
            if x >= caps[i]:
                w[i] = caps[i]
                total += caps[i]
            else:
                w[i] = x
                total += x
                slope += x / (rho + an * np.exp(-y))
        if abs(total - 1.0) < 1e-13 or (slope == 0.0 and total <= 1.0):
            break
        if total > 1.0:
            low = mu
        else:
            high = mu
        step = (total - 1.0) / slope if slope > 0.0 else 1.0
        new = mu + step
        if not low < new < high:
            new = (low + high) / 2 if np.isfinite(low + high) else mu + np.sign(total - 1.0)
        if new == mu:
            break
        mu = new
    return mu
