"""`raremap prepare`: the catalog of an experiment, in its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import CatalogError

if TYPE_CHECKING:
    from raremap.cluster import Cluster
    from raremap.config import Experiment
    from raremap.scene.sources import ScenesOptions, SceneSource
    from raremap.tiles.catalog import Catalog


def prepare(
    experiment: Experiment, quiet: bool = False, ray: str | None = None, workers: int | None = None
) -> Catalog:
    """Read all scenes and masks of an experiment; write and give the catalog `OUT/catalog.parquet`.

    Stopped and started again it goes on: what is counted stands in `OUT/catalog.counts` until the catalog does.
    `ray` is the address of a Ray cluster whose `workers` read the scenes, or "local" (`raremap.cluster`).
    """
    from raremap.cluster import maybe_joined
    from raremap.jobs import Journal

    work = Path(experiment.out) / "catalog.counts"
    with maybe_joined(ray, workers) as cluster:
        catalog = _read(experiment, quiet, work, cluster)
    catalog.save(_path(experiment))
    Journal(work).remove()
    return catalog


def catalog_of(experiment: Experiment, quiet: bool = False, save: bool = True) -> Catalog:
    """The run folder's catalog where it fits the experiment and its files, else a new one, which is saved there."""
    kept = _kept(experiment, quiet)
    if kept is None:
        return prepare(experiment, quiet) if save else _read(experiment, quiet)
    catalog = _placed(kept, experiment)
    if save and catalog is not kept:
        catalog.save(_path(experiment))
    return catalog


def _path(experiment: Experiment) -> Path:
    return Path(experiment.out) / "catalog.parquet"


def _labels_folder(experiment: Experiment) -> Path:
    return Path(experiment.out) / "labels"


def _read(
    experiment: Experiment, quiet: bool, work: Path | None = None, cluster: Cluster | None = None
) -> Catalog:
    from raremap.tiles.prepare import prepare as run

    e = experiment
    return run(e.scenes, e.labels, e.tiles, e.split, quiet, work, _labels_folder(e), cluster)


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
    same = _same_scenes(catalog, e.scenes, settled)
    fits = (catalog.scheme, catalog.tile_options) == (e.labels, e.tiles) and same
    return catalog if fits else None


def _same_scenes(catalog: Catalog, scenes: ScenesOptions, sources: list[SceneSource]) -> bool:
    """Whether the catalog is of the files, dates, bands, labels and clouds that the options name."""
    from raremap.scene.layout import open_source

    if {s.name: (s.images, s.layers, s.mask, s.weights, s.site, s.date, s.clouds) for s in sources} != {
        name: (s.images, s.layers, s.mask, s.weights, s.site, s.date, s.clouds.files if s.clouds else ())
        for name, s in catalog.scenes.items()
    }:
        return False
    # The same options are for all scenes, and the files have not changed: one scene tells.
    record = catalog.scenes[sources[0].name]
    image, names, clouds = open_source(sources[0], scenes)
    return (image.bands, repr(image.nodata), names, clouds, scenes.vector) == (
        record.bands, repr(record.nodata), record.names, record.clouds, record.vector,
    )  # fmt: skip


def _placed(catalog: Catalog, experiment: Experiment) -> Catalog:
    """The catalog with the experiment's places and folds: itself, where it has them."""
    from raremap.tiles.places import assign_places, digest_of_lists

    split, root = experiment.split, experiment.scenes.root
    if (catalog.split, catalog.listed) == (split, digest_of_lists(split, root)):
        return catalog
    return assign_places(catalog, split, root)
