"""`raremap prepare`: the catalog of an experiment, in its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import CatalogError

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog


def prepare(experiment: Experiment, quiet: bool = False) -> Catalog:
    """Read all scenes and masks of an experiment; write and give the catalog `OUT/catalog.parquet`."""
    catalog = _read(experiment, quiet)
    catalog.save(_path(experiment))
    return catalog


def catalog_of(experiment: Experiment, quiet: bool = False, save: bool = True) -> Catalog:
    """The run folder's catalog where it fits the experiment and its files, else a new one, which is saved there."""
    kept = _kept(experiment, quiet)
    catalog = _read(experiment, quiet) if kept is None else _placed(kept, experiment)
    if save and catalog is not kept:
        catalog.save(_path(experiment))
    return catalog


def _path(experiment: Experiment) -> Path:
    return Path(experiment.out) / "catalog.parquet"


def _labels_folder(experiment: Experiment) -> Path:
    return Path(experiment.out) / "labels"


def _read(experiment: Experiment, quiet: bool) -> Catalog:
    from raremap.tiles.prepare import prepare as run

    e = experiment
    return run(e.scenes, e.labels, e.tiles, e.split, quiet, _labels_folder(e))


def _kept(experiment: Experiment, quiet: bool) -> Catalog | None:
    """The run folder's catalog, None where there is none or its tiles are not the experiment's."""
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.prepare import settled_scenes

    e, path = experiment, _path(experiment)
    if not path.exists():
        return None
    # First, since a mask that has changed is rescaled again, and then the catalog no longer fits.
    settled = settled_scenes(e.scenes, e.labels, _labels_folder(e), quiet)
    try:
        catalog = Catalog.load(path)
        catalog.check_sources()
    except CatalogError:
        return None
    sources = {s.name: (s.images, s.mask, e.scenes.vector, s.weights, s.bands) for s in settled}
    listed = {n: (s.images, s.mask, s.vector, s.weights, s.names) for n, s in catalog.scenes.items()}
    bands = e.scenes.use is None or tuple(e.scenes.use) == catalog.bands
    fits = (catalog.scheme, catalog.tile_options, listed) == (e.labels, e.tiles, sources) and bands
    return catalog if fits else None


def _placed(catalog: Catalog, experiment: Experiment) -> Catalog:
    """The catalog with the experiment's places and folds: itself, where it has them."""
    from raremap.tiles.places import assign_places, digest_of_lists

    split, root = experiment.split, experiment.scenes.root
    if (catalog.split, catalog.listed) == (split, digest_of_lists(split, root)):
        return catalog
    return assign_places(catalog, split, root)
