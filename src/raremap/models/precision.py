"""In what a network may be computed."""

from __future__ import annotations

from typing import Literal, get_args

from raremap.errors import ConfigError

Precision = Literal["auto", "float32", "bf16", "float16"]
"""bf16 and float16 are for the layers that stand it; "auto" is what the device has of them where it agrees with float32."""


def checked(precision: str) -> str:
    """The precision, if there is such a one; else raises `ConfigError`."""
    if precision not in (names := get_args(Precision)):
        raise ConfigError(f"precision is {precision!r}, expected {', '.join(names[:-1])} or {names[-1]}")
    return precision
