"""Trainings on labels that are shares of classes."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from tests import project, soft
from tests.rasters import write

from raremap.config import Experiment
from raremap.errors import ConfigError
from raremap.labels import IGNORE
from raremap.learn import checkpoint
from raremap.measure.objective import truth_of
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import run

FAST = (
    "train.steps=6",
    "train.batch_size=2",
    "train.crop=24",
    "train.precision=float32",
    "train.monitor_every=3",
)
FRACTIONS = "scenes.rescale={kind: fractions}"


def experiment(folder, out, *overrides, **sections) -> Experiment:
    labels = {"classes": {1: "land", 2: "water", 5: "slide"}, "ignore": [0]}
    return project.experiment(
        folder,
        out,
        *FAST,
        *overrides,
        labels=labels,
        split={"block_px": 32, "folds": 3, "monitor": 0.2, "calibration": 0.2},
        **sections,
    )


def train(folder, out, *overrides, **sections):
    e = experiment(folder, out, *overrides, **sections)
    return run(catalog_of(e, quiet=True), None, e, False, quiet=True)


def ends(out):
    return checkpoint.load(out / "checkpoints/last.pt")["task"]


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """Fine labels whose cells are each of one class, and the same at 10 m in `hard/`."""
    folder = tmp_path_factory.mktemp("pure")
    for i, labels in enumerate(soft.make(folder, 6, size=64, coarsened=True)):
        write(folder / f"hard/s{i}.tif", labels[::5, ::5], (4e5 + 5000.0 * i, 4.6e6))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    soft.make(folder, 6, size=64)
    return folder


@pytest.mark.parametrize(
    "how",
    [
        ("loss=ce",),
        ("loss={kind: ce, weights: ins}", "balance={kind: mixture}"),
        ("loss={focal: 1, tversky: 1, log_cosh: 0.5}",),
    ],
    ids=["ce", "weighted", "terms"],
)
def test_fractions_of_pure_cells_train_as_the_mask_does(pure, tmp_path, how):
    # Few steps: sums in another order are rounded otherwise, and every step multiplies what that made.
    how = (*how, "optimizer={kind: sgd, lr: 0.01}", "train.steps=3")
    train(pure, tmp_path / "soft", *how, FRACTIONS)
    train(pure, tmp_path / "hard", *how, "scenes.masks=hard/*.tif")
    a, b = ends(tmp_path / "soft"), ends(tmp_path / "hard")
    for key, value in a["network"].items():
        assert torch.allclose(value.double(), b["network"][key].double(), atol=1e-5, rtol=1e-5), key
    # Steps of 1/200 and pixels: the same shares.
    assert torch.equal(a["delivered"], 200 * b["delivered"])
    logs = [
        list(csv.DictReader((tmp_path / n / "metrics.csv").read_text().splitlines()))
        for n in ("soft", "hard")
    ]
    for one, other in zip(*logs, strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-6)
        assert one["macro_f1"] == other["macro_f1"]


def test_fractions_of_mixed_cells_do_not_and_deliver_areas(mixed, tmp_path):
    made = train(mixed, tmp_path / "soft", FRACTIONS)
    given = ends(tmp_path / "soft")["delivered"].double() / 200
    assert float(given.sum()) == pytest.approx(round(float(given.sum())), abs=0.05)
    assert float(given[2]) != round(float(given[2]))
    assert sum(made.bundle.prior) == pytest.approx(1)
    train(mixed, tmp_path / "area", "scenes.rescale={kind: area}")
    assert not torch.equal(ends(tmp_path / "soft")["delivered"], 200 * ends(tmp_path / "area")["delivered"])


def test_composites_heads_the_teacher_and_the_outer_loop_take_them(mixed, tmp_path):
    made = train(
        mixed,
        tmp_path / "all",
        FRACTIONS,
        "balance={kind: diao, target: {gamma: 1}, copy_paste: {classes: [slide], min_area: 2, placement: random}}",
        "loss={ce: 1, dice: 1, tau: 1}",
        "model.head=multiresolution",
        "pseudo={threshold: 0.4, floor: 0.3, start: 2}",
        "outer={every: 2, warmup: 0, classes: both, crops: 4, shrink: 0}",
    )
    assert np.isfinite(made.monitor_macro_f1)
    rows = list(csv.DictReader((tmp_path / "all/metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["dice"]) > 0
    assert {float(rows[-1][f"factor/{n}"]) for n in soft.SCHEME.names} != {1.0}


@pytest.mark.parametrize("loss", ["lovasz", "{ce: 1, boundary: 1}", "{kind: hialf}", "seesaw"])
def test_terms_without_a_meaning_on_fractions_are_refused_by_the_experiment(tmp_path, loss):
    with pytest.raises(
        ConfigError, match=r"labels are class fractions, on which the loss's .* have no meaning; take ce"
    ) as caught:
        experiment(tmp_path, tmp_path / "run", FRACTIONS, f"loss={loss}")
    assert "\n" not in str(caught.value)
    assert experiment(tmp_path, tmp_path / "run", FRACTIONS, "loss={ce: 1, lovasz: 0}")


def test_points_on_fractions_are_refused_by_the_experiment(tmp_path):
    with pytest.raises(ConfigError, match="a point is of one class"):
        experiment(tmp_path, tmp_path / "run", FRACTIONS, "points={kind: per_object, count: 2}")


def test_fraction_rasters_that_only_the_catalog_knows_of_are_refused_before_training(mixed, tmp_path):
    parts = np.zeros((3, 64, 64), np.float32)
    parts[0] = 1
    for i in range(6):
        write(mixed / f"f/s{i}.tif", parts, (4e5 + 5000.0 * i, 4.6e6), names=("land", "water", "slide"))
    with pytest.raises(ConfigError, match="the loss's lovasz have no meaning"):
        train(mixed, tmp_path / "run", "scenes.masks=f/*.tif", "loss=lovasz")
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_truth_of_a_batch():
    mask = torch.tensor([[[0, IGNORE, IGNORE]]])
    fractions = torch.tensor([[[[0.7, 0, 0]], [[0.3, 0, 0]]]])
    assert truth_of({"mask": mask}) is mask
    batch = {"mask": mask, "fractions": fractions}
    assert truth_of(batch) is fractions
    filled = torch.tensor([[[0, 1, IGNORE]]])
    found = truth_of(batch, filled)
    assert pytest.approx(torch.tensor([[0.7, 0.3], [0, 1], [0, 0]])) == found[0, :, 0].T
    # Before the teacher speaks nothing is there for terms of regions, as with a mask.
    assert not truth_of(batch, torch.full_like(mask, IGNORE)).any()
    assert truth_of({"mask": mask}, filled) is filled


def test_soft_cross_entropy_pulls_as_the_closed_form_says():
    """dL/dz = w(f)·softmax − w·f over the sum of weights; two classes, by hand."""
    from raremap.measure.losses import CrossEntropy

    z = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    share = torch.tensor([0.25, 0.8, 0.0], dtype=torch.float64)
    logits = torch.stack([z, torch.zeros(3)])[None, :, None].double().requires_grad_()
    fractions = torch.stack([share, 1 - share])[None, :, None]
    objective = CrossEntropy(tau=None).build(2)
    objective(logits, fractions)["ce"].backward()
    pull = (torch.sigmoid(z) - share) / 3
    assert logits.grad is not None
    assert torch.allclose(logits.grad[0, 0, 0], pull, atol=1e-7)
    assert torch.allclose(logits.grad[0, 1, 0], -pull, atol=1e-7)


def test_with_a_prior_soft_cross_entropy_settles_on_the_natural_share():
    """Where the stream shows a class three times too often the plain scores learn its natural share all the same."""
    from raremap.measure.losses import CrossEntropy

    natural, stream = np.array([0.9, 0.1]), torch.tensor([0.7, 0.3])
    objective = CrossEntropy(tau=0.0).build(2, natural=natural)
    logits = torch.log(torch.tensor(natural, dtype=torch.float32)).view(1, 2, 1, 1).requires_grad_()
    # What a cell of that place holds on average, as the stream delivers it.
    fractions = stream.view(1, 2, 1, 1)
    objective(logits, fractions, stream)["ce"].backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
    CrossEntropy(tau=None).build(2)(logits, fractions)["ce"].backward()
    assert logits.grad.flatten().tolist() == pytest.approx([0.2, -0.2], abs=1e-6)
