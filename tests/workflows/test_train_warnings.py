"""What a training is told before it starts: sparse labels under losses of areas, offsets that tau takes back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from tests import project

from raremap.balance import make
from raremap.errors import RaremapWarning
from raremap.tiles.catalog import Catalog
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import fitted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 64 x 64 pixels whose labels are kept where the row is a multiple of 16: 192 of 4096 pixels."""
    folder = tmp_path_factory.mktemp("sparse")
    project.make(folder)
    for path in (folder / "mask").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            mask = file.read(1)
            mask[np.arange(64) % 16 != 0] = 0
            file.write(mask, 1)
    return folder


class Begun(Exception):
    """Training has come to its plan."""


def warned(
    folder: Path, catalog: Catalog, out: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any
) -> list[str]:
    """What is told before the plan is made."""

    def stop(*_: Any) -> None:
        raise Begun

    monkeypatch.setattr(make, "make_plan", stop)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RaremapWarning)
        with pytest.raises(Begun):
            fitted(catalog, None, project.experiment(folder, out, **sections), resume=False, quiet=True)
    return [str(w.message) for w in told if issubclass(w.category, RaremapWarning)]


def test_terms_of_areas_are_warned_of_where_few_pixels_are_labelled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_of(project.experiment(folder, tmp_path), quiet=True)

    def told(**sections: Any) -> list[str]:
        return warned(folder, catalog, tmp_path, monkeypatch, **sections)

    (line,) = told(loss={"kind": "ce_dice"})
    # Rows 16, 32 and 48 of 64: the first is unlabelled in the project.
    assert line.startswith(
        "4.69% of the usable pixels of the training tiles are labelled, and the loss has dice, which "
    )
    assert line.endswith(
        "take pixelwise terms such as ce and focal, or fill the ground between the labels: pseudo: {}"
    )
    assert "\n" not in line
    (line,) = told(loss={"kind": "sum", "terms": {"dice": 1, "boundary": 1}})
    assert line.endswith("take pixelwise terms such as ce and focal")  # pseudo-labels have no outlines
    assert told(loss={"kind": "ce"}) == []
    assert told(loss={"kind": "ce_dice"}, pseudo={}) == []


def test_labels_of_most_of_the_ground_are_none_to_warn_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make(tmp_path)
    catalog = catalog_of(project.experiment(tmp_path, tmp_path / "out"), quiet=True)
    assert warned(tmp_path, catalog, tmp_path / "out", monkeypatch, loss={"kind": "ce_dice"}) == []


def test_class_offsets_that_tau_takes_back_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.make(tmp_path)
    catalog = catalog_of(project.experiment(tmp_path, tmp_path / "out"), quiet=True)

    def told(tau: float | None, kind: str = "ce_dice", **outer: Any) -> list[str]:
        loss = {"kind": kind, "tau": tau}
        return warned(tmp_path, catalog, tmp_path / "out", monkeypatch, loss=loss, outer=outer)

    (line,) = told(0)
    assert line.startswith("outer.classes 'weights' learns offsets by class, and loss.tau 0 takes them back")
    assert line.endswith("set outer.classes: none to learn the weights of terms alone, or set loss.tau: 1")
    for alone in (told(0, "ce"), told(0, "hialf"), told(0, terms=False)):
        assert alone[0].endswith("out of the scores; leave outer out, or set loss.tau: 1")
    assert told(1) == told(None) == told(0, classes="none") == []
