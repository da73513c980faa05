"""`area.html`: accuracy and areas of a map from its reference sample, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raremap.files import written
from raremap.reports.page import render


def write_area_page(path: Path, result: dict[str, Any], palette: dict[str, str]) -> Path:
    """Write the page of a result (the content of area.json); raises `OutputError` where it cannot be written."""
    classes = result["classes"]
    names = [n for n, c in classes.items() if c["mapped_area"] or c["reference_points"]]
    most = max(
        [c["mapped_area"] for c in classes.values()] + [c["area"]["high"] or 0 for c in classes.values()]
    )
    kept = [i for i, n in enumerate(classes) if n in names]
    page = render(
        "area.html.j2",
        r=result,
        palette=palette,
        names=sorted(names, key=lambda n: classes[n]["area"]["value"]),
        columns=names,
        most=most or 1,
        matrix=[[result["matrix_points"][i][j] for j in kept] for i in kept],
        shares=[[result["matrix_shares"][i][j] for j in kept] for i in kept],
        figure=_figure,
        interval=_interval,
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def _figure(value: float | None) -> str:
    """A quantity with as many digits as its size needs.

    >>> [_figure(v) for v in (21157.76, 3.14159, None)]
    ['21,158', '3.14', '–']
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _interval(estimate: dict[str, float | None]) -> str:
    """A share with its interval, in per cent."""
    if estimate["value"] is None or estimate["low"] is None or estimate["high"] is None:
        return "–"
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"
