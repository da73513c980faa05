"""A form with a file, written to disk while it arrives: bounded, and under a name of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from raremap.serve.faults import Refused

_MOST_PARTS = 16
_MOST_FIELD = 4096
_IDLE_S = 60.0


@dataclass
class Upload:
    """The fields of a form, and what its file was called (for messages alone); the file lies where it was asked for."""

    fields: dict[str, str] = field(default_factory=dict)
    called: str | None = None
    bytes: int = 0


async def received(body: AsyncIterator[bytes], content_type: str, out: Path, most_bytes: int) -> Upload:
    """Write the one file of a multipart form to `out`; fields come back.

    Raises `Refused`: no form, no file or two, too large, too slow, or broken off.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise Refused(415, "expected a form (multipart/form-data) with a file, or JSON")
    with out.open("wb") as sink:
        form = _Form(sink, most_bytes)
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
    if form.upload.called is None:
        raise Refused(422, "the form has no file; send a GeoTIFF as 'file'")
    if not form.upload.bytes:
        raise Refused(422, "the file is empty; choose a GeoTIFF")
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

    def __init__(self, sink: BinaryIO, most_bytes: int) -> None:
        self.upload, self.complete = Upload(), False
        self._sink, self._most = sink, most_bytes
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
        if b"filename" in options or name == "file":
            if self.upload.called is not None:
                raise Refused(422, "the form has more than one file; send one GeoTIFF as 'file'")
            self.upload.called = _plain(options.get(b"filename", b"").decode(errors="replace"))
            self._text = None
        else:
            self._name, self._text = name, bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MOST_FIELD:
                raise Refused(422, f"field '{_plain(self._name)}' is longer than {_MOST_FIELD} bytes")
            return
        self.upload.bytes += end - start
        if self.upload.bytes > self._most:
            raise Refused(
                413, f"the file is larger than {self._most / 1e6:,.0f} MB, which is the most that is taken"
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
