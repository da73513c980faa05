"""What every request passes first: the host it names, its rate, its key, its size; and the headers of every answer."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import OrderedDict
from typing import Any

from raremap.serve.options import ServeOptions

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # A basemap that the user gives is the one thing that may come from elsewhere.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self' https:; "
        "img-src 'self' data: blob: https: http://localhost:* http://127.0.0.1:*; worker-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}
_SMALL_BODY = 64 << 10
_FORM_ROOM = 64 << 10  # what a form takes beside its file
_MOST_ADDRESSES = 10_000
TABLES, FUSED = "/api/tables/predictions", "/api/fused/predictions"
_ROWS_BODY = 1 << 20  # of rows as JSON
_OPEN = ("/healthz", "/openapi.json")


class Guard:
    """ASGI middleware; it answers itself what is refused."""

    def __init__(self, app: Any, options: ServeOptions) -> None:
        self.app, self.options = app, options
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in have]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(sent, *refused)
            return
        await self.app(scope, self._bounded(scope, headers, receive), sent)

    def _refused(self, scope: Any, headers: dict[bytes, str]) -> tuple[int, str, dict[str, str]] | None:
        options = self.options
        host = headers.get(b"host", "")
        # A page elsewhere may point its own name at this machine; a browser then sends that name.
        if options.loopback and _hostname(host) not in ("localhost", "127.0.0.1", "[::1]", options.host):
            return 421, "this server answers as localhost or 127.0.0.1 only", {}
        origin = headers.get(b"origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and origin.split("://")[-1] != host:
            return 403, "requests of other sites' pages are not taken", {}
        wait = self._wait(scope)
        if wait > 0:
            seconds = math.ceil(wait)
            return 429, f"too many requests; try again in {seconds} s", {"retry-after": str(seconds)}
        if options.api_key is not None and scope["path"].startswith("/api/"):
            given = headers.get(b"x-api-key", "")
            if not secrets.compare_digest(given.encode("latin-1"), options.api_key.encode()):
                return 401, "the key is missing or wrong; send it as the header X-API-Key", {}
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            return 400, "the header Content-Length is no number", {}
        if int(length) > (room := self._room(scope, headers)):
            return 413, self._too_large(room), {"connection": "close"}
        return None

    def _room(self, scope: Any, headers: dict[bytes, str]) -> int:
        path, options = scope["path"], self.options
        if not headers.get(b"content-type", "").lower().startswith("multipart/"):
            return _ROWS_BODY if path == TABLES else _SMALL_BODY
        files = {TABLES: options.max_table_bytes, FUSED: options.max_table_bytes + options.max_upload_bytes}
        return files.get(path, options.max_upload_bytes) + _FORM_ROOM

    def _too_large(self, room: int) -> str:
        return f"the request is larger than {room / 1e6:,.2f} MB, which is the most that is taken"

    def _wait(self, scope: Any) -> float:
        """Seconds until an address may ask again; 0: now."""
        rate = self.options.rate
        if not rate or scope["path"] == "/healthz":
            return 0.0
        address = (scope.get("client") or ("?",))[0]
        now = time.monotonic()
        left, then = self._buckets.pop(address, (4 * rate, now))
        left = min(max(1.0, 4 * rate), left + (now - then) * rate)
        self._buckets[address] = (max(left - 1, left if left < 1 else 0), now)
        while len(self._buckets) > _MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / rate

    def _bounded(self, scope: Any, headers: dict[bytes, str], receive: Any) -> Any:
        """`receive` that ends a body which is longer than allowed, whatever its headers say."""
        room, got = self._room(scope, headers), 0

        async def bounded() -> Any:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > room:
                    raise TooLarge(self._too_large(room))
            return message

        return bounded


class TooLarge(Exception):
    """A body that is longer than allowed."""


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.rsplit(":", 1)[0]


async def _answer(send: Any, status: int, line: str, more: dict[str, str]) -> None:
    body = json.dumps({"error": line}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((k.encode(), v.encode()) for k, v in more.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
