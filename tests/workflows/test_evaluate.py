"""Evaluation and calibration against what is known of every pixel."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.workflows.scenes import Stub, make

from raremap.errors import BundleError, CatalogError, RaremapWarning
from raremap.labels import IGNORE, LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.confusion import confusion
from raremap.measure.decision import Decision
from raremap.measure.options import DecisionOptions
from raremap.measure.tally import Tally
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions
from raremap.tiles.splits import uses as uses_of
from raremap.workflows.calibrate import fit_decision_for
from raremap.workflows.evaluate import Evaluation, evaluate

Known = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Known]:
    return make(tmp_path_factory.mktemp("scenes"))


def trained_on(catalog: Catalog, **more) -> Stub:
    """A stub that says that it was trained on this catalog."""
    split = catalog.split.model_dump(mode="json")
    uses = uses_of(catalog)
    places = {u: sorted(set(catalog.table["place"][uses == u])) for u in set(uses)}
    return Stub(info={"catalog": catalog.fingerprint, "split": split, "places": places}, **more)


def counted(catalog: Catalog, known: Known, use: str) -> np.ndarray:
    """The confusion matrix of a use, from whole scenes: here a place is a scene."""
    scenes = set(catalog.table["scene"][uses_of(catalog) == use])
    return sum((confusion(*known[s], 3) for s in scenes), np.zeros((3, 3), np.int64))


@pytest.mark.parametrize("use", ["test", "calibration", "train"])
def test_every_labelled_valid_pixel_of_the_use_counts_once(data: tuple[Catalog, Known], use: str) -> None:
    catalog, known = data
    result = evaluate(trained_on(catalog), catalog, use=use)
    np.testing.assert_array_equal(result.argmax.matrix, counted(catalog, known, use))
    np.testing.assert_array_equal(result.scores.support, catalog.counts[uses_of(catalog) == use].sum(0))


def test_ground_that_tiles_share_counts_once(tmp_path: Path) -> None:
    catalog, known = make(tmp_path, scenes=4, overlap=0.5)
    assert len(catalog) == 4 * 25
    result = evaluate(trained_on(catalog), catalog)
    np.testing.assert_array_equal(result.argmax.matrix, counted(catalog, known, "test"))


def test_places_inside_one_scene_keep_their_own_ground(tmp_path: Path) -> None:
    split = SplitOptions(block_m=320, folds=3, monitor=0.2, calibration=0.2)
    catalog, known = make(tmp_path, scenes=1, split=split)
    result = evaluate(trained_on(catalog), catalog)
    truth, told = known["s0"]
    expected = np.zeros((3, 3), np.int64)
    for row in np.flatnonzero(uses_of(catalog) == "test"):
        inside = catalog.windows[row].slices()
        expected += confusion(truth[inside], told[inside], 3)
    assert 0 < expected.sum() < (truth != IGNORE).sum()
    np.testing.assert_array_equal(result.argmax.matrix, expected)


def test_it_scores_what_predict_writes(data: tuple[Catalog, Known], tmp_path: Path) -> None:
    import rasterio

    from raremap.maps.export import write_map

    catalog, known = data
    bundle = trained_on(catalog, decision=Decision((0.0, 2.5, 0.0)), sure=0.6)
    result = evaluate(bundle, catalog)
    expected = np.zeros((3, 3), np.int64)
    for scene in sorted(set(catalog.table["scene"][uses_of(catalog) == "test"])):
        with catalog.open_image(scene) as image:
            summary = write_map(
                image,
                bundle.network(),
                tmp_path / f"{scene}.tif",
                bundle.scheme,
                bundle.predict,
                decide=bundle.decision.apply,
            )
        with rasterio.open(summary.path) as file:
            written = bundle.scheme.encode(file.read(1), nodata=file.nodata)
        expected += confusion(known[scene][0], written, 3)
    np.testing.assert_array_equal(result.scores.matrix, expected)
    assert (result.scores.matrix != result.argmax.matrix).any()


def test_the_files_hold_pooled_scores_places_and_what_saw_what(
    data: tuple[Catalog, Known], tmp_path: Path
) -> None:
    catalog, known = data
    result = evaluate(trained_on(catalog), catalog, out=tmp_path)
    told = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    by_place = np.array([told["by_place"][p]["argmax"] for p in told["by_place"]])
    np.testing.assert_array_equal(by_place.sum(0), counted(catalog, known, "test"))
    assert told["argmax"]["confusion"] == counted(catalog, known, "test").tolist()
    assert sorted(told["by_place"]) == told["what_saw_what"]["test"]
    assert told["rare"] == ["water"]
    assert told["places_with"] == {"meadow": 2, "forest": 2, "water": 2}
    assert told["predict"]["window"] == 40
    assert told["versions"]["raremap"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{result.scores.macro_f1:.3f}" in page
    assert page.count("<figure>") == 6
    assert result.files == (tmp_path / "evaluation.json", tmp_path / "report.html")


def test_other_uses_have_their_own_files_and_say_what_they_are(
    data: tuple[Catalog, Known], tmp_path: Path
) -> None:
    result = evaluate(trained_on(data[0]), data[0], use="train", out=tmp_path)
    assert [f.name for f in result.files] == ["evaluation-train.json", "report-train.html"]
    assert "these are train places" in result.remarks[0]


def test_the_table_by_class_goes_from_rare_to_common(data: tuple[Catalog, Known]) -> None:
    table = evaluate(trained_on(data[0]), data[0]).by_class
    assert list(table.index) == ["water", "forest", "meadow"]
    assert table["support"].is_monotonic_increasing
    assert table.loc["water", "area_ratio"] > 1


def test_a_class_without_a_pixel_has_no_score_and_what_was_called_it_is_told() -> None:
    counts = Tally.empty(1, 3)
    counts.matrices[0] = [[5, 1, 2], [0, 4, 0], [0, 0, 0]]
    e = Evaluation("test", ("a", "b", "c"), ("c",), np.zeros(1, int), np.array(["p"]), counts, counts)
    assert e.to_dict()["decision"]["by_class"]["c"]["f1"] is None
    assert e.places_with() == {"a": 1, "b": 1, "c": 0}
    assert e.to_dict()["decision"]["absent"] == ["c"]
    assert "nan" in str(e)


def test_on_another_catalog_what_training_did_not_use_is_the_test(data: tuple[Catalog, Known]) -> None:
    catalog, known = data
    stub = Stub(
        info={"catalog": "another", "places": {"train": ["s0", "s1"], "monitor": ["s2"], "calibration": []}}
    )
    with pytest.warns(RaremapWarning, match="not the catalog of the training"):
        result = evaluate(stub, catalog)
    np.testing.assert_array_equal(
        result.argmax.matrix, sum(confusion(*known[s], 3) for s in ("s3", "s4", "s5"))
    )


def test_a_use_without_tiles_is_told_with_those_that_are_there(data: tuple[Catalog, Known]) -> None:
    for use in ("tset", "holdout", "dropped"):
        with pytest.raises(CatalogError, match=f"'{use}' is not among the uses .*compare --final"):
            evaluate(trained_on(data[0]), data[0], use=use)


def test_held_out_places_stay_so_on_a_catalog_that_was_made_again(tmp_path: Path) -> None:
    split = SplitOptions(places=1, folds=3, monitor=0.2, calibration=0.4, holdout=["s1", "s4"])
    stub = trained_on(make(tmp_path / "a", scenes=12, split=split)[0])
    tests = set(stub.info["places"]["test"])
    for again in (split, SplitOptions(places=1, folds=3)):  # whether or not the new catalog says so itself
        other, _ = make(tmp_path / again.model_dump_json()[-9:-1], scenes=12, overlap=0.25, split=again)
        with pytest.warns(RaremapWarning, match="not the catalog of the training"):
            assert set(evaluate(stub, other).places) == tests
    final = Stub(info={**stub.info, "split": {**stub.info["split"], "fold": "holdout"}})
    final.info["places"] = {"train": [f"s{i}" for i in range(12) if i not in (1, 4)]}
    with pytest.warns(RaremapWarning, match="not the catalog of the training"):
        assert set(evaluate(final, other).places) == {"s1", "s4"}


def test_where_no_class_is_rare_it_says_so(data: tuple[Catalog, Known]) -> None:
    text = str(replace(evaluate(trained_on(data[0]), data[0]), rare=()))
    assert "no class is rare" in text
    assert "nan" not in text


def test_classes_of_one_calibration_place_are_told_in_the_terminal(data: tuple[Catalog, Known]) -> None:
    decision = Decision((0.0,) * 3, held=(2, 2, 1))
    text = str(evaluate(trained_on(data[0], decision=decision), data[0]))
    assert "note: fewer than two calibration places hold water (1)" in text


def test_other_classes_than_the_bundles_are_refused(data: tuple[Catalog, Known]) -> None:
    other = LabelScheme({0: "meadow", 1: "forest", 2: "wetland"})
    with pytest.raises(BundleError, match="the catalog has class 'water', which the bundle does not know"):
        evaluate(Stub(scheme=other), data[0])


def test_a_band_that_the_catalog_lacks_is_named(data: tuple[Catalog, Known]) -> None:
    with pytest.raises(
        BundleError, match="the catalog has no band 'tolt', which the bundle needs; did you mean 'told'"
    ):
        evaluate(Stub(bands=("tolt",)), data[0])


def test_bands_are_found_by_name_whatever_their_order(data: tuple[Catalog, Known]) -> None:
    catalog, known = data
    one = evaluate(trained_on(catalog, bands=("told",)), catalog)
    np.testing.assert_array_equal(one.argmax.matrix, counted(catalog, known, "test"))


def test_sources_that_changed_are_refused(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=4)
    (tmp_path / "mask" / "s1.tif").unlink()
    with pytest.raises(CatalogError, match=r"mask/s1\.tif of scene s1 is gone"):
        evaluate(trained_on(catalog), catalog)


class Shy(Stub):
    """A stub that doubts the rare class: where water is told it is likelier meadow, by a little."""

    def network(self, device: str = "auto", precision: str = "auto"):
        table = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.05, 0.45]], np.float32)

        def network(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
            return table[np.where(valid, image[:, 0], 0)].transpose(0, 3, 1, 2)

        return network


def test_the_decision_finds_what_calibration_places_show_and_the_test_confirms_it(
    data: tuple[Catalog, Known],
) -> None:
    catalog, _ = data
    # Windows that do not overlap leave the pixels' own probabilities.
    bundle = Shy(info=trained_on(catalog).info, predict=PredictOptions(window=32, overlap=0))
    uses = uses_of(catalog)
    decision = fit_decision_for(bundle, catalog, uses, DecisionOptions(), quiet=True)
    assert decision.fitted
    assert decision.bias[2] > np.log(0.5 / 0.45)
    assert decision.way == {"window": 32, "overlap": 0.0, "precision": "float32"}
    assert decision == fit_decision_for(bundle, catalog, uses, DecisionOptions(), quiet=True)
    bundle.decision = decision
    result = evaluate(bundle, catalog)
    assert result.argmax.rare_f1 == 0
    assert result.scores.rare_f1 > 0.4
    assert decision.gain == pytest.approx(result.scores.macro_f1 - result.argmax.macro_f1, abs=0.05)


def test_without_calibration_places_the_decision_is_the_argmax_and_says_why(
    data: tuple[Catalog, Known],
) -> None:
    uses = np.full(len(data[0]), "train", object)
    decision = fit_decision_for(Stub(), data[0], uses, DecisionOptions(), quiet=True)
    assert decision.bias == (0.0, 0.0, 0.0)
    assert "0 calibration place(s) are too few" in decision.note


def test_another_way_of_predicting_than_the_decisions_is_told(data: tuple[Catalog, Known]) -> None:
    decision = Decision((0.0, 0.1, 0.0), way={"window": 64, "overlap": 0.25})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(trained_on(data[0], decision=decision), data[0])
    assert any("fitted with window 64, this was predicted with 40" in r for r in result.remarks)
