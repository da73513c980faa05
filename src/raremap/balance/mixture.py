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
    densities: np.ndarray,
    target: np.ndarray,
    cap: np.ndarray | float,
    rho: float = 0.0,
    gap: float = 1e-3,
    start: np.ndarray | None = None,
    iterations: int = _MOST_STEPS,
) -> Solution:
    """Minimise `KL(q ‖ Σ wᵢdᵢ) + rho · KL(w ‖ u)` over weights w that sum to 1, each at most its cap.

    `densities` `[N, K]` are class shares of tiles (rows that sum to 1), `target` q `[K]` is 0 for classes
    that no tile holds, u is 1/N, `cap` a number or `[N]`, `start` feasible weights to start from.

    Expectation-maximisation for mixture proportions (Dempster, Laird & Rubin 1977; `wᵢ ← wᵢ Σ q_c dᵢc/P_c`)
    with its M-step solved under the caps and the penalty; the objective falls at every step. It stops when
    the Frank-Wolfe gap, an upper bound of the distance to the optimum, is at most `gap`.
    Raises `ValueError` where the caps leave no room.
    """
    d = np.ascontiguousarray(densities)
    n = len(d)
    caps = np.broadcast_to(np.asarray(cap, np.float64), (n,)).copy()
    if caps.sum() < 1 - 1e-9:
        raise ValueError(f"weights of at most {caps.max():.3g} on {n} tiles cannot sum to 1")
    w = np.full(n, 1 / n) if start is None else np.asarray(start, np.float64).copy()
    w = _fill(np.maximum(w, 1e-300), caps)
    share, scored, mu = np.zeros(len(target)), np.zeros(n), 0.0
    left, value, step = np.inf, np.inf, 0
    for step in range(iterations + 1):
        _mix(d, w, share)
        # What no weighted tile holds cannot be reached by multiplying; it is no part of the problem then.
        ratio = np.divide(target, share, out=np.zeros(len(target)), where=share > 0)
        _score(d, ratio, scored)
        if step % _CHECK_EVERY == 0 or step == iterations:
            here = (target > 0) & (share > 0)
            value = float((target[here] * np.log(target[here] / share[here])).sum())
            slope = scored
            if rho:
                logs = np.log(np.maximum(w * n, 1e-300))
                value += rho * float((w * logs).sum())
                slope = scored - rho * (logs + 1)
            left = _best(slope, caps) - float((slope * w).sum())
            if left <= gap:
                break
        if step == iterations:
            break
        if rho:
            mu = _penalised(w * scored, caps, rho, w, mu)
        else:
            w = _fill(w * scored, caps)
    return Solution(w, value, max(0.0, left), step)


def _best(slope: np.ndarray, caps: np.ndarray) -> float:
    """The largest Σ v·slope over weights v that sum to 1 and keep their caps."""
    most = int(min(len(slope), np.ceil(1 / caps.min()) + 1)) if caps.min() > 0 else len(slope)
    top = np.argpartition(slope, len(slope) - most)[len(slope) - most :]
    top = top[np.argsort(-slope[top], kind="stable")]
    room = np.minimum(np.cumsum(caps[top]), 1.0)
    return float((slope[top] * np.diff(room, prepend=0.0)).sum())


@numba.njit(cache=True)
def _mix(d, w, share):  # pragma: no cover
    share[:] = 0.0
    for i in range(len(w)):
        for c in range(len(share)):
            share[c] += w[i] * d[i, c]


@numba.njit(cache=True)
def _score(d, ratio, scored):  # pragma: no cover
    for i in range(len(scored)):
        total = 0.0
        for c in range(len(ratio)):
            total += d[i, c] * ratio[c]
        scored[i] = total


@numba.njit(cache=True)
def _fill(a, caps):  # pragma: no cover
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
def _penalised(a, caps, rho, w, mu):  # pragma: no cover
    """The M-step with a penalty: w solves `a/w = ρ·log(n·w) + μ`, capped, with the μ that makes it sum to 1.

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
                step = (rho * y + mu - part) / (rho + part)
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
