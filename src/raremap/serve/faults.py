"""What a request is refused for: a status and one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LONGEST = 400


class Refused(Exception):
    """A request that cannot be served as asked; `status` is its HTTP status."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.headers = status, line, dict(headers or {})


def one_line(text: str) -> str:
    """A message without what a file's own names bring into it: breaks, and no end.

    >>> one_line("column 'a\\nb' is missing")
    "column 'a b' is missing"
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def first_of(errors: Sequence[Any]) -> str:
    """The first of pydantic's remarks in one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "body"))
    text = first["msg"].removeprefix("Value error, ")
    return one_line(f"{where}: {text[0].lower()}{text[1:]}" if where else text)


def unknown_model(model_id: str, known: Iterable[str], status: int = 404) -> Refused:
    """No model is called so, or none is named."""
    there = ", ".join(known) or "none"
    if not model_id:
        return Refused(status, f"name a model in the field 'model'; known: {there}")
    return Refused(status, one_line(f"no model is called {model_id[:40]!r}; known: {there}"))
