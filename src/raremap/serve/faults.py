"""What a request is refused for: a status and one line."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """A request that cannot be served as asked; `status` is its HTTP status."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.headers = status, line, dict(headers or {})
