"""Which files make a scene: images found by pattern, and masks paired with them."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from raremap.errors import RaremapWarning, SceneError
from raremap.options import Options
from raremap.scene.clouds import CloudOptions
from raremap.scene.dates import SLOT, DatesOptions, combined
from raremap.scene.features.options import Feature
from raremap.scene.layers import SUFFIXES
from raremap.scene.normalize import NormalizeOptions
from raremap.scene.options import RescaleOptions
from raremap.scene.vector_options import VectorOptions


class ScenesOptions(Options):
    """Where the scenes are, and how their bands are called.

    `images` are patterns such as `data/img/*.tif`; each match is a scene of one multi-band file. With
    `band_files` a scene is one file a band: `{B2: "data/*_B2.tif", B3: "data/*_B3.tif"}`. An image and
    its mask are those whose wildcards stand for the same text: `Tile */images/*.jpg` goes with
    `Tile */masks/*.png`. `bands` names the stored bands where the files do not; `use` picks some of them, and
    `features` are made of those, after them. A scene without a mask is an error, or left out and counted
    (`without_mask: skip`).

    `layers` are further bands in files of their own, one band each on the image's grid, with the wildcards of the
    images: `{dem: "data/dem/*.tif", slope: "data/slope/*.tif"}`. They follow the bands and have a nodata value each;
    a layer without a date is that of all dates.

    With `vector` the masks are vector layers; one file without wildcards serves all scenes. `weights` are
    rasters on the images' grids that say how much each label counts: 0 is ignored, and only ratios matter.
    `rescale` brings mask rasters that are finer than their images to the images' grid, once, under OUT/labels; one
    file without wildcards serves all scenes.
    Masks may be rasters of fractions, a band a class, as `rescale: {kind: fractions}` makes them.

    `{date}` in a pattern stands for the date of a file, and `dates` says how several dates of a place are
    used (see `DatesOptions`): `{date}/valley_*.tif`. Masks, weights and clouds without a date are those of all
    dates. `clouds` says where clouds and snow are: `SCL` (a band), or a pattern of files.
    """

    root: str | None = None
    images: str | list[str] = Field(default_factory=list)
    band_files: dict[str, str] = Field(default_factory=dict)
    layers: dict[str, str | list[str]] = Field(default_factory=dict)
    masks: str | list[str] | None = None
    vector: VectorOptions | None = None
    weights: str | list[str] | None = None
    without_mask: Literal["error", "skip"] = "error"
    bands: list[str] | None = None
    use: list[str] | None = None
    nodata: float | None = None
    features: tuple[Feature, ...] = ()
    normalize: NormalizeOptions = NormalizeOptions()
    rescale: RescaleOptions | None = None
    dates: DatesOptions = DatesOptions()
    clouds: CloudOptions | None = None

    @property
    def makes_fractions(self) -> bool:
        """Whether these options make class fractions of the labels (rasters may hold them without)."""
        rescaled = self.rescale is not None and self.rescale.kind == "fractions"
        return rescaled or (self.vector is not None and self.vector.fractions)

    @field_validator("dates", mode="before")
    @classmethod
    def _kind(cls, dates: Any) -> Any:
        return {"kind": dates} if isinstance(dates, str) else dates

    @model_validator(mode="after")
    def _one_layout(self) -> ScenesOptions:
        if bool(self.images) == bool(self.band_files):
            raise ValueError("give either images (multi-band files) or band_files (one file a band)")
        if self.band_files and self.bands:
            raise ValueError("bands is for multi-band files; band_files already names its bands")
        images, masks = _listed(self.images), _listed(self.masks)
        if masks and images and len(masks) != len(images):
            raise ValueError(
                f"{len(images)} image patterns but {len(masks)} mask patterns; give one for each"
            )
        if self.rescale is not None and self.vector is not None:
            raise ValueError(
                "rescale is for mask rasters; vector layers are burnt on the images' grid, remove one"
            )
        clouds = _listed(self.clouds.files if self.clouds else None)
        if clouds and images and len(clouds) != len(images):
            raise ValueError(
                f"{len(images)} image patterns but {len(clouds)} patterns of clouds; give one for each"
            )
        weights = _listed(self.weights)
        if weights and len(weights) != max(1, len(images)):
            raise ValueError(
                f"{max(1, len(images))} image patterns but {len(weights)} of weights; give one for each"
            )
        for name, patterns in self.layers.items():
            if len(_listed(patterns)) != max(1, len(images)):
                raise ValueError(
                    f"{max(1, len(images))} image patterns but {len(_listed(patterns))} of the layer '{name}'; "
                    "give one for each"
                )
        for mask in masks:
            layer = Path(mask).suffix.lower() in SUFFIXES
            if layer and self.vector is None:
                raise ValueError(
                    f"masks {mask} are vector layers; say in vector which attribute is the class, "
                    "such as vector: {attribute: class}"
                )
            if self.vector is not None and not layer:
                raise ValueError(f"vector is given, but masks {mask} are no vector layers; remove vector")
        return self


@dataclass(frozen=True)
class SceneSource:
    """The files of one scene; `groups` are the texts that its wildcards stand for.

    `site` is the ground that it shows, the same for all dates. `clouds` are its cloud masks. `tags` make, of
    the names of the bands in each file, those of a scene of several dates (`red@2024-04-12`).
    """

    name: str
    images: tuple[str, ...]
    mask: str | None
    groups: tuple[str, ...]
    bands: tuple[str, ...] | None = None
    weights: str | None = None
    site: str = ""
    date: str | None = None
    clouds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    layers: tuple[tuple[str, str], ...] = ()


_DATE_OR_ANY = re.compile(re.escape(SLOT) + r"|[*?]")


class Key(NamedTuple):
    """What the wildcards of a pattern stand for in a file's path, and its date."""

    groups: tuple[str, ...]
    date: str | None = None


