"""Filling a `Store`: the blocks that windows of scenes touch, read once, on all cores, in bounded memory.

A store is a folder. `cache.json` says what its blocks were made of and which file they stand in; they are only
ever added to it, and `cache.blocks`, a journal, says which of them are whole. So a job that is killed goes on where
it was, another that asks for more adds that, and who maps the file meanwhile sees nothing change.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import OutputError, RaremapWarning
from raremap.files import locked, written
from raremap.jobs import Journal, cores, in_threads, progress
from raremap.scene.gdal import bounded_cache
from raremap.scene.window import Window
from raremap.tiles.contents import FeatureOf, Scenes
from raremap.tiles.identity import difference, feature_folder, feature_form
from raremap.tiles.store import BLOCK, Store, StoredScene, touched

if TYPE_CHECKING:
    from raremap.scene.features.options import Feature
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.contents import Content

_FORMAT = 2
_META, _JOURNAL = "cache.json", "cache.blocks"

Windows = Mapping[str, Sequence[Window]]
"""What will be read of each scene."""


def fill(catalog: Catalog, windows: Windows, folder: Path, quiet: bool = False, keep: bool = True) -> Store:
    """The store in `folder` with all blocks that the windows touch; what it lacks is read now.

    A store of other sources, bands or labels is made anew, with a `RaremapWarning` that says why. A second process
    waits. Raises `OutputError` where the folder cannot be written or has no room; what was done stays then, if
    `keep`.
    """
    return _filled(Scenes(catalog), windows, folder, quiet, keep)


def fill_feature(
    feature: FeatureOf, windows: Windows, folder: Path, quiet: bool = False, keep: bool = True
) -> Store:
    """The store of a feature with all blocks that the windows touch, beside that of the scenes in `folder`.

    It is like that of `fill` in all else, but its folder is called after the feature's numbers: with others of them
    it has another one, and this one stays.
    """
    return _filled(feature, windows, feature_folder(folder, feature.feature), quiet, keep)


def _filled(content: Content, windows: Windows, folder: Path, quiet: bool, keep: bool) -> Store:
    with locked(folder, wait=True):
        try:
            work = _Filling(content, windows, folder)
            work.begin()
            if work.missing:
                work.check_room()
                _fill(work, quiet)
            # Under the lock: another job may make the store anew, and what is mapped stays.
            return Store(work.path, work.scenes).mapped()
        except OutputError:
            if not keep:
                with suppress(OSError):
                    remove(folder)
            raise


def _fill(work: _Filling, quiet: bool) -> None:
    with (
        progress(work.content.title, work.missing, quiet) as bar,
        bounded_cache(128),
        work.appending() as append,
    ):
        for part, blocks in in_threads(work.parts(), work.read, cores()):
            append(part, blocks)
            bar.advance(len(blocks))


def stored_bytes(folder: Path, features: bool = False) -> int:
    """What the store in a folder, if there is one, takes of the disk; with all those of `features` that lie in it."""
    found = folder.rglob("*.pixels") if features else folder.glob("*.pixels")
    return sum(path.stat().st_size for path in found)


def size_of(catalog: Catalog, windows: Windows, features: Mapping[Feature, Windows] | None = None) -> int:
    """Bytes that the blocks of the windows take, and those of the windows of features."""
    scenes = Scenes(catalog)
    total = sum(_area(catalog, name, those) * scenes.form(name).pixel for name, those in windows.items())
    for feature, by_scene in (features or {}).items():
        area = sum(_area(catalog, name, those) for name, those in by_scene.items())
        total += area * feature_form(feature).pixel
    return total


def _area(catalog: Catalog, name: str, windows: Sequence[Window]) -> int:
    """Pixels of the blocks of a scene that windows touch."""
    grid = catalog.scenes[name].grid
    found = _touched(grid.height, grid.width, windows)
    heights = np.minimum(BLOCK, grid.height - BLOCK * np.arange(found.shape[0]))
    widths = np.minimum(BLOCK, grid.width - BLOCK * np.arange(found.shape[1]))
    return int((found * heights[:, None] * widths).sum())


def remove(folder: Path) -> None:
    """Delete what a store left in its folder; who has mapped it reads on."""
    for path in (folder / _META, folder / _JOURNAL, *folder.glob("*.pixels")):
        path.unlink(missing_ok=True)


def sized(size: float) -> str:
    """A number of bytes to print, in three figures.

    >>> sized(1.26e10), sized(4e4)
    ('12.6 GB', '0.04 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@dataclass(frozen=True)
class _Part:
    """A rectangle of blocks of a scene, of which those in `blocks` are to be read."""

    scene: str
    rows: tuple[int, int]
    cols: tuple[int, int]
    blocks: tuple[tuple[int, int], ...]


_Block = tuple[int, int, bytes]


class _Filling:
    """A store under its lock."""

    def __init__(self, content: Content, windows: Windows, folder: Path) -> None:
        self.content, self._windows, self._folder = content, windows, folder
        self._catalog = content.catalog
        self._forms = {name: content.form(name) for name in windows}
        self.scenes: dict[str, StoredScene] = {}
        self.missing = 0

    def begin(self) -> None:
        """Take over what is there, if it is of the same sources."""
        now = {name: self.content.identity(name, form) for name, form in self._forms.items()}
        kept, why = self._kept(now)
        if why is not None:
            warnings.warn(f"the cache in {self._folder} is made anew: {why}", RaremapWarning, stacklevel=5)
        if kept is None:
            remove(self._folder)
            kept = {
                "format": _FORMAT,
                "file": f"{uuid.uuid4().hex[:12]}.pixels",
                **self.content.of,
                "scenes": {},
            }
        if not now.keys() <= kept["scenes"].keys():
            kept["scenes"] |= now
            with written(self._folder / _META) as fresh:
                fresh.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        self.path = self._folder / kept["file"]
        self._journal = Journal(self._folder / _JOURNAL)
        self._take_in()

    def _kept(self, now: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        """What stands in the folder, or why that is of no use (None: there is nothing)."""
        path = self._folder / _META
        if not path.exists():
            return None, None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["format"] != _FORMAT:
                return None, "another version made it"
            scenes, file = kept["scenes"], self._folder / kept["file"]
            before = {key: kept[key] for key in self.content.of}
        except (ValueError, KeyError, TypeError, OSError):
            return None, f"{path.name} is damaged"
        if before != self.content.of:
            return None, f"{self.content.said} has changed"
        for name in now.keys() & scenes.keys():
            if what := difference(scenes[name], now[name]):
                return None, f"{what} of scene {name} ({self._catalog.scenes[name].images[0]}) changed"
        held = max((end for _, end in _records(Journal(self._folder / _JOURNAL))), default=0)
        if held and (not file.exists() or file.stat().st_size < held):
            return None, f"{file.name} is cut short"
        return kept, None

    def _take_in(self) -> None:
        """Where the blocks are that are whole, and how many are missing."""
        for name, form in self._forms.items():
            grid = self._catalog.scenes[name].grid
            shape = (-(-grid.height // BLOCK), -(-grid.width // BLOCK))
            self.scenes[name] = StoredScene(grid.height, grid.width, form, np.full(shape, -1, np.int64))
        self._end = 0
        for (name, blocks), end in _records(self._journal):
            self._end = max(self._end, end)
            if name in self.scenes:
                for i, j, start in blocks:
                    self.scenes[name].offsets[i, j] = start
        self._lacking: dict[str, np.ndarray] = {}
        for name, scene in self.scenes.items():
            lacking = _touched(scene.height, scene.width, self._windows[name]) & (scene.offsets < 0)
            if lacking.any():
                self._lacking[name] = lacking
        self.missing = sum(int(lacking.sum()) for lacking in self._lacking.values())

    def check_room(self) -> None:
        """Raise `OutputError` where the disk has no room for what is missing."""
        needed = 0
        for name, lacking in self._lacking.items():
            scene = self.scenes[name]
            needed += sum(scene.form.size(*self._size(name, i, j)) for i, j in np.argwhere(lacking).tolist())
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OutputError(
                f"the cache in {self._folder} needs {sized(needed)} more, the disk has {sized(free)}; "
                "make room, set train.cache_folder to another disk, or train.cache: false"
            )

    def parts(self) -> Iterator[_Part]:
        """Rectangles of blocks that are missing, of as many as are read at a time."""
        for name, lacking in self._lacking.items():
            high, wide, joined = self.content.steps(name, self.scenes[name].form, lacking.shape[1])
            for top in range(0, lacking.shape[0], high):
                band = lacking[top : top + high]
                for left, right in _runs(np.any(band, axis=0), wide, joined):
                    found = np.argwhere(band[:, left:right]) + np.array([top, left])
                    rows = int(found[:, 0].min()), int(found[:, 0].max()) + 1
                    yield _Part(name, rows, (left, right), tuple((i, j) for i, j in found.tolist()))

    def read(self, part: _Part) -> list[_Block]:
        """The blocks of a part as they will stand in the file."""
        name, form = part.scene, self.scenes[part.scene].form
        (top, bottom), (left, right) = part.rows, part.cols
        window = Window(top * BLOCK, left * BLOCK, (bottom - top) * BLOCK, (right - left) * BLOCK)
        window = window.intersect(self._catalog.scenes[name].grid.window)
        layers = self.content.read(name, form, window)
        found = []
        for i, j in part.blocks:
            block = Window(i * BLOCK, j * BLOCK, *self._size(name, i, j))
            here = block.slices(within=window)
            found.append((i, j, form.pack([layer[..., *here] for layer in layers])))
        return found

    @contextmanager
    def appending(self) -> Iterator[Callable[[_Part, list[_Block]], None]]:
        """A function that puts the blocks of a part behind the last whole one, then into the journal."""
        with _told(self.path), self.path.open("ab") as file:
            file.truncate(self._end)  # blocks that were being written when an earlier job was stopped

            def append(part: _Part, blocks: list[_Block]) -> None:
                starts, end = [], self._end
                with _told(self.path):
                    for i, j, data in blocks:
                        starts.append((i, j, end))
                        end += file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                record = json.dumps({"scene": part.scene, "blocks": starts, "end": end})
                self._journal.put(f"{self._end}", record.encode())
                self._end = end
                offsets = self.scenes[part.scene].offsets
                for i, j, start in starts:
                    offsets[i, j] = start

            yield append

    def _size(self, name: str, i: int, j: int) -> tuple[int, int]:
        """Height and width of a block."""
        scene = self.scenes[name]
        return min(BLOCK, scene.height - i * BLOCK), min(BLOCK, scene.width - j * BLOCK)


def _records(journal: Journal) -> Iterator[tuple[tuple[str, list[tuple[int, int, int]]], int]]:
    """Scene and blocks (row, column, start) of each part in a journal, and where it ends in the file."""
    for _, data in journal.items():
        record = json.loads(data)
        yield (record["scene"], record["blocks"]), record["end"]


def _touched(height: int, width: int, windows: Sequence[Window]) -> np.ndarray:
    """Which blocks of a scene the windows touch, bool `[rows, cols]`."""
    found = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), bool)
    for window in windows:
        found[touched(window)] = True
    return found


def _runs(wanted: Any, most: int, joined: bool) -> Iterator[tuple[int, int]]:
    """Stretches of what is wanted, cut at multiples of `most`; `joined`: one from the first to the last."""
    at = np.flatnonzero(wanted)
    if joined and len(at):
        yield int(at[0]), int(at[-1]) + 1
        return
    for group in np.split(at, np.flatnonzero((np.diff(at) > 1) | (np.diff(at // most) > 0)) + 1):
        if len(group):
            yield int(group[0]), int(group[-1]) + 1


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """A fault in writing is an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the cache {path} cannot be written ({error.strerror or error}); "
            "make room, set train.cache_folder to another folder, or train.cache: false"
        ) from None
