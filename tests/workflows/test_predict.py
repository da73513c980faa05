"""Maps of a bundle: given class shares, nodata that the file does not name, softened probabilities."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.errors import BundleError, ConfigError, OutputError, RaremapWarning, SceneError
from raremap.labels import LabelScheme
from raremap.measure.decision import Decision
from raremap.scene import cog
from raremap.workflows.clean import clean
from raremap.workflows.predict import predict

SCHEME = LabelScheme({1: "meadow", 2: "water"})


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """One band of log-odds of water, 0 (the value of no data, which the file does not name) on the left."""
    image = np.tile(np.linspace(-3, 3, 40, dtype=np.float32), (30, 1))
    image[:, :5] = 0
    return write(tmp_path / "scene.tif", image[None])


def bundle(**more) -> Bundle:
    """Log-odds in, their softmax out."""
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    return Bundle.from_module(net, SCHEME, ["band1"], prior=(0.9, 0.1), **more)


def classes(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_given_shares_move_map_and_probabilities(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    shares = {"meadow": 0.5, "water": 0.5}
    predict(bundle(), scene, out, prior=shares, probabilities="float32", precision="float32", quiet=True)
    odds = rasterio.open(scene).read(1).astype(np.float64) + np.log(9)  # from 1:9 to 1:1
    np.testing.assert_array_equal(classes(out), np.where(odds > 0, 2, 1))
    with rasterio.open(tmp_path / "map.probs.tif") as file:
        np.testing.assert_allclose(file.read(2), 1 / (1 + np.exp(-odds)), atol=1e-5)
    with rasterio.open(out) as file:
        assert file.tags()["raremap_decision"] == "given shares"


def test_the_temperature_softens_what_is_written_and_not_the_map(scene: Path, tmp_path: Path) -> None:
    warm = bundle(decision=Decision((0.0, 0.0), temperature=2.0))
    predict(warm, scene, tmp_path / "map.tif", probabilities="float32", precision="float32", quiet=True)
    odds = rasterio.open(scene).read(1)
    np.testing.assert_array_equal(classes(tmp_path / "map.tif"), np.where(odds > 0, 2, 1))
    with rasterio.open(tmp_path / "map.probs.tif") as file:
        np.testing.assert_allclose(file.read(2), 1 / (1 + np.exp(-odds / 2)), atol=1e-5)


def test_nodata_of_the_training_counts_where_the_file_names_none(scene: Path, tmp_path: Path) -> None:
    folder = bundle(nodata=0).save(tmp_path / "bundle")
    net = bundle().module
    predict(Bundle.load(folder, module=net), scene, tmp_path / "a.tif", quiet=True)
    assert (classes(tmp_path / "a.tif")[:, :5] == 255).all()
    predict(bundle(), scene, tmp_path / "b.tif", quiet=True)
    assert (classes(tmp_path / "b.tif") != 255).all()
    predict(bundle(), scene, tmp_path / "c.tif", nodata=0, quiet=True)
    np.testing.assert_array_equal(classes(tmp_path / "a.tif"), classes(tmp_path / "c.tif"))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"meadow": 0.5}, "class shares lack 'water'; give one for each class"),
        ({"meadow": 0.5, "water": 0.4, "watr": 0.1}, "class shares name 'watr', which is not a class"),
        ({"meadow": 0.5, "water": 0.4}, "class shares add up to 0.9, expected 1"),
        ({"meadow": 1.5, "water": -0.5}, "expected numbers from 0 to 1"),
    ],
)
def test_shares_that_make_no_sense_are_refused_in_one_line(
    scene: Path, tmp_path: Path, prior: dict[str, float], message: str
) -> None:
    path = tmp_path / "shares.json"
    path.write_text(json.dumps(prior))
    with pytest.raises(ConfigError, match=message):
        predict(bundle(), scene, tmp_path / "map.tif", prior=path, quiet=True)
    assert not (tmp_path / "map.tif").exists()


def test_a_class_that_was_never_learned_is_given_no_share(scene: Path, tmp_path: Path) -> None:
    never = replace(bundle(), prior=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"class shares give 'water' 0\.1, but bundle .* no pixel of it"):
        predict(never, scene, tmp_path / "map.tif", prior={"meadow": 0.9, "water": 0.1}, quiet=True)
    predict(never, scene, tmp_path / "map.tif", prior={"meadow": 1, "water": 0}, quiet=True)
    assert set(np.unique(classes(tmp_path / "map.tif"))) == {1}


def test_shares_cannot_be_moved_from_unknown_ones(scene: Path, tmp_path: Path) -> None:
    net = bundle().module
    plain = Bundle.from_module(net, SCHEME, ["band1"])
    with pytest.raises(BundleError, match="does not say which class shares it has learned"):
        predict(plain, scene, tmp_path / "map.tif", prior={"meadow": 0.5, "water": 0.5}, quiet=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        predict(bundle(), scene, tmp_path / "map.tif", prior=tmp_path / "none.json", quiet=True)


def scenes_and_a_broken_one(tmp_path: Path) -> list[Path]:
    """Three scenes, of which the second is cut short."""
    image = np.random.default_rng(0).normal(size=(1, 300, 300)).astype(np.float32)
    paths = [
        write(tmp_path / f"{name}.tif", image, tiled=True, blockxsize=64, blockysize=64) for name in "abc"
    ]
    paths[1].write_bytes(paths[1].read_bytes()[:200_000])
    return paths


def test_a_scene_cut_short_in_the_middle_of_a_run_is_named_and_what_was_finished_is_kept(
    tmp_path: Path,
) -> None:
    paths = scenes_and_a_broken_one(tmp_path)
    with pytest.raises(
        SceneError,
        match=r"b\.tif cannot be read at rows .* finished before and kept: 1, scenes not begun: 1$",
    ) as told:
        predict(bundle(), paths, tmp_path / "out", window=64, confidence=True, quiet=True)
    assert "\n" not in str(told.value)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.map.confidence.qml", "a.map.confidence.tif", "a.map.qml", "a.map.tif",
    ]  # fmt: skip
    assert set(np.unique(classes(tmp_path / "out" / "a.map.tif"))) == {1, 2}


class Seen(torch.nn.Conv2d):
    """Log-odds in and out, with the windows that it was shown."""

    def __init__(self) -> None:
        super().__init__(1, 2, 1, bias=False)
        self.weight.data[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
        self.windows = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.windows += len(image)
        return super().forward(image)


class Alone:
    """A cluster of one worker in this process."""

    has_gpu, size = False, 1

    @contextmanager
    def team(self, setup, told=str, on_gpu=False):
        self._work = setup()
        yield self

    def __call__(self, part):
        return self._work(part)

    def close(self) -> None:
        pass


@pytest.fixture(params=["here", "on a cluster"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by one machine, and by the path of a cluster."""
    cluster = Alone() if request.param != "here" else None
    monkeypatch.setattr("raremap.cluster.maybe_joined", lambda *_: nullcontext(cluster))


