"""A STAC API on this machine, of scenes in a folder: landing page, item search by POST and GET with pages, files by ranges."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from shapely.geometry import box, shape

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
]


@dataclass
class Api:
    """What a server serves and has been asked: items, files by name, and faults to give before the next answers."""

    items: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    page: int = 2
    only_get: bool = False
    conforms: list[str] = field(default_factory=lambda: list(CONFORMS))
    searches: list[dict[str, Any]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    failures: dict[str, list[int]] = field(default_factory=dict)
    url: str = ""

    def find(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """The items of a search, by STAC's own rules: collections, intersects or bbox, datetime, query."""
        out = [i for i in self.items if i["collection"] in asked.get("collections", [i["collection"]])]
        if "intersects" in asked:
            out = [i for i in out if shape(i["geometry"]).intersects(shape(asked["intersects"]))]
        if "bbox" in asked:
            out = [i for i in out if shape(i["geometry"]).intersects(box(*asked["bbox"]))]
        if "datetime" in asked:
            start, end = (_moment(t) for t in asked["datetime"].split("/"))
            out = [i for i in out if start <= _moment(i["properties"]["datetime"]) <= end]
        for name, rule in asked.get("query", {}).items():
            out = [i for i in out if i["properties"].get(name, 0) <= rule["lte"]]
        return out


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@contextmanager
def served(api: Api) -> Iterator[Api]:
    """The API on a free port of the loopback, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._file()

        def do_GET(self) -> None:
            at = urlsplit(self.path)
            if at.path.startswith("/files/"):
                self._file()
            elif self._failed(at.path):
                pass
            elif at.path == "/":
                self._json(_landing(api))
            elif at.path == "/search":
                given = {k: v[0] for k, v in parse_qs(at.query).items()}
                self._search(_from_get(given), given)
            else:
                self._json({"code": "NotFound", "description": self.path}, 404)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._failed("/search"):
                return
            self._search(asked, None)

        def _failed(self, path: str) -> bool:
            codes = api.failures.get(path)
            if not codes:
                return False
            self._json({"code": "Fault", "description": "told to fail"}, codes.pop(0))
            return True

        def _search(self, asked: dict[str, Any], given: dict[str, str] | None) -> None:
            api.searches.append(asked)
            known = {i["collection"] for i in api.items}
            if missing := [c for c in asked.get("collections", []) if c not in known]:
                self._json({"code": "NotFoundError", "description": f"no collection {missing[0]}"}, 404)
                return
            hits, start = api.find(asked), int(asked.get("token", 0))
            page = min(api.page, int(asked.get("limit", 10)))
            links = []
            if start + page < len(hits):
                token = str(start + page)
                if given is None:
                    links = [
                        {
                            "rel": "next",
                            "href": f"{api.url}/search",
                            "method": "POST",
                            "merge": True,
                            "body": {"token": token},
                        }
                    ]
                else:
                    links = [
                        {"rel": "next", "href": f"{api.url}/search?{urlencode({**given, 'token': token})}"}
                    ]
            features = hits[start : start + page]
            self._json({"type": "FeatureCollection", "features": features, "links": links})

        def _json(self, data: Any, status: int = 200) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/geo+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _file(self) -> None:
            name = urlsplit(self.path).path.removeprefix("/files/")
            if self._failed(f"/files/{name}"):
                return
            if name not in api.files:
                self._json({}, 404)
                return
            data = api.files[name].read_bytes()
            first, last, status = 0, len(data) - 1, 200
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, status = int(found[1]), 206
                last = min(last, int(found[2])) if found[2] else last
            if self.command == "GET":
                api.fetched.append(name)
            self.send_response(status)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last - first + 1))
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[first : last + 1])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _landing(api: Api) -> dict[str, Any]:
    methods = ["GET"] if api.only_get else ["GET", "POST"]
    search = [
        {"rel": "search", "href": f"{api.url}/search", "type": "application/geo+json", "method": m}
        for m in methods
    ]
    return {
        "type": "Catalog", "stac_version": "1.0.0", "id": "here", "description": "scenes of a folder",
        "conformsTo": api.conforms,
        "links": [{"rel": "self", "href": api.url}, {"rel": "root", "href": api.url}, *search],
    }  # fmt: skip


def _from_get(given: dict[str, str]) -> dict[str, Any]:
    asked: dict[str, Any] = dict(given)
    if "collections" in asked:
        asked["collections"] = asked["collections"].split(",")
    if "bbox" in asked:
        asked["bbox"] = [float(v) for v in asked["bbox"].split(",")]
    for key in ("intersects", "query"):
        if key in asked:
            asked[key] = json.loads(asked[key])
    return asked
