"""The scenes that a verb is given: files, or YAML files whose section `scenes` says which files make each."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from raremap.errors import BundleError, ConfigError, RaremapWarning, SceneError, nearest
from raremap.keys import explain, override, read_keys
from raremap.options import Options
from raremap.scene.raster import nodata_tags
from raremap.scene.sources import ScenesOptions, SceneSource, find_scenes
from raremap.tiles.catalog import SceneRecord
from raremap.tiles.sections import laid_out
from raremap.workflows.likeness import unlike

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.scene.raster import Image
    from raremap.scene.sources import ScenesOptions, SceneSource

    Given = str | Path | ScenesOptions


class _Section(Options):
    scenes: ScenesOptions


_ONE_FILE = ScenesOptions(images="*")
"""How a file is read that is a scene by itself: nothing is said of it."""


@dataclass(frozen=True)
class SceneToMap:
    """A scene that has the bands of a model: what its maps are called, and its files."""

    name: str
    record: SceneRecord

    @property
    def path(self) -> str:
        """Its first file, as messages call it."""
        return self.record.images[0]

    def opened(self, model: Bundle | Ensemble | Exported) -> Image:
        """The model's bands of the scene, with its features: what evaluation reads of a scene of a catalog."""
        return model.opened(self.record.open_image(model.bands))


def scenes_to_map(
    model: Bundle | Ensemble | Exported,
    given: Given | Sequence[Given],
    nodata: float | None = None,
    layers: Mapping[str, str | Path] | None = None,
    clouds: bool = False,
) -> list[SceneToMap]:
    """The scenes of files, of YAML files and of `scenes` sections, in this order, each opened once.

    As in training, a value of no data that somebody gave goes before the files' own tags: `nodata`, else that of a
    scene's section, else what the training was given; a warning says where tags differ from the latter, and others
    where the pixels or the numbers of a scene are not like those of the training.
    `layers` are bands in files of their own, for all scenes. Clouds are looked for with `clouds` only: maps need
    none. Raises `SceneError` where files are missing or do not fit each other, `BundleError` where a
    scene lacks a band of the model.
    """
    more = {name: str(path) for name, path in (layers or {}).items()}
    scenes, differ, doubts = [], [], []
    for source, options in _sources(given, clouds):
        apart = tuple({**dict(source.layers), **more}.items())
        told = options.nodata if nodata is None else nodata
        options = options.model_copy(update={"nodata": model.nodata if told is None else told})
        record = fitted(SceneRecord.of(replace(source, layers=apart), options), model.bands)
        scene = SceneToMap(source.name, record)
        with scene.opened(model):
            scenes.append(scene)
        doubts += unlike(model, record)
        if told is None and model.nodata is not None:
            differ += [(path, tag) for tag, path in nodata_tags(record.images).items() if tag != model.nodata]
    if differ:
        warnings.warn(_tagged(differ, model.nodata), RaremapWarning, stacklevel=3)
    for line in doubts:
        warnings.warn(line, RaremapWarning, stacklevel=3)
    return scenes


def _tagged(differ: Sequence[tuple[str | Path, float]], nodata: float | None) -> str:
    (path, tag), others = differ[0], len(differ) - 1
    return (
        f"{path} is tagged nodata {tag:g}{f' ({others} more files have other tags, too)' if others else ''}, but the model was "
        f"trained with scenes.nodata {nodata:g}, which is used; give --nodata {tag:g} where the tag is right"
    )


def scene_file(path: str | Path, bands: Sequence[str]) -> SceneRecord:
    """A scene of one file that has `bands`; raises as `scenes_to_map` does."""
    (found,) = _sources(path, clouds=False)
    return fitted(SceneRecord.of(*found), bands)


def fitted(record: SceneRecord, bands: Sequence[str]) -> SceneRecord:
    """A scene with the bands that a model needs, by name; by order where its files name none and have as many."""
    missing = [b for b in bands if b not in record.bands]
    if not missing:
        return record
    with record.open_image() as image:
        named = image.named
    if not named:
        apart = dict(record.layers)
        in_order = replace(record, names=tuple(b for b in bands if b not in apart), bands=tuple(bands))
        with suppress(SceneError), in_order.open_image():  # another number of bands: told below
            return in_order
    raise BundleError(
        f"scene {record.images[0]} has no band '{missing[0]}'; the bundle needs {', '.join(bands)}, "
        f"the scene has {', '.join(record.bands)}; {_mend(missing[0], bands, record)}"
    )


def _mend(missing: str, bands: Sequence[str], record: SceneRecord) -> str:
    """What may give a scene the band that it lacks."""
    date = missing.partition("@")[2]
    if date and not any(b.endswith(f"@{date}") for b in record.bands):
        dates = dict.fromkeys(b.partition("@")[2] for b in bands if "@" in b)
        return (
            "map its dates as one, from a YAML file with scenes.dates: "
            f"{{kind: stack, names: [{', '.join(dates)}]}}, in the order of time"
        )
    if missing.startswith(("pre_", "post_")) and not any(
        b.startswith(("pre_", "post_")) for b in record.bands
    ):
        return "map its two dates as one, from a YAML file with scenes.dates: pre_post"
    hint = nearest(missing, record.bands)
    if hint.startswith("known"):
        return f"where it is in a file of its own: --layer {missing}=FILE, or scenes.layers in a YAML file"
    return hint


def tells_scenes(path: str | Path) -> bool:
    """Whether a file is no scene, but says which files make scenes."""
    return Path(path).suffix.lower() in (".yaml", ".yml")


def read_scenes(path: str | Path, overrides: Sequence[str] = ()) -> ScenesOptions:
    """The section `scenes` of a YAML file, such as an experiment's own; what else stands there is not looked at.

    `overrides` such as `scenes.root=data` are applied last. Raises `ConfigError` naming the file and the key.
    """
    data = read_keys(path, "scenes file")
    for text in overrides:
        if not text.strip().startswith("scenes."):
            raise ConfigError(
                f"override '{text}' changes no scene; give keys of scenes, such as scenes.root=data"
            )
        override(data, text)
    if "scenes" not in data:
        raise ConfigError(
            f"{path} has no section 'scenes'; {nearest('scenes', data)}; "
            "write which files are mapped, such as scenes: {images: data/img/*.tif}"
        )
    try:
        return _Section(scenes=laid_out(data)["scenes"]).scenes
    except ValidationError as error:
        raise ConfigError(explain(error, str(path), _Section)) from None


def _sources(given: Given | Sequence[Given], clouds: bool) -> Iterator[tuple[SceneSource, ScenesOptions]]:
    """The files of each scene, and how they are read: all bands, and `clouds` where they are wanted."""
    for one in [given] if isinstance(given, (str, Path, ScenesOptions)) else given:
        if isinstance(one, (str, Path)) and not tells_scenes(one):
            path = str(one)  # Path would make s3:/ of s3://
            yield SceneSource(Path(path).stem, (path,), None, ()), _ONE_FILE
            continue
        options = one if isinstance(one, ScenesOptions) else read_scenes(one)
        kept = {} if clouds else {"clouds": None}
        options = options.model_copy(update={"use": None, **kept})
        for source in find_scenes(options, masks=False):
            yield replace(source, name=re.sub(r'[/\\:*?"<>|]', "_", source.name)), options
