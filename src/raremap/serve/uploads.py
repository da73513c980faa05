"""A form with files, written to disk while it arrives: bounded, and under names of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from raremap.serve.faults import Refused

_MOST_PARTS = 16
_MOST_FIELD = 4096
_IDLE_S = 60.0


@dataclass(frozen=True)
class Slot:
    """A file that a form may hold: where it goes, how large it may be, and what it is in messages."""

    path: Path
    most_bytes: int
    what: str = "GeoTIFF"
    needed: bool = True


@dataclass
class Upload:
    """The fields of a form, and what its files were called (for messages alone); they lie where they were asked for."""

    fields: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


async def received(body: AsyncIterator[bytes], content_type: str, slots: Mapping[str, Slot]) -> Upload:
    """Write the files of a multipart form to their slots, by name; fields come back.

    Where there is one slot a file of any name goes there. Raises `Refused`: no form, a file that is missing or not
    known, too large, too slow, or broken off.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise Refused(415, "expected a form (multipart/form-data) with a file, or JSON")
    with ExitStack() as open_files:
        form = _Form(slots, open_files)
        try:
            parser = MultipartParser(boundary, form.callbacks())
            async for chunk in _steady(body):
                # To hand a chunk to the disk's cache takes microseconds; a thread for each would take longer.
                parser.write(chunk)
            parser.finalize()
        except FormParserError:
            raise Refused(400, "the form is damaged or was broken off; send it again") from None
    if not form.complete:
        raise Refused(400, "the form was broken off before its end; send it again")
    for name, slot in slots.items():
        if name not in form.upload.called:
            if slot.needed:
                raise Refused(422, f"the form has no file '{name}'; send a {slot.what} as '{name}'")
        elif not form.upload.bytes[name]:
            raise Refused(422, f"the file '{name}' is empty; choose a {slot.what}")
    return form.upload


async def _steady(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body, as long as something comes."""
    pieces = aiter(body)
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                chunk = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(408, f"nothing came for {_IDLE_S:.0f} s; send the file again") from None
        yield chunk


class _Form:
    """What the parser finds."""

    def __init__(self, slots: Mapping[str, Slot], open_files: ExitStack) -> None:
        self.upload, self.complete = Upload(), False
        self._slots, self._files = slots, open_files
        self._sink: BinaryIO | None = None
        self._slot: Slot | None = None
        self._parts = 0
        self._header = self._value = b""
        self._named: dict[bytes, bytes] = {}
        self._text: bytearray | None = None  # None: within the file

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._ended,
            "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers, "on_end": self._end,
        }  # fmt: skip

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Refused(422, f"the form has more than {_MOST_PARTS} parts")
        self._named, self._header, self._value = {}, b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._named[self._header.lower()] = self._value
        self._header = self._value = b""

    def _headers(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._named.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options or name in self._slots:
            self._file(name, options.get(b"filename", b"").decode(errors="replace"))
        else:
            self._name, self._text = name, bytearray()

    def _file(self, name: str, called: str) -> None:
        if name not in self._slots and len(self._slots) == 1:
            (name,) = self._slots
        if name not in self._slots:
            raise Refused(
                422,
                f"the form has a file '{_plain(name)}' that is not known; send {' and '.join(self._slots)}",
            )
        if name in self.upload.called:
            raise Refused(422, f"the form has more than one file '{name}'; send one {self._slots[name].what}")
        self._name, self._slot, self._text = name, self._slots[name], None
        self.upload.called[name], self.upload.bytes[name] = _plain(called), 0
        self._sink = self._files.enter_context(self._slot.path.open("wb"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MOST_FIELD:
                raise Refused(422, f"field '{_plain(self._name)}' is longer than {_MOST_FIELD} bytes")
            return
        assert self._slot is not None
        assert self._sink is not None
        self.upload.bytes[self._name] += end - start
        if self.upload.bytes[self._name] > self._slot.most_bytes:
            raise Refused(
                413,
                f"the file is larger than {self._slot.most_bytes / 1e6:,.0f} MB, which is the most that is taken",
            )
        self._sink.write(data[start:end])

    def _ended(self) -> None:
        if self._text is not None:
            self.upload.fields[self._name] = self._text.decode(errors="replace")

    def _end(self) -> None:
        self.complete = True


def _plain(name: str) -> str:
    """A name for messages: its last part, printable, short; it never becomes a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in "<>\"'&")[:60].strip()
    return kept or "the file"
