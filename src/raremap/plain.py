"""Results as JSON has them."""

from __future__ import annotations

from typing import Any


def plain(data: Any) -> Any:
    """JSON-ready data: numbers and arrays of libraries as Python's, NaN and infinity as null, the rest as text.

    >>> plain({"f1": float("nan"), 3: (1, 2.5)})
    {'f1': None, '3': [1, 2.5]}
    """
    if isinstance(data, dict):
        return {str(k): plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(v) for v in data]
    if hasattr(data, "tolist"):
        return plain(data.tolist())
    if isinstance(data, float):
        return data if data == data and abs(data) != float("inf") else None
    if isinstance(data, (str, int, bool)) or data is None:
        return data
    return str(data)
