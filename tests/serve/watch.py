"""Whether anyone opened a file: asked of the kernel (inotify), so that GDAL and other processes are seen too."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

import pytest

_OPENED, _NONBLOCK = 0x20, 0o4000


class Watch:
    """The files of a folder; `opened` names those that were opened since it was last asked."""

    def __init__(self, folder: Path) -> None:
        if not sys.platform.startswith("linux"):
            pytest.skip("who opens a file is asked of Linux")
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_NONBLOCK)
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), _OPENED) > 0

    def opened(self) -> list[str]:
        names = []
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return names
            while data:
                size = struct.unpack_from("iIII", data)[3]
                names.append(data[16 : 16 + size].rstrip(b"\0").decode())
                data = data[16 + size :]

    def close(self) -> None:
        os.close(self._fd)
