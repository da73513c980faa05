"""Models of tables: slope units with their attributes, to probabilities and susceptibility maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import JsonOption, QuietOption, app, show

table = typer.Typer(
    name="table", help="Models of tables, such as slope units with their attributes.", no_args_is_help=True,
    rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.add_typer(table)

LayerOption = Annotated[str | None, typer.Option(help="layer of a GeoPackage that holds several")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@table.command()
def train(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV, Parquet or GeoPackage")],
    label: Annotated[str, typer.Option(help="column that says which rows are positive")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the bundle and the report")],
    positive: Annotated[
        str | None, typer.Option(help="the label's value that is looked for (default: 1 or true)")
    ] = None,
    categorical: Annotated[str, typer.Option(metavar="A,B", help="columns of numbers that are codes")] = "",
    drop: Annotated[str, typer.Option(metavar="A,B", help="columns to leave out")] = "",
    missing: Annotated[
        str, typer.Option(metavar="A,B", help="texts and numbers that stand for no value, such as ?,-9999")
    ] = "",
    model: Annotated[str, typer.Option(help="boosting, forest or logistic")] = "boosting",
    group: Annotated[
        str | None, typer.Option(help="column whose rows of one value are never in two folds")
    ] = None,
    block_m: Annotated[
        float | None, typer.Option("--block-m", help="folds of square blocks of so many metres")
    ] = None,
    x: Annotated[str | None, typer.Option(help="column of coordinates")] = None,
    y: Annotated[str | None, typer.Option(help="column of coordinates")] = None,
    folds: Annotated[int, typer.Option(min=2, help="folds that the report is of")] = 5,
    tune: Annotated[bool, typer.Option(help="choose settings on folds inside the training rows")] = True,
    metric: Annotated[
        str, typer.Option(help="what tuning looks at: average_precision or auc")
    ] = "average_precision",
    smote: Annotated[
        bool, typer.Option("--smote", help="rows of the rare class made up, instead of weights")
    ] = False,
    balance: Annotated[str | None, typer.Option(help="weights, smote or none (default: weights)")] = None,
    calibration: Annotated[str, typer.Option(help="sigmoid, isotonic or none")] = "sigmoid",
    prior: Annotated[
        float | None,
        typer.Option(help="true share of positives, where the table was not drawn at it; figures are for it"),
    ] = None,
    layer: LayerOption = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of folds and model")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A model of a table with labels; figures on rows that it has not seen, as report.html.

    Example: raremap table train units.csv --label landslide --group catchment -o runs/units
    """
    from raremap.workflows.table_train import options_of, table_train

    if smote and balance not in (None, "smote"):
        raise typer.BadParameter(f"--smote and --balance {balance} exclude each other", param_hint="--smote")
    options = options_of(
        label=label, positive=positive, categorical=_names(categorical), drop=_names(drop), missing=_names(missing), model=model,
        group=group, block_m=block_m, x=x, y=y, folds=folds, tune=tune, metric=metric, calibration=calibration,
        balance="smote" if smote else balance or "weights", prior=prior, layer=layer, seed=seed,
    )  # fmt: skip
    show(table_train(table, out, options, quiet=quiet), as_json)


