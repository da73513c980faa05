"""Several bundles as one: the mean of what they say, saved with all of them, and refused where they do not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import raremap as rm
from raremap.ensembles import Ensemble, load_bundle, moving
from raremap.errors import BundleError, ConfigError, OutputError
from raremap.measure.decision import Decision
from raremap.models.options import Smp
from raremap.scene.features.options.filters import Sobel
from raremap.scene.features.options.indices import Ndvi
from raremap.scene.normalize import Normalization
from raremap.ways import keeping, predicting, unfitted

SCHEME = rm.LabelScheme({1: "land", 5: "slide"}, ignore=[0])
OPTIONS = Smp(encoder="tu-mobilenetv3_small_100", decoder_channels=(8, 8, 8))
BANDS = ("red", "nir")


def member(
    seed: int, features: tuple = (), prior: tuple[float, float] | None = (0.9, 0.1), **more
) -> rm.Bundle:
    torch.manual_seed(seed)
    count = 2 + sum(len(f.channels) for f in features)
    return rm.Bundle(
        module=OPTIONS.build(count, 2).eval(),
        scheme=SCHEME,
        bands=BANDS,
        normalization=Normalization("standard", (100.0 + seed,) * count, (0.01,) * count),
        options=OPTIONS,
        features=features,
        prior=prior,
        info={"name": f"m{seed}", "catalog": "c", "seed": seed},
        **more,
    )


@pytest.fixture(scope="module")
def members() -> list[rm.Bundle]:
    return [member(0), member(1, (Ndvi(),)), member(2, (Sobel(of="red"), Ndvi()))]


IMAGE = np.random.default_rng(0).integers(1, 255, (1, 2, 40, 64)).astype(np.uint8)


def asked(bundle, tmp_path: Path) -> np.ndarray:
    """Probabilities of a scene in one window."""
    from tests.rasters import write

    from raremap.scene.raster import open_image

    with open_image(write(tmp_path / "scene.tif", IMAGE[0], names=BANDS)) as plain:
        reader = bundle.opened(plain)
        image, valid = reader.read(reader.grid.window)
    return bundle.network("cpu", "float32")(image[None], valid[None])[0]


def test_it_is_the_mean_of_its_members_each_with_its_own_channels(members, tmp_path: Path) -> None:
    found = asked(rm.Bundle.ensemble(members), tmp_path)
    expected = np.mean([asked(m, tmp_path) for m in members], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - asked(members[0], tmp_path)).max() > 1e-3


def test_members_of_other_class_shares_are_moved_to_the_mean_of_them(tmp_path: Path) -> None:
    one, two = member(0, prior=(0.9, 0.1)), member(0, prior=(0.7, 0.3))
    both = Ensemble.of([one, two])
    assert both.prior == pytest.approx((0.8, 0.2))
    plain = asked(one, tmp_path).astype(np.float64)

    def moved(old: tuple[float, float]) -> np.ndarray:
        new = plain * (np.array([0.8, 0.2]) / np.array(old))[:, None, None]
        return new / new.sum(0)

    np.testing.assert_allclose(asked(both, tmp_path), (moved(one.prior) + moved(two.prior)) / 2, atol=1e-6)
    assert Ensemble.of([one, replace(two, prior=None)]).prior is None
    seen = [replace(one, shares=(0.9, 0.1)), replace(two, shares=(0.8, 0.2))]
    assert Ensemble.of(seen).shares == pytest.approx((0.85, 0.15))
    assert both.shares is None
    assert moving((1.0, 0.0), (0.95, 0.05)).tolist() == pytest.approx([0.95, 1.0])


def test_turns_of_an_ensemble_are_the_mean_of_the_members_turns(members, tmp_path: Path) -> None:
    found = asked(predicting(Ensemble.of(members), tta=True), tmp_path)
    expected = np.mean([asked(predicting(m, tta=True), tmp_path) for m in members], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_read_back_with_all_members_and_no_pickle(members, tmp_path: Path) -> None:
    decision = Decision((0.0, 0.7), way={"window": 512, "overlap": 0.25})
    made = keeping(Ensemble.of(members, "three"), decision, members[0].predict)
    folder = made.save(tmp_path / "e")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "ensemble.json", "members"]
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert not any(b"torch._utils" in p.read_bytes() for p in files)
    again = load_bundle(folder)
    assert isinstance(again, Ensemble)
    for key in ("decision", "predict", "info", "name", "prior", "bands", "scheme", "nodata"):
        assert getattr(again, key) == getattr(made, key), key
    np.testing.assert_array_equal(asked(again, tmp_path), asked(made, tmp_path))
    assert again.info["catalog"] == "c"
    assert "seed" not in again.info
    made.save(folder)  # in the place of the old one
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_an_ensemble_is_mapped_like_a_bundle(members, tmp_path: Path) -> None:
    import rasterio
    from tests.rasters import write

    folder = Ensemble.of(members).save(tmp_path / "e")
    scene = write(tmp_path / "scene.tif", IMAGE[0], names=BANDS)
    rm.predict(
        folder,
        scene,
        tmp_path / "map.tif",
        probabilities="float32",
        device="cpu",
        precision="float32",
        quiet=True,
    )
    with rasterio.open(tmp_path / "map.probs.tif") as file:
        np.testing.assert_allclose(file.read(), asked(Ensemble.of(members), tmp_path), atol=1e-6)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.tags()["raremap_averaged"] == "3 networks"


def test_bundles_that_do_not_belong_together_are_refused_by_what_differs(members) -> None:
    other = replace(members[1], scheme=rm.LabelScheme({1: "land", 5: "water"}))
    with pytest.raises(
        BundleError, match=r"member 2 \(m1\) has the classes 1 land, 5 water, the first \(m0\) has"
    ):
        Ensemble.of([members[0], other])
    with pytest.raises(BundleError, match="has the bands nir, red, the first"):
        Ensemble.of([members[0], replace(members[1], bands=("nir", "red"))])
    with pytest.raises(BundleError, match="has the nodata 7, the first"):
        Ensemble.of([members[0], replace(members[1], nodata=7)])
    with pytest.raises(BundleError, match="needs two bundles at least, 1 given"):
        Ensemble.of(members[:1])
    with pytest.raises(BundleError, match="member 2 is no bundle but Ensemble"):
        Ensemble.of([members[0], Ensemble.of(members)])


def test_a_damaged_ensemble_is_told_by_its_file(members, tmp_path: Path) -> None:
    folder = Ensemble.of(members[:2]).save(tmp_path / "e")
    with pytest.raises(BundleError, match=r"is an ensemble of bundles; read it with Ensemble\.load"):
        rm.Bundle.load(folder)
    with pytest.raises(BundleError, match=r"is no ensemble: there is no ensemble\.json"):
        Ensemble.load(tmp_path / "nowhere")
    members[2].save(folder / "members" / "1")
    with pytest.raises(BundleError, match=r"members/1 is not the member that .* was written with"):
        Ensemble.load(folder)
    text = (folder / "ensemble.json").read_text()
    (folder / "ensemble.json").write_text(text.replace('"overlap": 0.25', '"overlap": 0.5'))
    with pytest.raises(BundleError, match="was altered since it was written"):
        Ensemble.load(folder)
    (folder / "ensemble.json").write_text("[]")
    with pytest.raises(BundleError, match="is not an ensemble's description"):
        Ensemble.load(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("")
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        Ensemble.of(members).save(tmp_path / "full")


# --- ways of predicting, of bundles and ensembles alike


def test_each_way_of_predicting_has_its_own_decision(tmp_path: Path) -> None:
    plain = Decision((0.0, 0.5), way={"window": 512, "overlap": 0.25, "precision": "float32"})
    turned = Decision((0.0, 0.2), way={"window": 512, "overlap": 0.25, "tta": "d4"})
    bundle = member(0, decision=plain)
    bundle = keeping(bundle, turned, predicting(bundle, tta="d4").predict)
    bundle = rm.Bundle.load(bundle.save(tmp_path / "b"))
    assert bundle.decision == plain
    assert predicting(bundle, tta=True).decision == turned
    assert unfitted(predicting(bundle, tta=True)) == ""
    assert predicting(predicting(bundle, tta=True), tta=False).decision == plain
    other = predicting(bundle, tta="flips")
    assert other.decision == plain
    assert "tta flips (it: none)" in unfitted(other)
    assert "scales 1, 0.5 (it: 1)" in unfitted(predicting(bundle, scales=(1, 0.5)))
    assert "window 64 (it: 512)" in unfitted(predicting(bundle, window=64))
    assert predicting(bundle) is bundle
    again = replace(turned, bias=(0.0, 0.3))
    bundle = keeping(bundle, again, predicting(bundle, tta="d4").predict)
    assert (bundle.decision, bundle.decisions) == (plain, (again,))
    assert (
        json.loads((tmp_path / "b" / "model.json").read_text())["properties"]["raremap:decisions"][0]["way"]
        == turned.way
    )


def test_a_way_that_makes_no_sense_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"tta is 'spin': Input should be 'none', 'flips' or 'd4'"):
        predicting(member(0), tta="spin")
    with pytest.raises(ConfigError, match=r"scales are .* expected different numbers"):
        predicting(member(0), scales=(0.0,))
    with pytest.raises(ConfigError, match="window is 0"):
        predicting(member(0), window=0)
