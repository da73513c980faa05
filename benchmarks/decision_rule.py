"""How strict the rule should be that keeps a fitted bias: what it lets pass where nothing is to gain, and what it gives
away where something is.

    python benchmarks/decision_rule.py [--quick] [--repeats 60]

Honest pixels (their class is drawn by their probabilities) have nothing to gain. Skewed ones have a common class
that is pulled up by so much on the logit, and places that differ in their shares, their ease and their light. A bias
is fitted on 3,000 pixels of a few places and judged on others: points of macro-F1, 0 where the rule leaves it out.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from scipy.stats import t

from raremap.measure import scores
from raremap.measure.fitting import best_bias, fit_decision
from raremap.measure.options import DecisionOptions

RULES = {"one standard error": None, "Student 84 %": 0.8413, "Student 90 %": 0.9, "Student 95 %": 0.95}
SHARES = ((0.9, 0.1), (0.85, 0.1, 0.05), (0.9, 0.07, 0.03))
PULLS = (0.0, 1.0, 2.5)
SPREAD, SKILL = 0.5, 2.0
OPTIONS = DecisionOptions(shrink=0)

Pixels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def honest(n: int, places: int, seed: int, k: int) -> Pixels:
    rng = np.random.default_rng(seed)
    scores_ = rng.normal(0, 1.5, (n, k))
    probs = np.exp(scores_) / np.exp(scores_).sum(1, keepdims=True)
    truth = (probs.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=k - 1)
    return probs, truth, rng.integers(0, places, n), np.ones(n)


def skewed(n: int, places: int, seed: int, shares: tuple[float, ...], pull: float) -> Pixels:
    rng = np.random.default_rng(seed)
    k = len(shares)
    place = rng.integers(0, places, n)
    own = np.array([rng.dirichlet(np.array(shares) * 20) for _ in range(places)])
    truth = np.array([rng.choice(k, p=own[p]) for p in place])
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), truth] += (SKILL + SPREAD * rng.normal(size=places))[place]
    logits[:, 0] += pull
    logits += SPREAD * rng.normal(size=(places, k))[place]
    probs = np.exp(logits)
    return probs / probs.sum(1, keepdims=True), truth, place, np.ones(n)


def macro_f1(truth: np.ndarray, told: np.ndarray, k: int) -> float:
    matrix = np.bincount(truth * k + told, minlength=k * k).reshape(k, k)
    return float(scores.headline("macro_f1", matrix, np.zeros(k, bool)))


def metric(matrices: np.ndarray) -> np.ndarray:
    return scores.headline("macro_f1", matrices, np.zeros(matrices.shape[-1], bool))


def measure(case: str, draw, k: int, places: int, tested: int, repeats: int) -> list[dict]:
    """A row a rule; `draw(pixels, places, seed)` makes pixels, `tested` of them to judge on."""
    gains: dict[str, list[float]] = {rule: [] for rule in RULES}
    kept = dict.fromkeys(RULES, 0)
    for seed in range(repeats):
        probs, truth, place, weight = draw(3000, places, seed)
        fitted = fit_decision(probs, truth, place, weight, OPTIONS)
        bias = best_bias(np.log(probs) / fitted.temperature, truth, weight, metric)
        other, known = draw(tested, 40, seed + 10_000)[:2]
        logs = np.log(other)
        after = macro_f1(known, (logs / fitted.temperature + bias).argmax(1), k)
        gain = after - macro_f1(known, logs.argmax(1), k)
        for rule, level in RULES.items():
            times = 1.0 if level is None else t.ppf(level, places - 1)
            passes = fitted.gain_se is not None and fitted.gain > times * fitted.gain_se
            kept[rule] += passes
            gains[rule].append(100 * gain * passes)
    return [
        {
            "case": case,
            "places": places,
            "rule": r,
            "kept": kept[r] / repeats,
            "gain": float(np.mean(gains[r])),
        }
        for r in RULES
    ]


def table(rows: list[dict]) -> str:
    lines = [f"| case | places | {' | '.join(RULES)} |", "|---|---|" + "---|" * len(RULES)]
    for i in range(0, len(rows), len(RULES)):
        some = rows[i : i + len(RULES)]
        cells = [f"{r['kept']:.0%}, {r['gain']:+.2f}" for r in some]
        lines.append(f"| {some[0]['case']} | {some[0]['places']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: one repeat")
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    repeats = 1 if args.quick else args.repeats
    started = time.perf_counter()
    rows: list[dict] = []
    for k, places in ((3, 6), (2, 6), (3, 12)):
        rows += measure(
            f"honest, {k} classes", lambda n, p, s, k=k: honest(n, p, s, k), k, places, 20_000, repeats
        )
    for places in (4, 6, 12):
        for shares in SHARES:
            for pull in PULLS:
                case = f"shares {', '.join(f'{s:g}' for s in shares)}, pull {pull:g}"
                rows += measure(
                    case,
                    lambda n, p, s, shares=shares, pull=pull: skewed(n, p, s, shares, pull),
                    len(shares),
                    places,
                    12_000,
                    repeats,
                )
    seconds = time.perf_counter() - started
    print(
        f"{repeats} repeats, {seconds:.0f} s. Share of biases kept, mean gain in points:\n\n{table(rows)}\n"
    )
    print(json.dumps({"repeats": repeats, "seconds": seconds, "rows": rows}))


if __name__ == "__main__":
    main()
