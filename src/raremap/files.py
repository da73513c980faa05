"""Whole files only: write beside, then rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raremap.errors import OutputError


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
