"""Which files make a scene: images found by pattern, and masks paired with them."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from raremap.errors import SceneError
from raremap.options import Options
from raremap.scene.normalize import NormalizeOptions
from raremap.scene.options import HardRescale


class ScenesOptions(Options):
    """Where the scenes are, and how their bands are called.

    `images` are patterns such as `data/img/*.tif`; each match is a scene of one multi-band file. With
    `band_files` a scene is one file a band: `{B2: "data/*_B2.tif", B3: "data/*_B3.tif"}`. An image and
    its mask are those whose wildcards stand for the same text: `Tile */images/*.jpg` goes with
    `Tile */masks/*.png`. `bands` names the stored bands where the files do not; `use` picks some of them.
    `rescale` brings masks that are finer than their images to the images' grid, once, under OUT/labels.
    """

    root: str | None = None
    images: str | list[str] = Field(default_factory=list)
    band_files: dict[str, str] = Field(default_factory=dict)
    masks: str | list[str] | None = None
    bands: list[str] | None = None
    use: list[str] | None = None
    nodata: float | None = None
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
        return self


@dataclass(frozen=True)
class SceneSource:
    """The files of one scene; `groups` are the texts that its wildcards stand for."""

    name: str
    images: tuple[str, ...]
    mask: str | None
    groups: tuple[str, ...]
    bands: tuple[str, ...] | None = None


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
        found_masks = _matches(mask_patterns[0], options.root) if mask_patterns and masks else None
        for key in files[first]:
            paths = tuple(files[band][key] for band in files)
            scenes.append(_scene(key, paths, found_masks, mask_patterns, tuple(files)))
        _check_unused(found_masks, set(files[first]))
    for i, pattern in enumerate(image_patterns):
        images = _matches(pattern, options.root)
        found_masks = _matches(mask_patterns[i], options.root) if mask_patterns and masks else None
        for key, path in images.items():
            names = tuple(options.bands) if options.bands else None
            scenes.append(_scene(key, (path,), found_masks, mask_patterns[i : i + 1], names))
        _check_unused(found_masks, set(images))
    if masks and not mask_patterns:
        raise SceneError(
            "scenes.masks is not given; training needs the masks' pattern, such as data/mask/*.tif"
        )
    seen: dict[str, SceneSource] = {}
    for scene in scenes:
        if scene.name in seen:
            raise SceneError(
                f"{scene.images[0]} and {seen[scene.name].images[0]} are both called '{scene.name}'; "
                "put a wildcard where their paths differ"
            )
        seen[scene.name] = scene
    return [seen[name] for name in sorted(seen)]


def _scene(
    key: tuple[str, ...],
    paths: tuple[str, ...],
    masks: dict[tuple[str, ...], str] | None,
    pattern: list[str],
    bands: tuple[str, ...] | None,
) -> SceneSource:
    if masks is not None and key not in masks:
        raise SceneError(f"image {paths[0]} has no mask: nothing matches {pattern[0]} with {key or 'it'}")
    name = "/".join(k for k in key if k) or Path(paths[0]).stem
    return SceneSource(name, paths, masks[key] if masks is not None else None, key, bands)


def _check_unused(masks: dict[tuple[str, ...], str] | None, images: set[tuple[str, ...]]) -> None:
    lonely = [path for key, path in (masks or {}).items() if key not in images]
    if lonely:
        more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
        raise SceneError(f"mask {lonely[0]}{more} has no image; remove it or correct scenes.images")


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
