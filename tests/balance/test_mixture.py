"""The convex optimum against scipy's solvers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from raremap.balance.mixture import solve_mixture

CASES = pytest.mark.parametrize(
    ("repeats", "rho"),
    [(None, 0.0), (2.0, 0.0), (1.2, 0.0), (None, 0.02), (None, 1.0), (2.0, 0.02), (3.0, 0.3)],
    ids=lambda v: str(v),
)


SIZES = pytest.mark.parametrize("uneven", [False, True], ids=["equal sizes", "unequal sizes"])


def problem(seed, n=24, k=4, concentration=3.0, uneven=False):
    """Class shares of tiles, or counts of tiles of which some have twenty times the labels of others."""
    rng = np.random.default_rng(seed)
    base = 0.4 ** np.arange(k)
    d = rng.dirichlet(concentration * base / base.sum(), n)
    return d * np.exp(rng.uniform(0, 3, (n, 1))) if uneven else d, np.full(k, 1 / k)


def objective(w, d, q, rho):
    p = w @ d
    p = p / p.sum()
    here = q > 0
    value = (q[here] * np.log(q[here] / p[here])).sum()
    some = w > 0
    return value + rho * (w[some] * np.log(w[some] * len(w))).sum()


def by_scipy(d, q, cap, rho):
    """The optimum by sequential quadratic programming."""
    n = len(d)
    here = q > 0
    d = d / d.sum(1).mean()
    size = d.sum(1)

    def value(w):
        p = np.maximum(w @ d, 1e-12)
        logs = np.log(np.maximum(w, 1e-15) * n)
        f = (q[here] * np.log(q[here] / p[here])).sum() + np.log(w @ size) + rho * (w * logs).sum()
        return f, size / (w @ size) - d @ np.where(here, q / p, 0) + rho * (logs + 1)

    w = np.full(n, 1 / n)
    for _ in range(3):
        # Where it ends a little above the optimum (with one thread, 1e-5), it begins again from there.
        found = minimize(
            value,
            w,
            jac=True,
            bounds=[(0, cap)] * n,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(n)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 2000},
        )
        w = np.clip(found.x, 0, cap)
    return objective(w / w.sum(), d, q, rho)


@CASES
@SIZES
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_that_of_scipy(seed, repeats, rho, uneven):
    d, q = problem(seed, uneven=uneven)
    cap = 1.0 if repeats is None else repeats / len(d)
    found = solve_mixture(d, q, cap, rho, gap=1e-7)
    best = by_scipy(d, q, cap, rho)
    assert found.objective == pytest.approx(objective(found.weights, d, q, rho), abs=1e-12)
    assert abs(found.objective - best) < 1e-6
    assert found.weights.sum() == pytest.approx(1, abs=1e-10)
    assert found.weights.max() <= cap + 1e-12


@CASES
@SIZES
def test_the_reported_gap_bounds_the_distance_to_the_optimum_at_every_step(repeats, rho, uneven):
    if rho and uneven:
        pytest.skip("with a penalty and unequal sizes the gap is no bound, and the docstring says so")
    d, q = problem(7, uneven=uneven)
    cap = 1.0 if repeats is None else repeats / len(d)
    best = by_scipy(d, q, cap, rho)
    for steps in (0, 1, 2, 5, 20, 100):
        found = solve_mixture(d, q, cap, rho, gap=0, iterations=steps)
        assert found.objective - best <= found.gap + 1e-8


@given(st.integers(0, 2**31), st.integers(2, 30), st.floats(1, 8), st.booleans())
@settings(max_examples=40)
def test_the_gap_is_that_of_a_linear_programme(seed, n, repeats, uneven):
    """The largest Σ v·gain / Σ v·size, by the substitution of Charnes and Cooper: y = v / Σ v·size, z = 1 / Σ v·size."""
    d, q = problem(seed, n, uneven=uneven)
    cap = min(1.0, repeats / n)
    found = solve_mixture(d, q, cap, gap=0, iterations=3)
    pooled = found.weights @ d
    gain, size = d @ (q / pooled), d.sum(1) / pooled.sum()
    best = linprog(
        -np.append(gain, 0),
        A_ub=np.column_stack([np.eye(n), np.full(n, -cap)]),
        b_ub=np.zeros(n),
        A_eq=np.array([np.append(size, 0), np.append(np.ones(n), -1)]),
        b_eq=[1, 0],
    )
    assert found.gap == pytest.approx(max(0, -best.fun - 1), abs=1e-7)


@CASES
@SIZES
def test_the_objective_falls_at_every_step(repeats, rho, uneven):
    d, q = problem(11, uneven=uneven)
    cap = 1.0 if repeats is None else repeats / len(d)
    values = [solve_mixture(d, q, cap, rho, gap=0, iterations=i).objective for i in range(40)]
    assert (np.diff(values) <= 1e-12).all()
    assert values[-1] < values[0]


@given(
    st.integers(0, 2**31),
    st.integers(2, 40),
    st.floats(1, 10),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.booleans(),
)
@settings(max_examples=60)
def test_weights_sum_to_one_and_keep_their_caps(seed, n, repeats, rho, uneven):
    rng = np.random.default_rng(seed)
    d, q = problem(seed, n, uneven=uneven)
    caps = rng.uniform(0.1, 1, n)
    caps *= repeats / caps.sum()
    found = solve_mixture(d, q, caps, rho, gap=1e-4, iterations=500)
    assert found.weights.sum() == pytest.approx(1, abs=1e-9)
    assert (found.weights <= caps * (1 + 1e-9)).all()
    assert (found.weights >= 0).all()


def test_a_balanced_census_gives_uniform_weights():
    d = np.array([[0.5, 0.3, 0.2], [0.3, 0.2, 0.5], [0.2, 0.5, 0.3]] * 5)
    for rho in (0.0, 0.1):
        found = solve_mixture(d, np.full(3, 1 / 3), 4 / 15, rho)
        assert found.weights == pytest.approx(np.full(15, 1 / 15))
        assert found.iterations == 0
        assert found.gap == pytest.approx(0, abs=1e-12)


def test_pure_tiles_reach_the_target():
    d = np.eye(3)[[0] * 12 + [1] * 5 + [2]]
    q = np.array([0.2, 0.3, 0.5])
    found = solve_mixture(d, q, 1.0, gap=1e-12)
    assert found.weights @ d == pytest.approx(q)
    assert found.objective == pytest.approx(0, abs=1e-12)


@SIZES
def test_a_large_penalty_changes_nothing(uneven):
    d, q = problem(3, uneven=uneven)
    for cap in (1.0, 2 / len(d)):
        found = solve_mixture(d, q, cap, rho=1e7)
        assert found.weights == pytest.approx(np.full(len(d), 1 / len(d)), rel=1e-5)


def test_a_penalty_trades_evenness_against_nearness():
    d, q = problem(3)
    near = [solve_mixture(d, q, 1.0, rho, gap=1e-7).weights for rho in (0.0, 0.01, 0.1, 1.0)]
    assert (np.diff([objective(w, d, q, 0) for w in near]) > 0).all()
    assert (np.diff([np.square(w).sum() for w in near]) < 0).all()


def test_the_tightest_cap_leaves_the_even_weights_and_a_tighter_one_none():
    d, q = problem(5)
    n = len(d)
    assert solve_mixture(d, q, 1 / n).weights == pytest.approx(np.full(n, 1 / n))
    assert solve_mixture(d, q, 1 / n, rho=0.1).weights == pytest.approx(np.full(n, 1 / n))
    with pytest.raises(ValueError, match=r"at most 0\.0375 on 24 tiles cannot sum to 1"):
        solve_mixture(d, q, 0.9 / n)


def test_a_class_that_nobody_asks_for_is_left_as_it_falls():
    d, _ = problem(9, k=3)
    q = np.array([0.0, 0.5, 0.5])
    found = solve_mixture(d, q, 3 / len(d), gap=1e-7)
    assert abs(found.objective - by_scipy(d, q, 3 / len(d), 0)) < 1e-6


def test_pixels_are_what_comes_near_to_the_target_where_few_are_labelled():
    """Two tiles of the rare class, one of them with a tenth of the labels; class shares alone would not tell."""
    x = np.array([[100.0, 0], [100, 0], [0, 10], [0, 100]])
    found = solve_mixture(x, np.full(2, 0.5), 1.0, gap=1e-10)
    p = found.weights @ x
    assert p / p.sum() == pytest.approx([0.5, 0.5], abs=1e-5)
    scaled = solve_mixture(7 * x, np.full(2, 0.5), 1.0, gap=1e-10)
    assert scaled.weights == pytest.approx(found.weights)


def test_weights_to_start_from_lead_to_the_same_optimum_in_fewer_steps():
    d, q = problem(13)
    cold = solve_mixture(d, q, 3 / len(d), 0.01, gap=1e-8)
    warm = solve_mixture(d, q, 3 / len(d), 0.01, gap=1e-8, start=cold.weights)
    assert warm.iterations < cold.iterations
    assert warm.objective == pytest.approx(cold.objective, abs=1e-7)


def test_the_same_numbers_come_out_again():
    d, q = problem(1)
    one, two = (solve_mixture(d, q, 2 / len(d), 0.01) for _ in range(2))
    assert one.weights.tolist() == two.weights.tolist()