@pytest.mark.usefixtures("where")
def test_a_stopped_job_keeps_the_scenes_that_it_had_finished(tmp_path: Path) -> None:
    paths, out, net = scenes_and_a_broken_one(tmp_path), tmp_path / "out", Seen()
    model = replace(bundle(decision=Decision((0.0, 0.5))), module=net)
    how = {"window": 64, "confidence": True, "precision": "float32", "quiet": True}
    with pytest.raises(
        SceneError, match=r"b\.tif .*; maps finished before and kept: 1, scenes not begun: [01]$"
    ):
        predict(model, paths, out, **how)
    # Only what another run goes on from.
    assert all(list(folder.glob("*.part")) for folder in out.glob(".*"))
    stood = (out / "a.map.tif").stat().st_mtime_ns
    paths[1].write_bytes(paths[0].read_bytes())
    net.windows = 0
    maps = predict(model, paths, out, **how)
    assert (maps.kept, [m.kept for m in maps.maps]) == (1, [True, False, False])
    assert (out / "a.map.tif").stat().st_mtime_ns == stood
    assert not list(out.glob(".*"))
    assert str(maps).endswith("1 of 3 maps stood finished and were kept; remove one to have it made again")
    a, b, _ = (m.to_dict() for m in maps.maps)
    same = ("pixels", "nodata_pixels", "hectares", "precision", "windows_at_once")
    assert {k: a[k] for k in same} == {k: b[k] for k in same}  # the same scene, mapped and not

    net.windows = 0
    assert predict(model, paths, out, **how).kept == 3
    assert net.windows == 0
    (out / "b.map.confidence.tif").unlink()
    os.utime(paths[2])
    assert [m.kept for m in predict(model, paths, out, **how).maps] == [True, False, False]
    assert predict(model, paths, out, **how, argmax=True).kept == 0
    assert predict(model, paths, out, **{**how, "overlap": 0.5}).kept == 0
    assert predict(model, paths, out, **{**how, "overlap": 0.5}).kept == 3
    other = Seen()
    other.weight.data *= 2
    assert predict(replace(model, module=other), paths, out, **{**how, "overlap": 0.5}).kept == 0


