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
    from raremap.tiles.prepare import prepare as run

    e = experiment
    catalog = run(e.scenes, e.labels, e.tiles, e.split, quiet, _labels_folder(e))
    catalog.save(Path(e.out) / "catalog.parquet")
    return catalog


def catalog_of(experiment: Experiment, quiet: bool = False) -> Catalog:
    """The run folder's catalog where it fits the experiment and its files, else a new one."""
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.places import assign_places, digest_of_lists
    from raremap.tiles.prepare import settled_scenes

    e = experiment
    path = Path(e.out) / "catalog.parquet"
    if not path.exists():
        return prepare(e, quiet)
    # First, since a mask that has changed is rescaled again, and then the catalog no longer fits.
    settled = settled_scenes(e.scenes, e.labels, _labels_folder(e), quiet)
    try:
        catalog = Catalog.load(path)
        catalog.check_sources()
    except CatalogError:
        return prepare(e, quiet)
    sources = {s.name: (s.images, s.mask, s.bands) for s in settled}
    listed = {n: (s.images, s.mask, s.names) for n, s in catalog.scenes.items()}
    bands = e.scenes.use is None or tuple(e.scenes.use) == catalog.bands
    if (catalog.scheme, catalog.tile_options, listed) != (e.labels, e.tiles, sources) or not bands:
        return prepare(e, quiet)
    if (catalog.split, catalog.listed) == (e.split, digest_of_lists(e.split, e.scenes.root)):
        return catalog
    catalog = assign_places(catalog, e.split, e.scenes.root)
    catalog.save(path)
    return catalog


def _labels_folder(experiment: Experiment) -> Path:
    return Path(experiment.out) / "labels"