@table.command()
def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder that `table train` wrote")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="a table, or a raster of the attributes (or one file for each)"
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="CSV, Parquet or GeoPackage; for a raster a GeoTIFF")
    ],
    prior: Annotated[
        float | None, typer.Option(help="share of positives to expect (default: that of the training)")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="A,B", help="columns of the table to write, too (default: all)")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="of a map: float32, or uint8 in steps of 1/250 (default: float32)")
    ] = None,
    bands: Annotated[
        str,
        typer.Option(metavar="A,B", help="which attribute each band of the raster is, where it does not say"),
    ] = "",
    layer: LayerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Probabilities of a table's rows, or a susceptibility map of a raster of the same attributes.

    Example: raremap table predict runs/units/bundle terrain.tif -o susceptibility.tif
    """
    from raremap.workflows.table_predict import table_predict

    result = table_predict(
        bundle, inputs, out, prior=prior, keep=None if keep is None else _names(keep), dtype=dtype,
        bands=_names(bands), layer=layer, quiet=quiet,
    )  # fmt: skip
    show(result, as_json)


@table.command()
def fuse(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of the image model")],
    table_bundle: Annotated[
        Path, typer.Argument(metavar="TABLE_BUNDLE", help="folder that `table train` wrote")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for map, alarms and fusion.json")],
    scenes: Annotated[list[str] | None, typer.Option("--scenes", help="scene; may be repeated")] = None,
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--units", help="raster of unit numbers, one a scene, or one file of polygons with attributes"
        ),
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="DAY", help="fetch the scene nearest to it, instead of --scenes")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="LON,LAT", help="--date: its place (default: the extent of the units)"),
    ] = None,
    buffer_m: Annotated[
        float | None, typer.Option(help="--at: metres to each side of it (default: 1000)")
    ] = None,
    cell_m: Annotated[
        float | None,
        typer.Option(help="--at without --units: side of square units, metres (default: 100)"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="--date: where it is fetched from, as of raremap acquire (default: earth-search)"),
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="table of the units, where they are rasters")] = None,
    key: Annotated[str, typer.Option(help="column of unit numbers")] = "unit",
    scene_column: Annotated[
        str | None,
        typer.Option("--scene-column", help="column that names a row's scene (its file, without .tif)"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="column with the truth of calibration units, empty elsewhere: fits the fusion"),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="the label's value that is looked for (default: 1 or true)")
    ] = None,
    fusion: Annotated[
        Path | None, typer.Option(help="fusion.json of an earlier run, instead of a label")
    ] = None,
    landslide: Annotated[str | None, typer.Option(help="class of the image model that is looked for")] = None,
    group: Annotated[
        str | None, typer.Option(help="column of places for cross-fitting (default: scenes are places)")
    ] = None,
    block_m: Annotated[
        float | None, typer.Option("--block-m", help="square blocks of so many metres as places")
    ] = None,
    double_check: Annotated[
        bool, typer.Option("--double-check", help="alarms only where both sides exceed their thresholds")
    ] = False,
    prior: Annotated[float | None, typer.Option(help="share of positive units to expect")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="a unit is scored by the mean of so many of its surest pixels (default: 4)"),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="folds of places for cross-fitting (default: 5)")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of folds and intervals (default: 0)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    layer: LayerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """An image model and a table's model to one map and one table of alarms; what fusion gains, with intervals.

    Example: raremap table fuse runs/net/bundle runs/units/bundle --scenes april.tif --units units.gpkg --label landslide --block-m 500 -o fused
    """
    from raremap.errors import refuse
    from raremap.workflows.table_fuse import table_fuse
    from raremap.workflows.table_fuse_at import table_fuse_at

    if date is not None:
        fits = (rows, label, positive, group, block_m, scene_column, top, folds, seed)
        if scenes or len(units or []) > 1 or any(v is not None for v in fits):
            raise typer.BadParameter(
                "goes with --fusion, --at and one file of polygons as --units; leave the others out",
                param_hint="--date",
            )
        if fusion is None:
            raise typer.BadParameter(
                "a scene without truth needs --fusion of an earlier run", param_hint="--date"
            )
        done = table_fuse_at(
            bundle, table_bundle, date, out, fusion, at=at, buffer_m=buffer_m, units=units[0] if units else None,
            cell_m=cell_m, key=key, landslide=landslide, double_check=double_check, prior=prior, source=source or "earth-search",
            device=device, layer=layer, quiet=quiet,
        )  # fmt: skip
        show(done, as_json)
        return
    if not scenes or not units:
        raise typer.BadParameter(
            "give --scenes and --units, or --date with --at or --units", param_hint="--scenes"
        )
    refuse("without --date, whose scene is fetched", at=at, buffer_m=buffer_m, cell_m=cell_m, source=source)
    result = table_fuse(
        bundle, table_bundle, scenes, units, out, rows=rows, key=key, scene_column=scene_column, label=label,
        positive=positive, fusion=fusion, landslide=landslide, group=group, block_m=block_m,
        double_check=double_check, prior=prior, top=top, folds=folds, seed=seed, device=device, layer=layer, quiet=quiet,
    )  # fmt: skip
    show(result, as_json)
