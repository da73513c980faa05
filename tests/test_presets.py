"""Recipes: each builds its network, loss and plan on a small project, and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import project

from raremap.config import preset, preset_names
from raremap.workflows.compare import compare
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import run

DOCUMENTS = ("aias", "catalonia", "das", "diao", "diao-cp", "hialf", "landslide", "points")
# The sections of an experiment that a comparison keeps the same for all: a recipe says how, not on what.
GIVEN = {"out", "scenes", "labels", "tiles", "split", "thin", "points", "train", "predict", "tune"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder


def test_the_documents_recipes_are_there() -> None:
    assert {"baseline", "ce-dice", *DOCUMENTS} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_it_is_from_and_leaves_the_data_alone(name: str) -> None:
    assert not set(preset(name)) & GIVEN
    text = (Path(__file__).parents[1] / f"src/raremap/presets/{name}.yaml").read_text(encoding="utf-8")
    head = " ".join(line for line in text.splitlines() if line.startswith("#"))
    if name in DOCUMENTS:
        assert any(word in head for word in ("Deviations: ", "ours", "Ours", "Our reconstruction"))


def test_the_landslide_recipe_augments_as_its_document_says() -> None:
    """ "Data Augmentation: only random rotation + cutmix", in every one of its settings."""
    augment = preset("landslide")["augment"]
    assert augment["dihedral"]
    assert augment["cutmix"] > 0
    assert not any(augment[key] for key in ("gain", "offset", "scale"))


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_learns_class_offsets_that_its_tau_takes_back(name: str) -> None:
    own = preset(name)
    if own.get("outer") is not None and own["loss"].get("tau", 0.0) == 0:
        assert own["outer"]["classes"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_a_preset_trains(folder: Path, tmp_path: Path, name: str) -> None:
    own = preset(name)
    steps = {"steps": 2, "batch_size": 2, "crop": 32, "norm_tiles": 2, "threads": 1, "precision": "float32"}
    # Its own network where it names one, else the small one of the project.
    model = {"model": own.get("model", {"decoder_channels": [16, 8, 8]})}
    exp = project.experiment(folder, tmp_path, preset=name, train=steps, **model)
    kinds = {section: getattr(exp, section).kind for section, keys in own.items() if "kind" in keys}
    assert kinds == {section: own[section]["kind"] for section in kinds}
    training = run(catalog_of(exp, quiet=True), None, exp, resume=False, quiet=True)
    assert training.steps == 2
    assert 0 <= training.monitor_macro_f1 <= 1
    assert (training.path / "model.safetensors").exists()


def test_every_preset_can_be_compared_with_every_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raremap.errors import TrainingError
    from raremap.workflows import compare as module

    seen: list[str] = []

    def stop(chosen, *rest):
        seen.append(chosen.variant)
        raise TrainingError("enough")

    monkeypatch.setattr(module, "_run", stop)
    exp = project.experiment(folder, tmp_path)
    compare(exp, preset_names(), seeds=1, folds=[0], quiet=True)
    assert seen == preset_names()
