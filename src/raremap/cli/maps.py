"""From a model and scenes to maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from raremap.cli.app import (
    DeviceOption,
    JsonOption,
    QuietOption,
    app,
    show,
)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a trained model")],
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
    prior: Annotated[
        Path | None, typer.Option(help="JSON file of the class shares expected in the scenes")
    ] = None,
    nodata: Annotated[float | None, typer.Option(help="value of no data, for scenes that name none")] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="also write the probability of the mapped class")
    ] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="also write how undecided the model is")] = False,
    level: Annotated[int, typer.Option(min=0, help="steps up the tree of classes")] = 0,
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
        device=device, prior=prior, nodata=nodata, quiet=quiet, confidence=confidence, entropy=entropy,
        level=level,
    )  # fmt: skip
    show(result, as_json)