def find_scenes(options: ScenesOptions, masks: bool = True) -> list[SceneSource]:
    """The scenes in the order of their names; `masks` says whether each needs one. Raises `SceneError`."""
    scenes: list[SceneSource] = []
    if options.band_files:
        files = {band: _matches(p, options) for band, p in options.band_files.items()}
        first = next(iter(files))
        for band, found in files.items():
            if odd := set(found) ^ set(files[first]):
                key = min(odd, key=str)
                here, there = (first, band) if key in files[first] else (band, first)
                raise SceneError(
                    f"{files[here][key]} has no partner for band {there} ({options.band_files[there]}); "
                    "every scene needs all its band files"
                )
        beside = _beside(options, 0, files[first], masks)
        for key in files[first]:
            paths = tuple(files[band][key] for band in files)
            scenes.append(_scene(key, options.band_files[first], paths, beside, tuple(files)))
    for i, pattern in enumerate(_listed(options.images)):
        images = _matches(pattern, options)
        beside = _beside(options, i, images, masks)
        for key, path in images.items():
            names = tuple(options.bands) if options.bands else None
            scenes.append(_scene(key, pattern, (path,), beside, names))
    if masks and not options.masks:
        raise SceneError(
            "scenes.masks is not given; training needs the masks' pattern, such as data/mask/*.tif"
        )
    scenes = combined(scenes, options.dates)
    if masks and options.without_mask == "skip":
        scenes = _with_mask(scenes)
    seen: dict[str, SceneSource] = {}
    for scene in scenes:
        if scene.name in seen:
            raise SceneError(
                f"{scene.images[0]} and {seen[scene.name].images[0]} are both called '{scene.name}'; "
                "put a wildcard where their paths differ"
            )
        seen[scene.name] = scene
    return [seen[name] for name in sorted(seen)]


_Partners = dict[str, dict[Key, str]]


def _beside(options: ScenesOptions, i: int, images: Mapping[Key, str], masks: bool) -> _Partners:
    """The masks, weights and cloud masks that go with the images of the i-th pattern; raises `SceneError`.

    That is the file of the image's date, else the one of all dates.
    """
    out: _Partners = {}
    clouds = options.clouds.files if options.clouds else None
    for what, patterns in (
        ("mask", _listed(options.masks) if masks else []),
        ("weights", _listed(options.weights) if masks else []),
        ("cloud mask", _listed(clouds)),
        *((f"layer {name}", _listed(patterns)) for name, patterns in options.layers.items()),
    ):
        if not patterns:
            continue
        found = _matches(patterns[i], options, dated=False)
        placed = options.vector is not None or options.rescale is not None
        if what == "mask" and placed and Key(()) in found:  # one layer or raster for all scenes
            found = dict.fromkeys(images, found[Key(())])
        partners = {key: found.get(key, found.get(Key(key.groups))) for key in images}
        absent = next((key for key, path in partners.items() if path is None), None)
        if absent is not None and (what != "mask" or options.without_mask == "error"):
            wanted = " ".join(k for k in (*absent.groups, absent.date) if k) or "it"
            like = next(iter(found.values()))
            hint = (
                "; one raster serves all scenes with scenes.rescale"
                if what == "mask" and Key(()) in found
                else ""
            )
            raise SceneError(
                f"image {images[absent]} has no {what}: no file like {like} goes with {wanted}{hint}"
            )
        known = {*images, *(Key(key.groups) for key in images)}
        lonely = [path for key, path in found.items() if key not in known]
        if lonely and what in ("mask", "weights"):
            more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise SceneError(f"{what} {lonely[0]}{more} has no image; remove it or correct scenes.images")
        out[what] = {key: path for key, path in partners.items() if path is not None}
    return out


