"""From maps to figures that can be signed: samples, areas, changes, suspected faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raremap.cli.app import DeviceOption, JsonOption, QuietOption, app, show

MapArg = Annotated[str, typer.Argument(metavar="MAP", help="class map with a legend")]
SchemeOption = Annotated[
    str | None, typer.Option("--labels", help="classes where the map does not name them: catalonia …")
]


WithinClassesOption = Annotated[
    bool,
    typer.Option(
        "--random-within-classes", help="points of another origin were drawn so: at random in each class"
    ),
]


@app.command()
def sample(
    map_: MapArg,
    out: Annotated[Path, typer.Option("-o", "--out", help="GeoPackage to write")],
    se: Annotated[float, typer.Option(help="wanted standard error of overall accuracy")] = 0.01,
    points: Annotated[int | None, typer.Option(min=1, help="points, instead of --se")] = None,
    minimum: Annotated[int, typer.Option(min=2, help="least points in a stratum")] = 50,
    allocation: Annotated[
        Literal["proportional", "neyman", "equal"], typer.Option(help="how the rest is divided")
    ] = "proportional",
    buffer_px: Annotated[
        int, typer.Option(min=0, help="width of the stratum around rare classes, in pixels (0: none)")
    ] = 3,
    rare: Annotated[
        str | None, typer.Option(help="rare classes, with commas between (default: by their share)")
    ] = None,
    expected: Annotated[
        str | None, typer.Option(help="expected user's accuracy: a number, or a JSON file by class")
    ] = None,
    pool: Annotated[
        float | None, typer.Option(min=0, max=1, help="classes with less than this share one stratum")
    ] = None,
    shown: Annotated[
        bool, typer.Option("--show-map-class", help="put stratum and map class among the fields (not blind)")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scheme: SchemeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Reference points of a map to label in QGIS: stratified, random, blind.

    Example: raremap sample map.tif -o points.gpkg --se 0.01
    """
    from raremap.workflows.sample import sample as run

    accuracies: Any = expected
    if expected is not None:
        try:
            accuracies = float(expected)
        except ValueError:
            accuracies = Path(expected)
    names = [n.strip() for n in rare.split(",") if n.strip()] if rare is not None else None
    show(
        run(
            map_, out, se=se, points=points, minimum=minimum, allocation=allocation, buffer_px=buffer_px, rare=names,
            expected=accuracies, pool=pool, shown=shown, seed=seed, scheme=scheme, quiet=quiet,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def area(
    map_: MapArg,
    points: Annotated[Path, typer.Argument(metavar="POINTS", help="labelled sample (GeoPackage)")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder for area.json and area.html")
    ] = None,
    scheme: SchemeOption = None,
    interval: Annotated[
        Literal["jeffreys", "normal"],
        typer.Option(help="jeffreys: holds for rare classes too; normal: ± 1.96 standard errors"),
    ] = "jeffreys",
    random_within_classes: WithinClassesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Accuracy and class areas of a map from a labelled sample, with 95 % intervals.

    Example: raremap area map.tif points.gpkg -o report
    """
    from raremap.workflows.area import area as run

    show(run(map_, points, out, scheme, interval, random_within_classes), as_json)


@app.command()
def change(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="map of the earlier date")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="map of the later date, on the same grid")],
    out: Annotated[Path, typer.Option("-o", "--out", help="change map to write (GeoTIFF)")],
    points: Annotated[
        Path | None, typer.Option("--sample", metavar="POINTS", help="labelled sample of the change map")
    ] = None,
    random_within_classes: WithinClassesOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Differences of two maps, from class to class; with a sample, estimated areas of change.

    Example: raremap change 2023.tif 2024.tif -o change.tif
    """
    from raremap.workflows.change import change as run

    show(run(before, after, out, points, random_within_classes, quiet), as_json)


@app.command()
def faults(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="one bundle, those of all folds, or their ensemble"),
    ],
    catalog: Annotated[Path, typer.Option("--catalog", "-c", help="catalog.parquet of the labels")],
    out: Annotated[Path, typer.Option("-o", "--out", help="GeoPackage to write")],
    confidence: Annotated[float, typer.Option(min=0, max=1, help="least probability of another class")] = 0.5,
    min_pixels: Annotated[int, typer.Option(min=1, help="least pixels of a patch")] = 4,
    most: Annotated[int, typer.Option(min=1, help="polygons to write, from the first rank on")] = 1000,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Suspected label errors, ranked, as polygons to check: where a model that never saw a label disputes it.

    Example: raremap faults runs/a/bundle --catalog runs/a/catalog.parquet -o faults.gpkg
    """
    from raremap.workflows.faults import faults as run

    show(run(list(bundles), catalog, out, confidence, min_pixels, most, device, quiet), as_json)
