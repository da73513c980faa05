"""From a map to one that can be handed over: cleaned, and as polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raremap.cli.app import JsonOption, QuietOption, RayOption, WorkersOption, app, show

SchemeOption = Annotated[
    str | None, typer.Option("--labels", help="classes where the map does not name them: catalonia …")
]
ProbabilitiesOption = Annotated[
    str | None, typer.Option(help="file of probabilities that was written with the map")
]


def by_class(text: str | None, option: str) -> dict[str, float] | float | None:
    """`house: 400, forest: 5000`, or one number for all; wrong usage names the option."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    sizes = {}
    for part in text.split(","):
        name, _, size = part.rpartition(":")
        try:
            sizes[name.strip()] = float(size)
        except ValueError:
            name = ""
        if not name.strip():
            raise typer.BadParameter(
                f"'{part.strip()}' is not like 'house: 400'; give a class, a colon and a number, with commas between",
                param_hint=option,
            ) from None
    return sizes


@app.command()
def clean(
    source: Annotated[str, typer.Argument(metavar="MAP", help="map with its legend")],
    out: Annotated[Path, typer.Option("-o", "--out", help="map to write")],
    mmu: Annotated[
        str | None,
        typer.Option(help="minimum mapping unit in m²: 'house: 400, forest: 5000', or one number for all"),
    ] = None,
    opened: Annotated[
        str | None, typer.Option("--open", help="take away what is narrower, in metres: 'forest: 30'")
    ] = None,
    closed: Annotated[
        str | None, typer.Option("--close", help="fill gaps that are narrower, in metres: 'road: 20'")
    ] = None,
    majority: Annotated[int | None, typer.Option(help="side in pixels of a majority filter (odd)")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="mean probability that components under --small need")
    ] = None,
    small: Annotated[str | None, typer.Option(help="m² under which --min-confidence counts")] = None,
    connectivity: Annotated[
        int | None,
        typer.Option(help="8: pixels that touch by a corner are one component; 4: not, as in polygons"),
    ] = None,
    probabilities: ProbabilitiesOption = None,
    options: Annotated[
        Path | None, typer.Option(help="YAML file of the same options; those given here go before")
    ] = None,
    level: Annotated[int | None, typer.Option(help="steps up the tree of classes, before all else")] = None,
    scheme: SchemeOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take away what is too small, too narrow or too doubtful; each goes to the likeliest class beside it.

    Example: raremap clean map.tif -o clean.tif --mmu "house: 400, forest: 5000" --probabilities map.probs.tif
    """
    from raremap.workflows.clean import clean as run

    given: dict[str, Any] = {
        "mmu": by_class(mmu, "--mmu"),
        "open": by_class(opened, "--open"),
        "close": by_class(closed, "--close"),
        "majority": majority,
        "min_confidence": min_confidence,
        "small": by_class(small, "--small"),
        "connectivity": connectivity,
        "level": level,
    }
    show(run(source, out, options, probabilities, scheme, quiet, ray, workers, **given), as_json)


@app.command()
def vectorize(
    source: Annotated[str, typer.Argument(metavar="MAP", help="map with its legend")],
    out: Annotated[Path, typer.Option("-o", "--out", help="file to write: .gpkg or .parquet")],
    background: Annotated[
        bool,
        typer.Option("--background", help="write background (or other, rest) too, and what did not change"),
    ] = False,
    classes: Annotated[
        str | None, typer.Option(help="classes to write, with commas between (default: all)")
    ] = None,
    simplify: Annotated[
        float | None, typer.Option(help="metres to simplify by; neighbours keep their common borders")
    ] = None,
    probabilities: ProbabilitiesOption = None,
    scheme: SchemeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Polygons of a map with class, name, ground area and mean confidence, as GeoPackage or GeoParquet.

    Example: raremap vectorize map.tif -o map.gpkg --simplify 20
    """
    from raremap.workflows.vectorize import vectorize as run

    chosen = [c.strip() for c in classes.split(",") if c.strip()] if classes is not None else None
    result = run(
        source, out, background=background, classes=chosen, simplify_m=simplify, probabilities=probabilities,
        scheme=scheme, quiet=quiet,
    )  # fmt: skip
    show(result, as_json)
