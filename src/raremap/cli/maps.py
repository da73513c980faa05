"""From a model and scenes to maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from raremap.cli.app import (
    DeviceOption,
    FlipsOption,
    JsonOption,
    QuietOption,
    ScalesOption,
    TtaOption,
    app,
    averaging,
    show,
)


@app.command()
def predict(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="folder of a trained model or ensemble, or an exported .onnx"),
    ],
    scenes: Annotated[list[str], typer.Argument(metavar="SCENE...", help="scene files to map")],
    out: Annotated[Path, typer.Option("-o", "--out", help="map.tif, or a folder for several scenes")],
    probabilities: Annotated[
        Literal["float32", "uint8"] | None,
        typer.Option(help="also write a band a class: float32, or uint8 (0-250 = 0-1)"),
    ] = None,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="plain argmax, without the fitted decision")
    ] = False,
    window: Annotated[int | None, typer.Option(help="window size in pixels (default: the bundle's)")] = None,
    overlap: Annotated[float | None, typer.Option(help="share of a window that the next repeats")] = None,
    tta: TtaOption = None,
    flips: FlipsOption = False,
    scales: ScalesOption = "",
    prior: Annotated[
        Path | None, typer.Option(help="JSON file of the class shares expected in the scenes")
    ] = None,
    nodata: Annotated[float | None, typer.Option(help="value of no data, for scenes that name none")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map whole scenes of any size: a COG with legend, CRS and nodata kept.

    Example: raremap predict runs/naip/bundle scene.tif -o map.tif
    """
    from raremap.workflows.predict import predict as run

    result = run(
        bundle, scenes, out, probabilities=probabilities, argmax=argmax, window=window, overlap=overlap,
        device=device, prior=prior, nodata=nodata, quiet=quiet, **averaging(tta, flips, scales),
    )  # fmt: skip
    show(result, as_json)
