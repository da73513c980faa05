"""Solvers of the stream: class counts of tiles and a target in, how often each tile is drawn out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from raremap.balance.greedy import solve_greedy
from raremap.balance.mixture import fill, solve_mixture
from raremap.balance.options import (
    BalanceOptions,
    Copies,
    Diao,
    InverseFrequency,
    Mixture,
    RareClass,
    RepeatFactor,
    Uniform,
)


@dataclass(frozen=True)
class Draws:
    """How often each row is drawn: `repeats` `[N]`, 1 for once a pass; what the solver has to say in one line;
    and KL(q ‖ P) after each repeat where they were chosen one by one."""

    repeats: np.ndarray
    note: str
    path: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def weights(self) -> np.ndarray:
        """Shares of the draws, summing to 1."""
        return self.repeats / self.repeats.sum()


def solve(
    options: BalanceOptions,
    counts: np.ndarray,
    target: np.ndarray,
    rare: np.ndarray,
    composite: np.ndarray | None = None,
) -> Draws:
    """How often each row is drawn.

    `counts` `[N, K]` are labelled pixels (each row has some), `target` q `[K]`, `rare` bool `[K]`,
    `composite` bool `[N]`: rows that are no tiles. Solvers without a target look at tiles alone and draw no
    composite, "diao" draws those that it chooses, and "mixture" takes them as further tiles unless the tiles by
    themselves come as near to the target.
    """
    composite = np.zeros(len(counts), bool) if composite is None else composite
    if isinstance(options, Diao):
        return _diao(options, counts, target, composite)
    if isinstance(options, Mixture):
        return _mixture(options, counts, target, composite)
    tiles = counts[~composite]
    match options:
        case Uniform():
            draws = Draws(np.ones(len(tiles)), "every tile once")
        case RepeatFactor():
            draws = Draws(_repeat_factors(tiles, options.threshold), "largest factor of a tile's classes")
        case RareClass():
            draws = _rare_class(options, tiles)
        case Copies():
            chosen = (_densities(tiles)[:, rare] > options.share).any(1)
            repeats = np.where(chosen, 1.0 + options.copies, 1.0)
            draws = Draws(repeats, f"{int(chosen.sum())} tiles copied {options.copies} times")
        case InverseFrequency():
            draws = _inverse_frequency(options, tiles)
    repeats = np.zeros(len(counts))
    repeats[~composite] = draws.repeats
    return Draws(repeats, draws.note)


def _mixture(options: Mixture, counts: np.ndarray, target: np.ndarray, composite: np.ndarray) -> Draws:
    tiles = ~composite
    number = int(tiles.sum())
    cap = _most(options, composite) / number
    weights = np.zeros(len(counts))
    solved = solve_mixture(counts[tiles], target, cap[tiles], options.rho, options.gap)
    weights[tiles] = solved.weights
    if composite.any():
        further = solve_mixture(counts, target, cap, options.rho, options.gap)
        if further.objective < solved.objective - options.gap:
            solved, weights = further, further.weights
    note = f"{solved.iterations} steps, at most {solved.gap:.2g} nats from the optimum"
    return Draws(weights * number, note)


def _diao(options: Diao, counts: np.ndarray, target: np.ndarray, composite: np.ndarray) -> Draws:
    tiles = len(counts) - int(composite.sum())
    solved = solve_greedy(
        counts,
        target,
        most=_most(options, composite).astype(np.int64),
        budget=round(options.budget * tiles),
        first=(~composite).astype(np.int64),
        score=options.score,
        min_gain=options.min_gain,
        kl=options.kl,
        min_effective=options.min_effective * tiles,
    )
    pasted = int(solved.repeats[composite].sum())
    note = f"{len(solved.chosen)} repeats" + (f", {pasted} of them composites" if composite.any() else "")
    return Draws(solved.repeats.astype(np.float64), f"{note}; {solved.stopped}", solved.kl)


def _most(options: Diao | Mixture, composite: np.ndarray) -> np.ndarray:
    """How often each row may be drawn in a pass over the tiles."""
    pasted = options.copy_paste.repeats if options.copy_paste else 0
    return np.where(composite, float(pasted), options.max_repeats)


def _repeat_factors(counts: np.ndarray, threshold: float) -> np.ndarray:
    """max over a tile's classes of max(1, √(t/f)); f the share of tiles that hold the class (Gupta et al. 2019)."""
    held = counts > 0
    share = held.mean(0)
    factor = np.sqrt(threshold / np.where(share > 0, share, np.inf))
    return np.maximum(1.0, (held * factor).max(1))


def _rare_class(options: RareClass, counts: np.ndarray) -> Draws:
    """A class by softmax((1 − f)/T), f its share of the pixels, then a tile with enough of it (Hoyer et al. 2022)."""
    share = counts.sum(0) / counts.sum()
    logits = np.where(share > 0, (1 - share) / options.temperature, -np.inf)
    chance = np.exp(logits - logits.max())
    chance /= chance.sum()
    weights = np.zeros(len(counts))
    for c in np.flatnonzero(chance):
        enough = counts[:, c] >= options.min_pixels
        enough = enough if enough.any() else counts[:, c] > 0
        weights[enough] += chance[c] / enough.sum()
    return Draws(weights * len(counts), f"{int((weights > 0).sum())} tiles have a class with enough pixels")


def _inverse_frequency(options: InverseFrequency, counts: np.ndarray) -> Draws:
    natural = counts.sum(0) / counts.sum()
    worth = np.where(natural > 0, np.where(natural > 0, natural, 1.0) ** -options.power, 0.0)
    weights = _densities(counts) @ worth
    weights = fill(weights, np.full(len(counts), options.max_repeats / len(counts)))
    return Draws(
        weights * len(counts), f"largest weight {weights.max() * len(counts):.1f} times the natural one"
    )


def _densities(counts: np.ndarray) -> np.ndarray:
    """Each tile's own class shares."""
    return counts / counts.sum(1, keepdims=True)
