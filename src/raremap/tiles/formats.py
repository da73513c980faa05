"""Folders in layouts that many sets share, read as the sections of an experiment; HDF5 and torchgeo sets as GeoTIFFs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import ConfigError, MissingExtra, SceneError, nearest
from raremap.files import written
from raremap.jobs import tracked

Sections = dict[str, Any]

_RGB = ["red", "green", "blue"]
_RUN = 50
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


def layout(name: str, root: str | Path, out: str | Path | None = None, quiet: bool = False) -> Sections:
    """The sections (`scenes`, `labels`, `split` …) of an experiment on a folder of a known layout.

    `out` is where sets that are no rasters (`landslide4sense`, `torchgeo:NAME`) are written as GeoTIFFs; what
    is there already is kept. Raises `ConfigError` where the folder is not of that layout.
    """
    root = Path(root)
    if name.startswith("torchgeo:"):
        return torchgeo(name.removeprefix("torchgeo:"), root, _needed(out, name), quiet)
    if name not in LAYOUTS:
        raise ConfigError(f"no layout is called '{name}'; {nearest(name, [*LAYOUTS, 'torchgeo:NAME'])}")
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; give the one that holds the {name} files")
    if name == "landslide4sense" and _has(root, "*/img/*.h5"):
        root = convert_landslide4sense(root, _needed(out, name), quiet)
    return LAYOUTS[name](root)


def pairs(root: Path) -> Sections:
    """Images and masks of the same file names in two folders, such as `img300` and `mask300`; labels are yours to name."""
    found = []
    for images in sorted(p for p in root.iterdir() if p.is_dir()):
        match = re.fullmatch(r"(imgs?|images?)(\W?\d*)", images.name, re.IGNORECASE)
        for word in ("mask", "masks", "label", "labels") if match else ():
            masks = root / f"{word}{match[2]}" if match else root
            if masks.is_dir() and _suffix(images) and _suffix(masks):
                found.append((images, masks))
    if len(found) != 1:
        said = ", ".join(f"{i.name} with {m.name}" for i, m in found) or "none"
        raise ConfigError(
            f"{root} should hold one folder of images beside one of masks, such as img300 and mask300; "
            f"found {said}; give scenes.images and scenes.masks yourself"
        )
    images, masks = found[0]
    return {
        "scenes": {
            "root": str(root),
            "images": f"{images.name}/*{_suffix(images)}",
            "masks": f"{masks.name}/*{_suffix(masks)}",
        }
    }


def openearthmap(root: Path) -> Sections:
    """OpenEarthMap (Xia et al. 2023): `REGION/images` and `REGION/labels`; a region is a place.

    Images whose labels were not published are left out and counted.
    """
    _expect(root, "openearthmap", "*/images/*.tif", "*/labels/*.tif")
    return {
        "scenes": {
            "root": str(root),
            "images": "*/images/*.tif",
            "masks": "*/labels/*.tif",
            "without_mask": "skip",
            "bands": _RGB,
        },
        "labels": "openearthmap",
        "split": {"places": 1},
    }


def loveda(root: Path) -> Sections:
    """LoveDA (Wang et al. 2021): `Train/Urban/images_png` and `masks_png`, `Val` is the test; `Test` has no labels."""
    _expect(root, "loveda", "Train/*/images_png/*.png", "Train/*/masks_png/*.png")
    sections: Sections = {
        "scenes": {
            "root": str(root),
            "images": "*/*/images_png/*.png",
            "masks": "*/*/masks_png/*.png",
            "without_mask": "skip",
            "bands": _RGB,
        },
        "labels": "loveda",
        # The photos have no place on the ground: each is its own, inside the official halves.
        "split": {"places": 1, "within": 1024},
    }
    if _has(root, "Val/*/masks_png/*.png"):
        sections["split"]["test"] = ["Val"]
    return sections


def chesapeake(root: Path) -> Sections:
    """Chesapeake land cover (Robinson et al. 2019): `*_naip-new.tif` beside `*_lc.tif`, in folders of states or in one."""
    deep = _has(root, "*/*_naip-new.tif")
    at = "*/" if deep else ""
    _expect(root, "chesapeake", f"{at}*_naip-new.tif", f"{at}*_lc.tif")
    sections: Sections = {
        "scenes": {
            "root": str(root),
            "images": f"{at}*_naip-new.tif",
            "masks": f"{at}*_lc.tif",
            "bands": [*_RGB, "nir"],
        },
        "labels": "chesapeake-7",
    }
    tests = sorted(p.name for p in root.iterdir() if p.is_dir() and "-test_tiles" in p.name) if deep else []
    if tests:
        sections["split"] = {"places": 1, "within": 2048, "test": tests}
    return sections


LANDSLIDE4SENSE_BANDS = (*(f"B{i}" for i in range(1, 13)), "slope", "dem")
"""The bands of Landslide4Sense in order: Sentinel-2 B1 to B12 without B8A, slope, elevation."""


def landslide4sense(root: Path) -> Sections:
    """Landslide4Sense as `convert_landslide4sense` wrote it; where the official test is there with its masks it is the test.

    The tiles have no place on the ground. Neighbours in the list are likely neighbours there, so runs of `_RUN` (of a
    small part of the set: shorter ones) are the places that training, monitor and calibration divide among them.
    """
    _expect(root, "landslide4sense", "*/img/*.tif", "*/mask/*.tif")
    longest = max(len(list(part.glob("mask_*.tif"))) for part in root.glob("*/mask"))
    sections: Sections = {
        "scenes": {
            "root": str(root),
            "images": "*/img/image_*.tif",
            "masks": "*/mask/mask_*.tif",
            "without_mask": "skip",
            "bands": list(LANDSLIDE4SENSE_BANDS),
        },
        "labels": "landslide",
        "tiles": {"size": 128},
        "split": {"places": 1, "block_files": max(1, min(_RUN, longest // 20))},
    }
    if _has(root, "TestData/mask/*.tif"):
        sections["split"]["test"] = ["TestData"]
    return sections


LAYOUTS: dict[str, Callable[[Path], Sections]] = {
    "pairs": pairs,
    "openearthmap": openearthmap,
    "loveda": loveda,
    "chesapeake": chesapeake,
    "landslide4sense": landslide4sense,
}
"""Layouts by name."""


def convert_landslide4sense(root: str | Path, out: str | Path, quiet: bool = False) -> Path:
    """Landslide4Sense's HDF5 tiles (`TrainData/img/image_1.h5`, `mask/mask_1.h5`) as GeoTIFFs under `out`; gives `out`.

    Values stay as they are (float32). Files that are there are kept, so that a stopped conversion goes on.
    """
    root, out = Path(root), Path(out)
    files = [p for key in ("img", "mask") for p in sorted(root.glob(f"*/{key}/*.h5"))]
    if not files:
        raise ConfigError(f"{root} holds no */img/*.h5, expected TrainData/img/image_1.h5 and so on")
    for path in tracked(files, "convert", len(files), quiet):
        fresh = (out / path.relative_to(root)).with_suffix(".tif")
        if fresh.exists():
            continue
        if path.parent.name == "img":
            array = _hdf5(path, "img")
            if array.ndim != 3 or array.shape[-1] != len(LANDSLIDE4SENSE_BANDS):
                raise SceneError(f"{path} 'img' has shape {array.shape}, expected (128, 128, 14)")
            _write(fresh, np.moveaxis(array, -1, 0).astype(np.float32), LANDSLIDE4SENSE_BANDS)
        else:
            array = _hdf5(path, "mask")
            if array.ndim != 2:
                raise SceneError(f"{path} 'mask' has shape {array.shape}, expected (128, 128)")
            _write(fresh, array.astype(np.uint8)[None])
    return out


def torchgeo(name: str, root: Path, out: str | Path, quiet: bool = False) -> Sections:
    """A segmentation set of torchgeo, downloaded to `root` where it is not there, as GeoTIFFs under `out`.

    Its splits stay apart: `test` is the test. Sets of whole rasters (`GeoDataset`) are refused: their files
    are GeoTIFFs already.
    """
    try:
        from torchgeo import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("torchgeo", "torchgeo") from None

    known = [n for n in dir(datasets) if isinstance(getattr(datasets, n), type)]
    found = getattr(datasets, name) if name in known else None
    if found is None:
        raise ConfigError(f"torchgeo has no set '{name}'; {nearest(name, known)}")
    if not issubclass(found, datasets.NonGeoDataset):
        raise ConfigError(
            f"torchgeo's {name} is of whole rasters; give its files as scenes.images and scenes.masks"
        )
    out, classes = Path(out), None
    parts = [str(s) for s in getattr(found, "splits", ())] or [""]
    for part in parts:
        try:
            samples = found(root=str(root), **({"split": part} if part else {}), download=True)
        except Exception as error:  # whatever a set raises: a network, a checksum, a keyword it does not take
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"torchgeo's {name} cannot be had ({type(error).__name__}: {reason})"
            ) from error
        classes = getattr(samples, "classes", classes)
        for i in tracked(range(len(samples)), f"{name} {part}", len(samples), quiet):
            image, mask = (out / (part or "all") / kind / f"{i:06d}.tif" for kind in ("img", "mask"))
            if image.exists() and mask.exists():
                continue
            sample = samples[i]
            if "image" not in sample or "mask" not in sample:
                raise ConfigError(f"torchgeo's {name} gives {', '.join(sample)}, expected image and mask")
            classes_of, bands = np.asarray(sample["mask"]).squeeze(), np.asarray(sample["image"])
            if classes_of.shape != bands.shape[1:]:
                raise ConfigError(
                    f"torchgeo's {name} gives images {bands.shape} with masks {classes_of.shape}, expected bands of "
                    "the mask's height and width"
                )
            if classes_of.min() < 0 or classes_of.max() > 255:
                raise ConfigError(
                    f"torchgeo's {name} has mask values {classes_of.min()} to {classes_of.max()}, expected 0 to 255"
                )
            _write(mask, classes_of.astype(np.uint8)[None])
            _write(image, _stored(bands))
    sections: Sections = {
        "scenes": {"root": str(out), "images": "*/img/*.tif", "masks": "*/mask/*.tif"},
        "split": {"places": 1, "within": 1 << 20},
    }
    if "test" in parts:
        sections["split"]["test"] = ["test"]
    if classes is not None and len(classes) > 1:
        sections["labels"] = {"classes": {i: str(c) for i, c in enumerate(classes)}}
    return sections


def _stored(image: np.ndarray) -> np.ndarray:
    """Bands `[C, h, w]` in the smallest type that holds them: torchgeo gives every image as float32."""
    whole = np.issubdtype(image.dtype, np.integer) or bool((image == np.round(image)).all())
    if whole and image.min() >= 0 and image.max() <= 65535:
        return image.astype(np.uint8 if image.max() <= 255 else np.uint16)
    return image.astype(np.float32)


def _hdf5(path: Path, key: str) -> np.ndarray:
    """A data set of an HDF5 file, in the order it is stored in; GDAL reads it, a slice of the first axis as a band."""
    import rasterio
    from rasterio.errors import RasterioError

    with path.open("rb") as plain:  # HDF5's library would print its own account of another file, page by page
        if plain.read(8) != _SIGNATURE:
            raise SceneError(
                f"{path} has no readable '{key}' (it is no HDF5 file); is the download complete?"
            )
    try:
        with rasterio.open(f'HDF5:"{path}"://{key}') as file:
            array = file.read()
    except RasterioError as error:
        with rasterio.Env() as env:
            if "HDF5" not in env.drivers():
                raise SceneError(
                    f"{path} is HDF5, which this rasterio cannot read; install the wheel: pip install rasterio"
                ) from None
        reason = " ".join(str(error).split())[:120]
        raise SceneError(
            f"{path} has no readable '{key}' ({reason}); expected an HDF5 file with that key"
        ) from None
    return array[0] if len(array) == 1 else array


def _write(path: Path, array: np.ndarray, names: tuple[str, ...] = ()) -> None:
    import rasterio

    profile: dict[str, Any] = {
        "driver": "GTiff", "height": array.shape[1], "width": array.shape[2], "count": len(array),
        "dtype": array.dtype, "compress": "deflate", "interleave": "band",
    }  # fmt: skip
    with written(path) as fresh, rasterio.open(fresh, "w", **profile) as file:
        file.write(array)
        for i, name in enumerate(names, start=1):
            file.set_band_description(i, name)


def _needed(out: str | Path | None, name: str) -> Path:
    if out is None:
        raise ConfigError(
            f"{name} is written as GeoTIFFs first: `raremap layout {name} FOLDER -o OUT`, then use the sections it prints"
        )
    return Path(out)


def _expect(root: Path, name: str, *patterns: str) -> None:
    for pattern in patterns:
        if not _has(root, pattern):
            raise ConfigError(f"{root} is not laid out like {name}: nothing matches {pattern} there")


def _has(root: Path, pattern: str) -> bool:
    return next(iter(root.glob(pattern)), None) is not None


def _suffix(folder: Path) -> str | None:
    """The ending of the folder's pictures; raises `ConfigError` where there are several."""
    found = sorted({p.suffix for p in _files(folder) if p.suffix.lower() in _PICTURES})
    if len(found) > 1:
        raise ConfigError(
            f"{folder} mixes {', '.join(found)} files; give scenes.images and scenes.masks yourself"
        )
    return found[0] if found else None


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.is_file())
