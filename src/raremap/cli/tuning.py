"""Which settings are best, by the monitor places."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import (
    ExperimentArg,
    JsonOption,
    QuietOption,
    RootOption,
    SetOption,
    app,
    read_experiment,
    show,
)


@app.command()
def tune(
    experiment: ExperimentArg,
    trials: Annotated[
        int | None, typer.Option(min=1, help="trials to make (default: 32, or the whole grid)")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'A.B=KIND(...)'",
            help="values to try: log(1e-4,1e-2), linear(0,1), int(2,5) or choice(8,16); may be repeated",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="score on the monitor places: macro_f1, rare_f1, f1/CLASS, ...")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="optuna, random or grid (default: optuna where it is installed)")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="every combination of choices")] = False,
    scheduler: Annotated[str | None, typer.Option(help="asha ends poor trials early; none does not")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="trials side by side on Ray: local, or a cluster")
    ] = None,
    overrides: SetOption = None,
    root: RootOption = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder of the tuning (default: OUT/tune)")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Other values of some options, tried on the monitor places; the best as best.yaml.

    Start it again to go on after a stop. Example: raremap tune examples/naip.yaml --space "optimizer.lr=log(1e-4,1e-2)"
    """
    from raremap.learn.tuning.options import read_dimension
    from raremap.workflows.tune import tune as run

    if grid and sampler not in (None, "grid"):
        raise typer.BadParameter(f"--grid and --sampler {sampler} exclude each other", param_hint="--grid")
    named = dict(read_dimension(text) for text in space or [])
    if len(named) < len(space or []):
        raise typer.BadParameter("two are of the same option", param_hint="--space")
    result = run(
        read_experiment(experiment, overrides, root),
        space=named,
        trials=trials,
        metric=metric,
        sampler="grid" if grid else sampler,
        scheduler=scheduler,
        ray=ray,
        out=out,
        quiet=quiet,
    )
    show(result, as_json)
