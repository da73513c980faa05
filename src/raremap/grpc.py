"""Whether a server knows a gRPC method, asked without a gRPC library (RFC 9113, RFC 7541, gRPC over HTTP/2)."""

from __future__ import annotations

import socket
import struct
import time

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_OK = b"\x88"  # ":status: 200" in a header block
_STATUS = b"\x0bgrpc-status", b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f"  # the second by Huffman's code
_UNKNOWN = b"\x0212"
_MOST = 1 << 20  # bytes of a frame; by default none is longer than 16 KiB


def knows(link: socket.socket, method: str, seconds: float) -> bool:
    """Whether the server at the other end knows a method: it gives a message, or another error than that it has none such.

    It is called with an empty message. Raises `OSError` where the connection breaks or `seconds` are over.
    """
    until = time.monotonic() + seconds
    called = _frame(_HEADERS, _END_HEADERS, 1, _headers(method)) + _frame(_DATA, _END_STREAM, 1, bytes(5))
    link.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + called)
    kind, _, _, _ = _next(link, until)
    if kind != _SETTINGS:
        return False
    link.sendall(_frame(_SETTINGS, _ACK, 0, b""))
    began = False
    while True:
        kind, flags, stream, data = _next(link, until)
        if kind == _GOAWAY or (stream == 1 and kind == _RST_STREAM):
            return False
        if stream != 1:
            continue
        if kind == _HEADERS:
            if not began and not data.startswith(_OK):
                return False
            began = True
            if found := [data.partition(name)[2] for name in _STATUS if name in data]:
                return not found[0].startswith(_UNKNOWN)
        elif kind == _DATA and data:
            compressed, length = struct.unpack(">BI", data[:5]) if len(data) > 5 else (2, 0)
            return compressed < 2 and 0 < len(data) - 5 <= length
        if flags & _END_STREAM:
            return False


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    return struct.pack(">I", len(data))[1:] + struct.pack(">BBI", kind, flags, stream) + data


def _headers(method: str) -> bytes:
    """The header block of a call, nothing of it indexed or compressed."""
    names = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in names.items())


def _text(value: str) -> bytes:
    assert len(value) < 127  # longer ones are counted otherwise
    return bytes([len(value)]) + value.encode("ascii")


def _next(link: socket.socket, until: float) -> tuple[int, int, int, bytes]:
    """The next frame: its kind, flags, stream and data."""
    head = _bytes(link, 9, until)
    length = int.from_bytes(head[:3])
    if length > _MOST:
        raise OSError("what listens there speaks no HTTP/2")
    return head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, _bytes(link, length, until)


def _bytes(link: socket.socket, count: int, until: float) -> bytes:
    out = b""
    while len(out) < count:
        if (left := until - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        link.settimeout(left)
        if not (more := link.recv(count - len(out))):
            raise OSError("the connection was closed")
        out += more
    return out
