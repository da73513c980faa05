"""`raremap models`: the table, and one line for what is not known or does not fit."""

from __future__ import annotations

import json

import pytest
from tests.command import raremap

from raremap.errors import ConfigError
from raremap.workflows import models
from raremap.workflows.models import list_models

SMALL = "fpn/tu-test_efficientnet"


def test_weights_and_multiply_adds_beside_a_count_by_hand(monkeypatch):
    from torch import nn

    from raremap.models.options import Smp

    # 3×3 from 5 bands to 4 channels, and 1×1 to 3 classes.
    net = lambda *_: nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 3, 1))  # noqa: E731
    monkeypatch.setattr(Smp, "build", net)
    (row,) = list_models(
        [SMALL], bands=5, classes=3, crop=16, batch=1, seconds=0, device="cpu", quiet=True
    ).rows
    assert row.parameters_m * 1e6 == pytest.approx(5 * 4 * 9 + 4 + 4 * 3 + 3)
    assert row.multiply_adds_g * 1e9 == pytest.approx(16 * 16 * (5 * 4 * 9 + 4 * 3))
    assert row.train_crops_s > 0
    assert row.predict_crops_s > 0


def test_one_crop_of_the_smallest_size_is_measured(capsys):
    words = ("models", "rau_net_small", "--crop", "8", "--batch", "1", "--quick", "--device", "cpu")
    code, out, err = raremap(capsys, *words, "--json", "-q")
    assert code == 0, err
    found = json.loads(out)
    assert (found["crop"], found["batch"]) == (8, 1)  # --quick keeps what it is told
    assert found["rows"][0]["train_crops_s"] > 0


@pytest.mark.parametrize(
    ("words", "crop", "batch"),
    [((), 128, 4), (("--quick",), 64, 1), (("--quick", "--batch", "2"), 64, 2), (("--crop", "32"), 32, 4)],
)
def test_what_is_not_said_of_the_crops_depends_on_quick(capsys, monkeypatch, words, crop, batch):
    asked = []
    monkeypatch.setattr(
        models, "list_models", lambda *a, **_: asked.append(a) or models.ModelTable((), 0, 0, 0, 0, "", 0)
    )
    assert raremap(capsys, "models", *words)[0] == 0
    assert asked[0][3:5] == (crop, batch)


def test_crops_that_no_memory_holds_are_told_in_a_line(capsys):
    code, _, err = raremap(capsys, "models", SMALL, "--batch", 2**45, "--device", "cpu", "-q")
    assert code != 0
    assert "Traceback" not in err
    assert err.strip().endswith(
        f"cpu has no room to train {SMALL} on {2**45} crops of 128²; lower --batch or --crop"
    )


def test_decoders_are_known_as_their_library_spells_them():
    (row,) = list_models(["UnetPlusPlus/tu-test_efficientnet"], seconds=None, quiet=True).rows
    assert row.title == "unetplusplus tu-test_efficientnet"


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        list_models(["unet_resnet"], seconds=None, quiet=True)
    assert str(caught.value) == (
        "no model is called 'unet_resnet', nor is it a DECODER/ENCODER such as fpn/resnet50; did you mean 'unet_resnet50'?"
    )