@pytest.mark.usefixtures("where")
def test_what_was_settled_is_said_once_and_not_where_quiet_is_wanted(
    tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other.tif", np.ones((1, 30, 40), np.float32))
    how = {"window": 16, "precision": "float32"}
    predict(bundle(), [scene, other], tmp_path / "out", **how)
    assert capsys.readouterr() == ("", "computed in float32, windows of 16 pixels, 1024 at once\n")
    predict(bundle(), [scene, other], tmp_path / "quiet", **how, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_map_that_is_called_by_its_file_is_made_anew_and_one_that_was_changed_is_not_kept(
    tmp_path: Path, scene: Path
) -> None:
    for name in ("map.tif", "map.tif", "out", "out"):
        (made,) = predict(bundle(), scene, tmp_path / name, quiet=True).maps
        (tmp_path / "out").mkdir(exist_ok=True)
    assert made.kept
    assert not predict(bundle(), scene, tmp_path / "map.tif", quiet=True).kept
    clean(made.path, tmp_path / "cleaned.tif", majority=3, quiet=True)
    (tmp_path / "cleaned.tif").replace(made.path)
    assert not predict(bundle(), scene, tmp_path / "out", quiet=True).kept
    made.path.write_bytes(made.path.read_bytes()[:200])
    assert not predict(bundle(), scene, tmp_path / "out", quiet=True).kept


def test_a_cloud_optimised_scene_cut_short_opens_and_is_told_where_it_ends(tmp_path: Path) -> None:
    """Its header and overviews stand first, so that only the pixels themselves are missing."""
    image = np.random.default_rng(0).normal(size=(1, 1200, 700)).astype(np.float32)
    plain, path = write(tmp_path / "plain.tif", image), tmp_path / "cog.tif"
    rasterio.shutil.copy(plain, path, driver="COG", BLOCKSIZE=256, COMPRESS="DEFLATE")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with rasterio.open(path) as file:
        file.read(window=((0, 256), (0, 256)))
    with pytest.raises(SceneError, match=r"cog\.tif cannot be read at rows [1-9]\d*-") as told:
        predict(bundle(), path, tmp_path / "out" / "map.tif", window=64, probabilities="uint8", quiet=True)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_is_full_in_the_middle_of_a_run_keeps_the_maps_before(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other.tif", np.ones((1, 30, 40), np.float32))
    real = cog.rio_copy
    copies = []

    def filling(raw, fresh, **options):
        copies.append(fresh)
        if len(copies) == 2:
            raise OSError(28, "No space left on device")
        real(raw, fresh, **options)

    monkeypatch.setattr(cog, "rio_copy", filling)
    with pytest.raises(
        OutputError, match=r"other\.map\.tif cannot be written .*No space.* kept: 1, .* begun: 0$"
    ):
        predict(bundle(), [scene, other], tmp_path / "out", quiet=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scene.map.qml", "scene.map.tif"]


def test_a_scene_without_the_bands_is_told_before_the_first_is_mapped(tmp_path: Path, scene: Path) -> None:
    other = write(tmp_path / "other.tif", np.ones((2, 30, 40), np.float32), names=["red", "nir"])
    with pytest.raises(BundleError, match=r"other\.tif has no band 'band1'; .* the scene has red, nir"):
        predict(bundle(), [scene, other], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_precision_is_one_that_there_is(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'fp16', expected auto, float32, bf16 or float16"):
        predict(bundle(), scene, tmp_path / "map.tif", precision="fp16", quiet=True)  # type: ignore[arg-type]
    predict(bundle(), scene, tmp_path / "map.tif", precision="bf16", device="cpu", quiet=True)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.tags()["raremap_precision"] == "bf16"


def test_a_map_says_which_windows_it_was_made_in(scene: Path, tmp_path: Path) -> None:
    predict(bundle(), scene, tmp_path / "map.tif", window=16, overlap=0.5, quiet=True)
    with rasterio.open(tmp_path / "map.tif") as file:
        tags = file.tags()
    assert tags["raremap_windows"] == "16 pixels, overlap 0.5, hann"
    assert tags["raremap_batch"] == "1024"
    assert tags["raremap_precision"] in ("float32", "bf16")


@pytest.mark.parametrize(
    ("more", "name", "error", "message"),
    [
        ({"probabilities": "int8"}, "map.tif", ConfigError, "probabilities is 'int8', expected float32 or uint8"),
        ({}, "map.png", OutputError, r"map\.png is no name for a map; give one that ends in \.tif"),
        ({}, "map.VRT", OutputError, r"map\.VRT is no name for a map"),
    ],
)  # fmt: skip
def test_what_no_map_can_be_is_refused_before_the_first_file(
    scene: Path, tmp_path: Path, more, name: str, error, message: str
) -> None:
    with pytest.raises(error, match=message):
        predict(bundle(), scene, tmp_path / name, quiet=True, **more)
    assert not (tmp_path / name).exists()


def test_a_folder_may_be_called_with_a_dot(scene: Path, tmp_path: Path) -> None:
    predict(bundle(), scene, tmp_path / "maps.2024", quiet=True)
    assert (tmp_path / "maps.2024/scene.map.tif").exists()


def test_what_stands_beside_a_map_that_is_made_again_is_told_or_goes(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    predict(bundle(), scene, out, probabilities="float32", confidence=True, quiet=True)
    Path(f"{out}.aux.xml").write_text("<PAMDataset/>")
    with pytest.warns(
        RaremapWarning, match=r"map\.probs\.tif will be of an older map; remove what is not needed"
    ):
        predict(bundle(), scene, out, confidence=True, quiet=True)
    assert not Path(f"{out}.aux.xml").exists()
    predict(bundle(), scene, out, probabilities="uint8", confidence=True, quiet=True)
