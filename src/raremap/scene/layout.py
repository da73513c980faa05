"""A scene's image as the options want it: bands named by file and date, some of them picked, clouds apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raremap.scene.clouds import CloudRecord, check_band
from raremap.scene.raster import ImageReader, open_image

if TYPE_CHECKING:
    from raremap.scene.sources import ScenesOptions, SceneSource


def stored_names(source: SceneSource) -> tuple[str, ...] | None:
    """Names of all stored bands where files or dates are put together, or the user named them; else None."""
    if source.bands is not None or not source.tags:
        return source.bands
    names: list[str] = []
    for path, tag in zip(source.images, source.tags, strict=True):
        with open_image(path) as file:
            names += [tag.format(band) for band in file.bands]
    return tuple(names)


def open_source(
    source: SceneSource, scenes: ScenesOptions
) -> tuple[ImageReader, tuple[str, ...] | None, CloudRecord | None]:
    """The image of a scene with the bands that are used, its stored names, and where its clouds are.

    A band of clouds is none of the image. In several dates `scenes.use` may name a band of all of them, by its
    own name. Raises `SceneError`.
    """
    names = stored_names(source)
    tags = tuple(dict.fromkeys(source.tags)) or ("{}",)
    use, clouds, layers = scenes.use, scenes.clouds, dict(source.layers)
    record = None
    if clouds is not None:
        bands = tuple(tag.format(clouds.band) for tag in tags) if clouds.band else ()
        record = CloudRecord(
            bands=bands,
            files=source.clouds,
            cloud=tuple(clouds.cloud) if clouds.cloud else None,
            snow=tuple(clouds.snow or ()),
            rule="any" if scenes.dates.kind == "pre_post" else "all",
        )
    if use is None and not (record and record.bands):
        return open_image(source.images, names, None, scenes.nodata, layers), names, record
    with open_image(source.images, names, None, scenes.nodata, layers) as image:
        known = image.bands
    for band in record.bands if record else ():
        check_band(band, known, source.images[0])
    if use is None:
        assert record is not None
        picked = [b for b in known if b not in record.bands]
    else:
        picked = [
            t for b in use for t in ([b] if b in known or not source.tags else (g.format(b) for g in tags))
        ]
    return open_image(source.images, names, picked, scenes.nodata, layers), names, record
