"""What every term promises: ignored pixels, empty batches, extremes, half precision, one softmax, pooling."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.measure.terms.reference import TERMS, batch

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.measure import terms as t

ALL = {name: term for name, (term, _) in TERMS.items()} | {
    f"{name} {classes}": term.model_copy(update={"classes": classes})
    for name, (term, _) in TERMS.items()
    if "classes" in type(term).model_fields
    for classes in ("all", "cover")
}
EACH = pytest.mark.parametrize("term", ALL.values(), ids=ALL)


def gradient(term, logits, mask, **maps):
    z = logits.clone().requires_grad_()
    value = term(z, mask, **maps)
    return value.detach(), torch.autograd.grad(value, z)[0]


@EACH
@given(seed=st.integers(0, 40))
def test_ignored_pixels_change_nothing(term, seed) -> None:
    logits, mask, maps = batch(seed, ignored=0.4)
    ignored = mask == IGNORE
    other = torch.where(ignored.unsqueeze(1), torch.randn_like(logits) * 50, logits)
    strange = {
        name: torch.where(ignored.unsqueeze(1) if m.ndim == 4 else ignored, 1e4, m)
        for name, m in maps.items()
    }
    value, grad = gradient(term, logits, mask, **maps)
    same, grad_same = gradient(term, other, mask, **strange)
    assert torch.equal(value, same)
    assert torch.equal(grad, grad_same)
    assert not grad.movedim(1, -1)[ignored].any()


@EACH
def test_a_batch_without_labels_costs_nothing_and_has_a_gradient_of_zero(term) -> None:
    logits, mask, maps = batch()
    value, grad = gradient(term, logits, torch.full_like(mask, IGNORE), **maps)
    assert value == 0
    assert not grad.any()
    weighted = term(logits, torch.full_like(mask, IGNORE), torch.ones(4), **maps)
    assert weighted == 0


@EACH
def test_one_class_alone_is_finite(term) -> None:
    logits, mask, maps = batch()
    for c in (0, 3):
        value, grad = gradient(term, logits, torch.full_like(mask, c), **maps)
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


def extreme(mask, shift):
    return F.one_hot((mask + shift) % 4, 4).movedim(-1, 1) * 60.0


@EACH
def test_perfect_is_zero_worst_is_large_and_both_have_finite_gradients(term) -> None:
    _, mask, maps = batch(ignored=0)
    if term.kind == "boundary":  # its zero is no optimum: 1 outside, −1 inside
        maps["distance"] = 1 - 2.0 * F.one_hot(mask, 4).movedim(-1, 1)
    best, best_slope = gradient(term, extreme(mask, 0), mask, **maps)
    worst, worst_slope = gradient(term, extreme(mask, 1), mask, **maps)
    assert torch.isfinite(best_slope).all()
    assert torch.isfinite(worst_slope).all()
    if term.kind == "boundary":
        assert float(best) == pytest.approx(-0.25, abs=1e-6)
        assert float(worst) == pytest.approx(0.25, abs=1e-6)
    else:
        assert float(best) == pytest.approx(0, abs=1e-6)
        assert float(worst) > (0.4 if term.kind == "log_cosh_dice" else 0.8)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(term, dtype) -> None:
    logits, mask, maps = batch()
    value, grad = gradient(term, logits.to(dtype).float(), mask, **maps)
    half, half_grad = gradient(term, logits.to(dtype), mask, **{n: m.to(dtype) for n, m in maps.items()})
    assert half.dtype == torch.float32
    assert half_grad.dtype == dtype
    assert float(half) == pytest.approx(float(value), rel=5e-3, abs=1e-3)
    assert torch.allclose(half_grad.float(), grad, rtol=0.05, atol=2e-3)


@EACH
def test_autocast_changes_no_number(term) -> None:
    logits, mask, maps = batch(size=(2, 40, 30))
    value, grad = gradient(term, logits, mask, **maps)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_grad = gradient(term, logits, mask, **maps)
    assert torch.equal(value, cast)
    assert torch.equal(grad, cast_grad)


@EACH
def test_sums_are_over_the_batch_and_not_by_image(term) -> None:
    """Two images beside each other are the same as one of twice the width."""
    logits, mask, maps = batch(size=(2, 8, 5))
    wide = [torch.cat(list(x), -1)[None] for x in (logits, mask)]
    value = term(*wide, **{n: torch.cat(list(m), -1)[None] for n, m in maps.items()})
    assert float(value) == pytest.approx(float(term(logits, mask, **maps)), rel=1e-5)


@EACH
def test_memory_format_and_smaller_integers_are_fine(term) -> None:
    logits, mask, maps = batch()
    last = logits.to(memory_format=torch.channels_last)
    value, grad = gradient(term, last, mask.to(torch.uint8), **maps)
    expected, expected_grad = gradient(term, logits, mask, **maps)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert torch.allclose(grad, expected_grad, atol=1e-7)


@pytest.mark.parametrize("shared", [False, True])
def test_terms_share_one_softmax(monkeypatch, shared) -> None:
    logits, mask, maps = batch()
    calls = []
    for name in ("softmax", "log_softmax"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=original: calls.append(1) or f(*a))
    view = t.View(logits, mask, shared=shared, **maps)
    found = {name: float(term.of(view)) for name, term in ALL.items() if term.kind != "seesaw"}
    assert len(calls) == 1
    for name, value in found.items():
        assert value == pytest.approx(float(ALL[name](logits, mask, **maps)), rel=1e-5), name


PAIRS = [
    ("ce", "dice"),
    ("focal", "boundary"),
    ("dice", "focal"),
    ("unified_focal", "poly"),
    ("iou", "center_ce"),
]


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
@pytest.mark.parametrize("worth", [False, True])
def test_what_is_made_together_has_the_gradients_of_each_alone_and_those_gradients(names, worth) -> None:
    logits, mask, maps = batch(3, dtype=torch.float64)
    g = torch.Generator().manual_seed(4)
    along = torch.randn(logits.shape, generator=g, dtype=torch.float64)
    extra = {"worth": 3 * torch.rand(mask.shape, generator=g, dtype=torch.float64)} if worth else {}
    found = []
    for shared in (False, True):
        z = logits.clone().requires_grad_()
        if shared:
            view = t.View(z, mask, shared=True, **maps, **extra)
            loss = sum(TERMS[n][0].of(view) for n in names)
        else:
            loss = sum(TERMS[n][0].of(t.View(z, mask, **maps, **extra)) for n in names)
        (plain,) = torch.autograd.grad(loss, z, retain_graph=True)
        (grad,) = torch.autograd.grad(loss, z, create_graph=True)
        (second,) = torch.autograd.grad((grad * along).sum(), z)
        found.append((loss.detach(), plain, grad.detach(), second))
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_another_ignore_value_is_taken() -> None:
    logits, mask, maps = batch()
    other = torch.where(mask == IGNORE, -1, mask)
    for term in ALL.values():
        assert torch.equal(term(logits, other, ignore=-1, **maps), term(logits, mask, **maps))


def test_shapes_that_do_not_fit_are_told() -> None:
    logits, mask, _ = batch()
    with pytest.raises(TrainingError, match=r"logits are \(2, 4, 9, 7\) and the truth is \(2, 9, 6\)"):
        t.Dice()(logits, mask[..., :6])
    with pytest.raises(TrainingError, match=r"torch.float32\); expected"):
        t.CrossEntropy()(logits, mask.float())
    with pytest.raises(TrainingError, match=r"'boundary' needs the map 'distance'"):
        t.Boundary()(logits, mask)
    with pytest.raises(
        TrainingError, match=r"logits are \(2, 1, 9, 7\), of one class, .* two classes are K = 2"
    ):
        t.Dice()(logits[:, :1], mask.clamp(max=0))
    with pytest.raises(TrainingError, match="a map for each of its classes"):
        t.Boundary(only=(1,))(logits, mask, distance=torch.zeros(2, 4, 9, 7))


def test_weights_must_come_with_the_call_unless_they_are_explicit() -> None:
    logits, mask, _ = batch()
    with pytest.raises(TrainingError, match="'focal' has weights 'ins' and was called without them"):
        t.Focal(weights="ins")(logits, mask)
    with pytest.raises(TrainingError, match="'dice' has 2 weights for 4 classes"):
        t.Dice(weights=(1, 2))(logits, mask)
    weight = (0.5, 1, 1, 3)
    explicit, given = t.Dice(weights=weight)(logits, mask), t.Dice()(logits, mask, torch.tensor(weight))
    assert torch.equal(explicit, given)


def test_terms_are_chosen_by_kind_and_import_no_torch() -> None:
    adapter = TypeAdapter(t.Terms)
    for term in ALL.values():
        assert adapter.validate_python(term.model_dump()) == term
    with pytest.raises(ValidationError, match="alhpa"):
        adapter.validate_python({"kind": "tversky", "alhpa": 0.3})
    code = "import sys, raremap.measure.terms, raremap.measure.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
