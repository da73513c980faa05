"""Dates and clouds through the workflows: what is scored apart, and when a catalog is still good."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import project
from tests.rasters import write
from tests.workflows.scenes import SCHEME, SIZE, Stub, make

import raremap.workflows.prepare as workflow
from raremap.labels import IGNORE
from raremap.measure.confusion import confusion
from raremap.scene.sources import ScenesOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import uses as uses_of
from raremap.workflows.census import census
from raremap.workflows.evaluate import evaluate


def test_clouded_pixels_are_in_no_score_and_scored_beside(tmp_path):
    clear, known = make(tmp_path)
    rng = np.random.default_rng(1)
    cloud = {name: rng.random((SIZE, SIZE)) < 0.3 for name in known}
    for i, name in enumerate(known):
        write(tmp_path / f"clouds/{name}.tif", cloud[name].astype(np.uint8), origin=(4e5 + 2000 * i, 4.6e6))
    options = ScenesOptions(images="img/*.tif", masks="mask/*.tif", clouds="clouds/*.tif", root=str(tmp_path))
    catalog = prepare(options, SCHEME, clear.tile_options, clear.split, quiet=True)
    uses = uses_of(catalog)
    places = {u: sorted(set(catalog.table["place"][uses == u])) for u in set(uses)}
    info = {"catalog": catalog.fingerprint, "split": catalog.split.model_dump(mode="json"), "places": places}
    result = evaluate(Stub(info=info), catalog, out=None)
    scenes = sorted(set(catalog.table["scene"][uses == "test"]))
    expected = np.zeros((2, 3, 3), np.int64)
    for name in scenes:
        truth, told = known[name]
        for k, hidden in enumerate((cloud[name], ~cloud[name])):
            expected[k] += confusion(np.where(hidden, IGNORE, truth), told, 3)
    assert expected[1].sum() > 1000
    np.testing.assert_array_equal(result.scores.matrix, expected[0])
    np.testing.assert_array_equal(result.clouded.matrix, expected[1])
    share = expected[1].sum() / expected.sum()
    assert f"clouded, in no score above: {share:.1%} of the labelled pixels" in str(result)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["clouded"]["by_class"]["water"]["support"] == expected[1].sum(1)[2]


def test_without_clouds_nothing_is_said_of_them(tmp_path):
    catalog, _ = make(tmp_path, scenes=4)
    info = {"catalog": catalog.fingerprint, "split": catalog.split.model_dump(mode="json"), "places": {}}
    result = evaluate(Stub(info=info), catalog, out=None)
    assert result.clouded is None
    assert "clouded" not in result.to_dict()
    assert "clouded" not in str(result)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"dates": {"kind": "stack", "names": ["one", "two"]}}, True),
        ({"dates": "separate"}, True),
        ({"use": ["red"]}, True),
        ({"clouds": "cloud/*.tif"}, True),
    ],
)
def test_a_catalog_is_kept_as_long_as_dates_bands_and_clouds_are_the_same(
    tmp_path, monkeypatch, change, again
):
    project.make(tmp_path, scenes=3)
    for date in ("2024-04", "2024-08"):
        for path in sorted((tmp_path / "img").glob("*.tif")):
            (tmp_path / date).mkdir(exist_ok=True)
            (tmp_path / date / path.name).write_bytes(path.read_bytes())
            (tmp_path / "cloud").mkdir(exist_ok=True)
            write(
                tmp_path / "cloud" / path.name,
                np.zeros((64, 64), np.uint8),
                (4e5 + int(path.stem[1]) * 5000.0, 4.6e6),
            )
    scenes = {"root": str(tmp_path), "images": "{date}/*.tif", "masks": "mask/*.tif", "dates": "stack"}
    before = workflow.prepare(project.experiment(tmp_path, tmp_path / "run", scenes=scenes), quiet=True)
    assert before.bands[:2] == ("red@2024-04", "green@2024-04")
    made = []
    real = workflow.prepare
    monkeypatch.setattr(workflow, "prepare", lambda *a, **k: made.append(1) or real(*a, **k))
    after = workflow.catalog_of(
        project.experiment(tmp_path, tmp_path / "run", scenes={**scenes, **change}), quiet=True
    )
    assert bool(made) == again
    if not change:
        assert after.fingerprint == before.fingerprint


def test_a_catalog_is_made_anew_for_heights_in_another_folder(tmp_path):
    project.make(tmp_path, scenes=3)
    for path in sorted((tmp_path / "img").glob("*.tif")):
        for folder in ("dem", "better"):
            write(
                tmp_path / folder / path.name,
                np.zeros((64, 64), np.float32),
                (4e5 + int(path.stem[1]) * 5000.0, 4.6e6),
            )
    scenes = {"root": str(tmp_path), "images": "img/*.tif", "masks": "mask/*.tif"}
    for folder in ("dem", "better"):
        given = {**scenes, "layers": {"dem": f"{folder}/*.tif"}}
        catalog = workflow.catalog_of(
            project.experiment(tmp_path, tmp_path / "run", scenes=given), quiet=True
        )
        assert catalog.scenes["s0"].layers == (("dem", str(tmp_path / folder / "s0.tif")),)


@pytest.mark.filterwarnings("ignore::raremap.errors.RaremapWarning")  # of a class that no training place has
def test_the_census_says_why_tiles_at_borders_are_left_out(tmp_path):
    project.make(tmp_path, scenes=3, size=256)
    catalog = workflow.prepare(
        project.experiment(
            tmp_path, tmp_path / "run", "tiles.overlap=0.25", "split.block_m=1280", "split.buffer_px=20"
        ),
        quiet=True,
    )
    found = census(catalog).dropped
    dropped = int((uses_of(catalog) == "dropped").sum())
    assert found["shares ground with another use"] + found["nearer to another use than the buffer"] == dropped
    assert min(found["shares ground with another use"], found["nearer to another use than the buffer"]) > 0
