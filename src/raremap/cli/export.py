"""From a bundle to a file for other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import JsonOption, QuietOption, app, numbers, show


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a trained model")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="model.onnx; model.onnx.json is written beside it")
    ],
    int8: Annotated[bool, typer.Option("--int8", help="eight bits, with ranges from training tiles")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="CATALOG", help="catalog whose training tiles give the ranges of int8"),
    ] = None,
    evaluate: Annotated[
        Path | None, typer.Option(metavar="CATALOG", help="catalog on whose test places both are scored")
    ] = None,
    opset: Annotated[int, typer.Option(help="version of ONNX's operators, 13 to 20")] = 17,
    fixed: Annotated[str, typer.Option(metavar="H,W", help="one size only, for devices that need it")] = "",
    tiles: Annotated[int, typer.Option(min=1, help="training tiles that give the ranges of int8")] = 64,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as ONNX with its decision, for small devices: `raremap predict model.onnx` needs no torch.

    Example: raremap export runs/naip/bundle -o model.onnx --int8 --calibrate runs/naip/catalog.parquet
    """
    from raremap.workflows.export import export as run

    size = numbers(fixed, "--fixed", int)
    if len(size) not in (0, 2):
        raise typer.BadParameter(
            f"'{fixed}' is not a height and a width, such as 256,256", param_hint="--fixed"
        )
    result = run(
        bundle, out, int8=int8, calibrate=calibrate, evaluate=evaluate, opset=opset,
        fixed=(size[0], size[1]) if size else None, tiles=tiles, quiet=quiet,
    )  # fmt: skip
    show(result, as_json)
