"""Batches: the same bytes whoever makes them, and one line where a worker fails."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from tests import project
from tests.batches import ground

from raremap.batches.loader import TrainBatches
from raremap.batches.options import AugmentOptions
from raremap.errors import LabelError, SceneError
from raremap.learn import fit
from raremap.learn import run as training
from raremap.tiles.reader import TileReader
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import run

BUDGETS = pytest.mark.parametrize("memory", [None, 0], ids=["in memory", "by window"])


def batches(samples, first=0, steps=6, workers=0, every=None):
    """Bytes of each batch."""
    loader = TrainBatches(samples, first, steps, 4, workers, False, every)
    return [(b["image"].numpy().tobytes(), b["mask"].numpy().tobytes()) for b in loader]


@BUDGETS
def test_two_workers_make_the_bytes_of_none_also_after_the_parent_has_read(tmp_path, memory):
    catalog = ground.make(tmp_path)
    make = lambda: ground.samples(catalog, 24, AugmentOptions(), memory)  # noqa: E731
    alone, read = make(), make()
    for draw in range(3):
        read[draw]  # the files are open in the parent now
    expected = batches(alone)
    assert len(set(expected)) == 6
    assert batches(make(), workers=2) == expected
    assert batches(read, workers=2) == expected


def test_parent_and_workers_read_side_by_side(tmp_path):
    catalog = ground.make(tmp_path)
    expected = batches(ground.samples(catalog, 24, memory=0), steps=12)
    samples = ground.samples(catalog, 24, memory=0)
    found = []
    for batch in TrainBatches(samples, 0, 12, 4, 2, False):
        found.append((batch["image"].numpy().tobytes(), batch["mask"].numpy().tobytes()))
        again = np.stack([samples[draw]["image"] for draw in range(4)])
        assert again.tobytes() == expected[0][0]
    assert found == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_starts_later_gives_the_batches_from_there(tmp_path, workers):
    catalog = ground.make(tmp_path)
    samples = ground.samples(catalog, 24, AugmentOptions())
    assert batches(samples, first=4, workers=workers) == batches(samples)[4:]
    assert batches(samples, first=6, workers=workers) == []
    assert batches(samples, first=1, workers=workers, every=2) == batches(samples)[1:]


def test_a_batch_is_what_a_network_and_its_loss_take(tmp_path):
    samples = ground.samples(ground.make(tmp_path), 33)
    batch = next(iter(TrainBatches(samples, 0, 1, 5, 0, False)))
    assert batch["image"].shape == (5, 2, 33, 33)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (5, 33, 33)
    assert batch["mask"].dtype == torch.int64
    assert np.array_equal(batch["image"][3], samples[3]["image"])


def test_starting_a_loader_draws_no_number_of_the_process(tmp_path):
    samples = ground.samples(ground.make(tmp_path), 24)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(samples, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


def delete(folder: Path) -> None:
    for path in (folder / "img").glob("*.tif"):
        path.unlink()


def cut(folder: Path, what: str = "img") -> None:
    for path in (folder / what).glob("*.tif"):
        path.write_bytes(path.read_bytes()[:3000])


def relabel(folder: Path) -> None:
    for path in (folder / "mask").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.write(np.full((1, 64, 64), 77, np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (delete, SceneError, r"img/s\d\.tif does not exist"),
        (cut, SceneError, r"img/s\d\.tif cannot be (opened|read)"),
        (
            partial(cut, what="mask"),
            SceneError,
            r"mask/s\d\.tif cannot be read at rows .* damaged or cut short",
        ),
        (relabel, LabelError, r"mask/s\d\.tif has value 77"),
    ],
    ids=["image gone", "image cut", "mask cut", "unknown label"],
)
def test_a_file_that_a_worker_cannot_read_is_told_in_one_line(tmp_path, monkeypatch, harm, error, says):
    project.make(tmp_path)
    overrides = ["train.workers=2", "train.precision=float32", "train.monitor_every=8", "train.cache=false"]
    experiment = project.experiment(tmp_path, tmp_path / "out", *overrides)
    catalog = catalog_of(experiment, quiet=True)

    def loader(*args, **more):
        harm(tmp_path)  # after the statistics are taken, before the workers start
        return TrainBatches(*args, **more)

    monkeypatch.setattr(fit, "TileReader", partial(TileReader, memory=0))
    monkeypatch.setattr(training, "TrainBatches", loader)
    with pytest.raises(error, match=says) as told:
        run(catalog, None, experiment, resume=False, quiet=True)
    assert "\n" not in str(told.value)
    assert type(told.value) is error
    assert "Caught" not in str(told.value)
