"""Whole files only: write beside, then rename; one process at a time where that is not enough; and checksums of models."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from raremap.errors import BundleError, OutputError

ITEM = "model.json"
"""The file of a bundle that describes it."""
ENSEMBLE = "ensemble.json"
"""The file that makes a folder an ensemble of bundles."""
TABLE = "raremap:table"
"""The property that marks the description of a model of a table."""


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name when the block ends, or vanishes.

    The folder is made where it is missing. Raises `OutputError` naming the path and the reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected a file name to write to")
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose a writable folder") from None
    fresh = Path(name)
    try:
        yield fresh
        # mkstemp makes private files; give the mode that an ordinary write would have given.
        mask = os.umask(0)
        os.umask(mask)
        fresh.chmod(0o666 & ~mask)
        os.replace(fresh, path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); nothing was changed"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def written_folder(folder: str | Path, what: str, marks: Sequence[str]) -> Iterator[Path]:
    """A temporary folder to fill; it takes the place of `folder` when the block ends, or vanishes.

    An older one stays until the new one is complete. Raises `OutputError` where the folder cannot be written, or
    holds none of the files `marks`, which a `what` has one of.
    """
    folder = Path(folder)
    known = any((folder / mark).exists() for mark in marks)
    if folder.exists() and not known and (folder.is_file() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not a {what}; choose another folder for the {what}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"{what} {folder} cannot be written ({error.strerror}); choose a writable folder"
        ) from None
    try:
        yield fresh
        for path in [fresh, *fresh.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        _swap(fresh, folder)
    except OSError as error:
        raise OutputError(
            f"{what} {folder} cannot be written ({error.strerror or error}); nothing was changed"
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`; the old one stays until the new one stands."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, old / "old")
    try:
        os.replace(fresh, folder)
    except OSError:
        os.replace(old / "old", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """A folder (made where it is missing) that no other process works in until the block ends.

    The system gives it free when the process dies. Raises `OutputError` where another holds it, or waits for that.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}); choose a writable folder"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise OutputError(
                f"another process is at work in {folder}; wait for it, or choose another folder"
            ) from None
        yield


_OWNED = "raremap.lock"


def scratch(path: Path) -> tuple[Path, IO[bytes] | None]:
    """A hidden folder beside `path` to make it in, and a file that says that it is in use until it is closed.

    Those of earlier writers of `path` that were killed are removed first: the system closes a dead process's files.
    Where there are no such locks (None) nothing is removed. Raises `OSError`.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent)), None
    for old in path.parent.glob(f".{glob.escape(path.stem)}.{'?' * 8}/{_OWNED}"):
        with suppress(OSError), old.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
    file = (folder / "fresh.lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks
        file.close()
        return folder, None
    os.replace(file.name, folder / _OWNED)  # not before it is held: another writer would remove the folder
    return folder, file


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(item: dict[str, Any]) -> str:
    """Checksum of a model's item without its own digest, independent of layout."""
    bare = {**item, "properties": {k: v for k, v in item["properties"].items() if k != "raremap:digest"}}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def is_table_bundle(folder: str | Path) -> bool:
    """Whether a folder holds a model of a table, and none of imagery; what is damaged is left for the reader to tell."""
    try:
        return TABLE in json.loads((Path(folder) / ITEM).read_text(encoding="utf-8"))["properties"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_item(folder: Path) -> None:
    """Raise `BundleError` where a bundle's folder has no description; a run's folder is told from a bundle."""
    if (folder / ITEM).is_file():
        return
    if (folder / "bundle" / ITEM).is_file():
        raise BundleError(f"{folder} is the folder of a run; give the bundle in it, {folder / 'bundle'}")
    raise BundleError(f"bundle {folder} has no {ITEM}; it is incomplete, copy the whole folder again")


def read_item(path: Path, what: str, newest: int, key: str = "raremap:format") -> dict[str, Any]:
    """The item that describes a model, `what` such as "a bundle", with its `digest_of` looked at.

    `newest` is the format that is read here, `key` the property that names the file's. Raises `BundleError` where the
    file is cut short, altered or of a newer format.
    """
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        own = item["properties"]
        number, digest = own.get(key, 0), own.get("raremap:digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path} is not {what}'s description; copy the whole of it again") from None
    if number > newest:
        raise BundleError(f"{path} has format {number}, this raremap reads up to {newest}; update raremap")
    if digest != digest_of(item):
        raise BundleError(f"{path} was altered since it was written; restore it, or write it anew")
    return item
