"""`raremap prepare`: the catalog of an experiment, in its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import CatalogError

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.scene.sources import ScenesOptions
    from raremap.tiles.catalog import Catalog


def prepare(experiment: Experiment, quiet: bool = False) -> Catalog:
    """Read all scenes and masks of an experiment; write and give the catalog `OUT/catalog.parquet`.

    Stopped and started again it goes on: what is counted stands in `OUT/catalog.counts` until the catalog does.
    """
    from raremap.jobs import Journal
    from raremap.tiles.prepare import prepare as run

    e = experiment
    work = Path(e.out) / "catalog.counts"
    catalog = run(e.scenes, e.labels, e.tiles, e.split, quiet, work)
    catalog.save(Path(e.out) / "catalog.parquet")
    Journal(work).remove()
    return catalog


def catalog_of(experiment: Experiment, quiet: bool = False) -> Catalog:
    """The run folder's catalog where it fits the experiment and its files, else a new one."""
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.places import assign_places, digest_of_lists

    e = experiment
    path = Path(e.out) / "catalog.parquet"
    if not path.exists():
        return prepare(e, quiet)
    try:
        catalog = Catalog.load(path)
        catalog.check_sources()
    except CatalogError:
        return prepare(e, quiet)
    if (catalog.scheme, catalog.tile_options) != (e.labels, e.tiles) or not _same_scenes(catalog, e.scenes):
        return prepare(e, quiet)
    if (catalog.split, catalog.listed) == (e.split, digest_of_lists(e.split, e.scenes.root)):
        return catalog
    catalog = assign_places(catalog, e.split, e.scenes.root)
    catalog.save(path)
    return catalog


def _same_scenes(catalog: Catalog, scenes: ScenesOptions) -> bool:
    """Whether the catalog is of the files, dates, bands and clouds that the options name."""
    from raremap.scene.layout import open_source
    from raremap.scene.sources import find_scenes

    sources = find_scenes(scenes)
    if {s.name: (s.images, s.mask, s.site, s.date, s.clouds) for s in sources} != {
        name: (s.images, s.mask, s.site, s.date, s.clouds.files if s.clouds else ())
        for name, s in catalog.scenes.items()
    }:
        return False
    # The same options are for all scenes, and the files have not changed: one scene tells.
    record = catalog.scenes[sources[0].name]
    image, names, clouds = open_source(sources[0], scenes)
    same_nodata = scenes.nodata is None or scenes.nodata == record.nodata
    return (image.bands, names, clouds) == (record.bands, record.names, record.clouds) and same_nodata
