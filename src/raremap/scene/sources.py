"""Which files make a scene: images found by pattern, and masks paired with them."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from raremap.errors import RaremapWarning, SceneError
from raremap.options import Options
from raremap.scene.features.options import Feature
from raremap.scene.layers import SUFFIXES, VectorOptions
from raremap.scene.normalize import NormalizeOptions
from raremap.scene.options import HardRescale


class ScenesOptions(Options):
    """Where the scenes are, and how their bands are called.

    `images` are patterns such as `data/img/*.tif`; each match is a scene of one multi-band file. With
    `band_files` a scene is one file a band: `{B2: "data/*_B2.tif", B3: "data/*_B3.tif"}`. An image and
    its mask are those whose wildcards stand for the same text: `Tile */images/*.jpg` goes with
    `Tile */masks/*.png`. `bands` names the stored bands where the files do not; `use` picks some of them, and
    `features` are made of those, after them. A scene without a mask is an error, or left out and counted
    (`without_mask: skip`).

    With `vector` the masks are vector layers; one file without wildcards serves all scenes. `weights` are
    rasters on the images' grids that say how much each label counts: 0 is ignored, and only ratios matter.
    `rescale` brings mask rasters that are finer than their images to the images' grid, once, under OUT/labels.
    """

    root: str | None = None
    images: str | list[str] = Field(default_factory=list)
    band_files: dict[str, str] = Field(default_factory=dict)
    masks: str | list[str] | None = None
    vector: VectorOptions | None = None
    weights: str | list[str] | None = None
    without_mask: Literal["error", "skip"] = "error"
    bands: list[str] | None = None
    use: list[str] | None = None
    nodata: float | None = None
    features: tuple[Feature, ...] = ()
    normalize: NormalizeOptions = NormalizeOptions()
    rescale: HardRescale | None = None

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
        weights = _listed(self.weights)
        if weights and len(weights) != max(1, len(images)):
            raise ValueError(
                f"{max(1, len(images))} image patterns but {len(weights)} of weights; give one for each"
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
    """The files of one scene; `groups` are the texts that its wildcards stand for."""

    name: str
    images: tuple[str, ...]
    mask: str | None
    groups: tuple[str, ...]
    bands: tuple[str, ...] | None = None
    weights: str | None = None


def find_scenes(options: ScenesOptions, masks: bool = True) -> list[SceneSource]:
    """The scenes in the order of their names; `masks` says whether each needs one. Raises `SceneError`."""
    patterns = options.images or None
    scenes: list[SceneSource] = []
    image_patterns = _listed(patterns)
    mask_patterns = _listed(options.masks)
    if options.band_files:
        files = {band: _matches(p, options.root) for band, p in options.band_files.items()}
        first = next(iter(files))
        for band, found in files.items():
            if odd := set(found) ^ set(files[first]):
                key = min(odd)
                here, there = (first, band) if key in files[first] else (band, first)
                raise SceneError(
                    f"{files[here][key]} has no partner for band {there} ({options.band_files[there]}); "
                    "every scene needs all its band files"
                )
        beside = _beside(options, 0, files[first], masks)
        for key in files[first]:
            paths = tuple(files[band][key] for band in files)
            scenes.append(_scene(key, paths, beside, tuple(files)))
    for i, pattern in enumerate(image_patterns):
        images = _matches(pattern, options.root)
        beside = _beside(options, i, images, masks)
        for key, path in images.items():
            names = tuple(options.bands) if options.bands else None
            scenes.append(_scene(key, (path,), beside, names))
    if masks and not mask_patterns:
        raise SceneError(
            "scenes.masks is not given; training needs the masks' pattern, such as data/mask/*.tif"
        )
    if options.without_mask == "skip":
        scenes = _with_mask(scenes, masks)
    seen: dict[str, SceneSource] = {}
    for scene in scenes:
        if scene.name in seen:
            raise SceneError(
                f"{scene.images[0]} and {seen[scene.name].images[0]} are both called '{scene.name}'; "
                "put a wildcard where their paths differ"
            )
        seen[scene.name] = scene
    return [seen[name] for name in sorted(seen)]


_Partners = dict[str, dict[tuple[str, ...], str]]


def _beside(options: ScenesOptions, i: int, images: Mapping[tuple[str, ...], str], masks: bool) -> _Partners:
    """The masks and the weights that go with the images of the i-th pattern; raises `SceneError`."""
    out: _Partners = {}
    if not masks:
        return out
    for what, patterns in (("mask", _listed(options.masks)), ("weights", _listed(options.weights))):
        if not patterns:
            continue
        found = _matches(patterns[i], options.root)
        if what == "mask" and options.vector is not None and () in found:  # one layer for all scenes
            found = dict.fromkeys(images, found[()])
        absent = [key for key in images if key not in found]
        if absent and (what == "weights" or options.without_mask == "error"):
            raise SceneError(
                f"image {images[absent[0]]} has no {what}: nothing matches {patterns[i]} with {absent[0] or 'it'}"
            )
        lonely = [path for key, path in found.items() if key not in images]
        if lonely:
            more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise SceneError(f"{what} {lonely[0]}{more} has no image; remove it or correct scenes.images")
        out[what] = found
    return out


def _scene(
    key: tuple[str, ...], paths: tuple[str, ...], beside: _Partners, bands: tuple[str, ...] | None
) -> SceneSource:
    name = "/".join(k for k in key if k) or Path(paths[0]).stem
    mask, weights = (beside.get(what, {}).get(key) for what in ("mask", "weights"))
    return SceneSource(name, paths, mask, key, bands, weights)


def _with_mask(scenes: list[SceneSource], masks: bool) -> list[SceneSource]:
    """The scenes that have a mask, with a warning that counts the others."""
    without = [s for s in scenes if s.mask is None] if masks else []
    if without:
        warnings.warn(
            f"{len(without)} of {len(scenes)} scenes have no mask and are left out, the first is {without[0].images[0]}",
            RaremapWarning,
            stacklevel=3,
        )
    return [s for s in scenes if s.mask is not None] if masks else scenes


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def expand(path: str, root: str | None = None) -> str:
    """A path with `~` and `$VAR` replaced, under `root` where it is relative."""
    path = os.path.expandvars(os.path.expanduser(path))
    if root is not None and not os.path.isabs(path) and "://" not in path:
        path = os.path.join(os.path.expandvars(os.path.expanduser(root)), path)
    return path


def _matches(pattern: str, root: str | None) -> dict[tuple[str, ...], str]:
    """Files that match, keyed by what each wildcard stands for; raises `SceneError` where there is none."""
    full = os.path.normpath(expand(pattern, root))
    if not glob.has_magic(full):
        if not Path(full).exists():
            raise SceneError(f"{full} does not exist; check scenes.images, scenes.masks and scenes.root")
        return {(): full}
    regex = re.compile(_regex(full))
    found: dict[tuple[str, ...], str] = {}
    for path in sorted(glob.glob(full, recursive=True)):
        match = regex.fullmatch(path)
        if match and not path.endswith((".aux.xml", ".ovr", ".qml")) and Path(path).is_file():
            found[tuple(g or "" for g in match.groups())] = path
    if not found:
        raise SceneError(f"nothing matches {full}; check the pattern and scenes.root")
    return found


def _regex(pattern: str) -> str:
    """A regular expression whose groups are what the wildcards of a glob pattern stand for."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
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