def _scene(
    key: Key, pattern: str, paths: tuple[str, ...], beside: _Partners, bands: tuple[str, ...] | None
) -> SceneSource:
    stem = Path(paths[0]).stem if key.date is None else _DATE_OR_ANY.sub("", Path(pattern).stem).strip("_-. ")
    site = "/".join(k for k in key.groups if k) or stem or "scene"
    mask, weights, cloud = (beside.get(what, {}).get(key) for what in ("mask", "weights", "cloud mask"))
    return SceneSource(
        f"{site}@{key.date}" if key.date else site,
        paths,
        mask,
        key.groups,
        bands,
        weights,
        site,
        key.date,
        (cloud,) if cloud is not None else (),
        layers=tuple(
            (what.removeprefix("layer "), files[key])
            for what, files in beside.items()
            if what.startswith("layer ")
        ),
    )


def _with_mask(scenes: list[SceneSource]) -> list[SceneSource]:
    """The scenes that have a mask, with a warning that counts the others."""
    without = [s for s in scenes if s.mask is None]
    if without:
        warnings.warn(
            f"{len(without)} of {len(scenes)} scenes have no mask and are left out, the first is {without[0].images[0]}",
            RaremapWarning,
            stacklevel=3,
        )
    return [s for s in scenes if s.mask is not None]


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def expand(path: str, root: str | None = None) -> str:
    """A path with `~` and `$VAR` replaced, under `root` where it is relative."""
    path = os.path.expandvars(os.path.expanduser(path))
    if root is not None and not os.path.isabs(path) and "://" not in path:
        path = os.path.join(os.path.expandvars(os.path.expanduser(root)), path)
    return path


def _matches(pattern: str, options: ScenesOptions, dated: bool = True) -> dict[Key, str]:
    """Files that match, keyed by what each wildcard stands for; raises `SceneError` where there is none.

    `dated` says whether `scenes.dates.pattern` has to find a date in each.
    """
    from raremap.scene.gdal import is_remote

    full = expand(pattern, options.root)
    if is_remote(full):  # which normpath would spoil
        if glob.has_magic(full) or SLOT in full:
            raise SceneError(
                f"{full} cannot be searched, for it is no folder here; write down each file of it"
            )
        return {Key(()): full}
    full = os.path.normpath(full)
    if SLOT not in full and (Path(full).is_file() or not glob.has_magic(full)):  # a name may hold brackets
        if not Path(full).exists():
            raise SceneError(f"{full} does not exist; check scenes.images, scenes.masks and scenes.root")
        return {Key(()): full}
    dates = options.dates
    exact = re.compile(_regex(full, dates.form))
    loose = re.compile(_regex(full, "[^/]+"))
    head = len(os.path.dirname(re.split(r"[*?\[]|" + re.escape(SLOT), full)[0]))
    found: dict[Key, str] = {}
    odd: re.Match[str] | None = None
    for path in sorted(glob.glob(full.replace(SLOT, "*"), recursive=True)):
        if path.endswith((".aux.xml", ".ovr", ".qml")) or not Path(path).is_file():
            continue
        match = exact.fullmatch(path) or loose.fullmatch(path)
        if match is None:
            continue
        if not exact.fullmatch(path) and (dates.of or not re.search(r"\d", match["date"])):
            odd = odd or match  # beside folders of dates stand others
            continue
        key = _key(match, path, head, dates, dated)
        if key.date is not None and key in found:
            raise SceneError(
                f"{found[key]} and {path} are of the same place and date ({key.date}); remove one"
            )
        found[key] = path
    if odd is not None and not found:
        dates.read(odd["date"], odd.string)
    if not found:
        raise SceneError(f"nothing matches {full}; check the pattern and scenes.root")
    return found


def _key(match: re.Match[str], path: str, head: int, dates: DatesOptions, dated: bool) -> Key:
    """What the wildcards stand for; a date is taken out of them, with a wildcard that stands for nothing else."""
    slot = match.re.groupindex.get("date")
    if slot is not None:
        groups = [g or "" for i, g in enumerate(match.groups(), start=1) if i != slot]
        return Key(tuple(groups), dates.read(match["date"], path))
    groups = [g or "" for g in match.groups()]
    found = dates.find(path, head, dated) if dates.pattern is not None else None
    if found is None:
        return Key(tuple(groups))
    date, (start, end) = found
    for i, (a, b) in enumerate(match.regs[1:]):
        if a <= start and end <= b:
            groups[i] = path[a:start] + path[end:b]
            if not groups[i]:
                del groups[i]
            break
    return Key(tuple(groups), date)


def _regex(pattern: str, date: str) -> str:
    """A regular expression whose groups are what the wildcards of a glob pattern stand for; `date` is that of a date."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith(SLOT, i):
            out += "(?P=date)" if "(?P<date>" in out else f"(?P<date>{date})"
            i += len(SLOT)
        elif pattern.startswith("**/", i):
            out, i = out + "(?:(.*)/)?", i + 3
        elif pattern[i] == "*":
            out, i = out + "([^/]*)", i + 1
        elif pattern[i] == "?":
            out, i = out + "([^/])", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            out, i = out + "([" + pattern[i + 1 : end].replace("!", "^", 1) + "])", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out
