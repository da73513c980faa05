"""The first look: the demo and its simulated valleys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import (
    JsonOption,
    QuietOption,
    app,
    show,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to work in")] = Path("demo"),
    steps: Annotated[
        int | None, typer.Option(help="training steps (default: what suits this machine)")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of valleys and training")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The whole job on simulated valleys, to a report.

    Example: raremap demo -o demo
    """
    from raremap.workflows.demo import demo as run

    show(run(out, steps=steps, seed=seed, quiet=quiet), as_json)


@app.command()
def simulate(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="folder for the valleys")],
    valleys: Annotated[
        int | None, typer.Option(help="write N independent valleys instead of one scene")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of 10 m a side (1024; with --valleys 512)")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 0,
    coupling: Annotated[
        float, typer.Option(help="how far landslides follow the terrain: 0 not at all, 4 at most")
    ] = 1.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Simulated valleys with known truth: imagery, labels, landslides.

    Example: raremap simulate valleys --valleys 24
    """
    from raremap.workflows.simulate import simulate as run

    show(run(out_dir, valleys=valleys, size=size, seed=seed, quiet=quiet, coupling=coupling), as_json)
