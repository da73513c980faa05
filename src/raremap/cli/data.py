"""From scenes and labels to a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raremap.cli.app import (
    ExperimentArg,
    JsonOption,
    QuietOption,
    RayOption,
    RootOption,
    SetOption,
    WorkersOption,
    app,
    numbers,
    read_experiment,
    show,
)


@app.command()
def rescale(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="fine class raster of one band")],
    like: Annotated[str, typer.Option("--like", metavar="IMAGE", help="image whose grid the labels get")],
    out: Annotated[Path, typer.Option("-o", "--out", help="file to write")],
    method: Annotated[
        Literal["area", "mode", "nearest", "weighted", "fractions"],
        typer.Option(help="area keeps every class's area; fractions writes a band a class"),
    ] = "area",
    scheme: Annotated[
        str | None, typer.Option("--labels", help="classes where the file does not name them: catalonia …")
    ] = None,
    ignore: Annotated[
        str, typer.Option(help="values that are unlabelled besides nodata, with commas between")
    ] = "",
    min_cover: Annotated[
        float | None, typer.Option(help="share of a cell that must be labelled (0.5)")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="area, fractions: cells a side of the ground that keeps its areas (64)")
    ] = None,
    block_m: Annotated[float | None, typer.Option(help="the same in metres")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="weighted: reach of the weights in cells (0.25)")
    ] = None,
    inverse: Annotated[
        float | None, typer.Option(help="weighted: power of the inverse class frequency, 0 to 1 (0)")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads (default: all cores)")] = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fine labels on an image's grid, with the area of each class before and after.

    Example: raremap rescale labels_1m.tif --like image_10m.tif -o labels_10m.tif
    """
    from raremap.workflows.rescale import rescale as run

    given = {"min_cover": min_cover, "block": block, "block_m": block_m, "sigma": sigma, "inverse": inverse}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if ignore:
        options["ignore"] = tuple(numbers(ignore, "--ignore", int))
    show(
        run(
            labels,
            like,
            out,
            method,
            scheme,
            threads=threads,
            quiet=quiet,
            ray=ray,
            workers=workers,
            **options,
        ),
        as_json,
    )


@app.command()
def prepare(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Scenes and labels to a catalog of tiles with their class counts.

    Example: raremap prepare examples/naip.yaml --root data
    """
    from raremap.workflows.prepare import prepare as run

    exp = read_experiment(experiment, overrides, root)
    catalog = run(exp, quiet=quiet, ray=ray, workers=workers)
    show(catalog.summary(), as_json)


@app.command()
def layout(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="pairs, openearthmap, loveda, chesapeake, landslide4sense, or torchgeo:NAME",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder that holds the set")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="where HDF5 and torchgeo sets become GeoTIFFs")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The sections of an experiment for a folder of a known layout.

    Example: raremap layout landslide4sense data/l4s -o data/l4s-tif
    """
    from raremap.workflows.layout import layout as run

    show(run(name, folder, out, quiet=quiet), as_json)


@app.command("export-tiles")
def export_tiles(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="catalog.parquet")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the tiles")],
    split: Annotated[bool, typer.Option("--split", help="a folder for each use")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tile files, image and mask, for those who need them; goes on where it was stopped.

    Example: raremap export-tiles runs/naip/catalog.parquet -o tiles --split
    """
    from raremap.workflows.export_tiles import export_tiles as run

    show(run(catalog, out, split=split, quiet=quiet), as_json)


@app.command()
def census(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="catalog.parquet")],
    experiment: Annotated[
        Path | None, typer.Option(help="count what its training sees: its split, thinned labels, points")
    ] = None,
    overrides: SetOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Class shares, entropy, KL and imbalance of a catalog, by use and by place.

    Example: raremap census runs/naip/catalog.parquet
    """
    from raremap.workflows.census import census as run

    show(run(catalog, read_experiment(experiment, overrides, root) if experiment else None), as_json)
