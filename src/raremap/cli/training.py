"""From a catalog to a model and its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import (
    DeviceOption,
    ExperimentArg,
    FlipsOption,
    JsonOption,
    QuietOption,
    RootOption,
    ScalesOption,
    SetOption,
    TtaOption,
    app,
    averaging,
    numbers,
    read_experiment,
    show,
)


@app.command()
def plan(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What training will see: plan.parquet, and a page of shares, repeats and composites.

    In the folder of a finished run planned.parquet: what it was trained on stays.

    Example: raremap plan examples/naip.yaml --set balance="{kind: diao, copy_paste: true}"
    """
    from raremap.workflows.plan import plan_experiment

    show(plan_experiment(read_experiment(experiment, overrides, root), quiet=quiet), as_json)


@app.command()
def train(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="go on from the last checkpoint, or begin anew (default: go on where the same training was stopped)",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model; prepares the catalog first where there is none.

    Start it again to go on after a stop. Example: raremap train examples/naip.yaml --set train.steps=700
    """
    from raremap.workflows.train import train_experiment

    show(train_experiment(read_experiment(experiment, overrides, root), resume=resume, quiet=quiet), as_json)


@app.command()
def evaluate(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="folder of a trained model or ensemble, or an exported .onnx"),
    ],
    catalog: Annotated[Path, typer.Option("--catalog", help="catalog.parquet with the test places")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder for evaluation.json and report.html")
    ] = None,
    use: Annotated[str, typer.Option(help="places to score: test, calibration, monitor or train")] = "test",
    tta: TtaOption = None,
    flips: FlipsOption = False,
    scales: ScalesOption = "",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a bundle on places it has not seen: evaluation.json and report.html.

    Example: raremap evaluate runs/naip/bundle --catalog runs/naip/catalog.parquet
    """
    from raremap.workflows.evaluate import evaluate as run

    way = averaging(tta, flips, scales)
    show(run(bundle, catalog, use=use, out=out, device=device, quiet=quiet, **way), as_json)


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a trained model or ensemble")],
    catalog: Annotated[Path, typer.Option("--catalog", help="catalog.parquet with the calibration places")],
    tta: TtaOption = None,
    flips: FlipsOption = False,
    scales: ScalesOption = "",
    window: Annotated[int | None, typer.Option(help="window size in pixels (default: the bundle's)")] = None,
    overlap: Annotated[float | None, typer.Option(help="share of a window that the next repeats")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit the decision again, for one way of predicting, and keep it in the bundle beside those for others.

    Example: raremap calibrate runs/naip/bundle --catalog runs/naip/catalog.parquet --tta
    """
    from raremap.workflows.calibrate import calibrate as run

    way = averaging(tta, flips, scales)
    show(run(bundle, catalog, window=window, overlap=overlap, device=device, quiet=quiet, **way), as_json)


@app.command()
def kfold(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="folder (default: OUT/kfold)")] = None,
    no_ensemble: Annotated[bool, typer.Option("--no-ensemble", help="make no ensemble of the folds")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train and test every fold: one report, pooled and by fold, and an ensemble of their bundles.

    Start it again to go on after a stop. Example: raremap kfold examples/naip.yaml --set split.folds=5
    """
    from raremap.workflows.kfold import kfold as run

    exp = read_experiment(experiment, overrides, root)
    show(run(exp, out, ensemble=not no_ensemble, quiet=quiet), as_json)


@app.command()
def ensemble(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="folders of trained models")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the ensemble")],
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="catalog.parquet to fit its decision on")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bundles of several seeds or folds as one, which gives the mean of their probabilities.

    Example: raremap ensemble runs/seed0/bundle runs/seed1/bundle -o both.bundle --catalog runs/seed0/catalog.parquet
    """
    from raremap.workflows.ensemble import ensemble as run

    show(run(bundles, out, catalog, device=device, quiet=quiet), as_json)


@app.command()
def compare(
    experiment: ExperimentArg,
    presets: Annotated[str, typer.Option(help="recipes to compare, with commas between")] = "",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="'NAME: A.B=C ...'",
            help="the experiment with some keys changed; may be repeated",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="seeds for each variant and fold")] = 3,
    folds: Annotated[str, typer.Option(help="all, or fold numbers with commas between")] = "all",
    keep: Annotated[
        str, typer.Option(help="shares of labelled training tiles to keep, such as 0.05,0.25,1")
    ] = "",
    imbalance: Annotated[
        str, typer.Option(help="imbalance ratios to thin the rare classes to, such as 10,100,1000")
    ] = "",
    points: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'KIND count=N ...'",
            help="train on simulated points, such as 'per_object count=5', or dense; may be repeated",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="variant that differences are to (default: the first)")
    ] = None,
    fitted_baseline: Annotated[
        bool,
        typer.Option(
            "--fitted-baseline", help="differences to it with its decision, not with the plain argmax"
        ),
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="test on the held-out places; every use of them is counted")
    ] = False,
    overrides: SetOption = None,
    root: RootOption = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder of the comparison (default: OUT/compare)")
    ] = None,
    keep_bundles: Annotated[bool, typer.Option("--keep-bundles", help="keep every run's bundle")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Variants under equal conditions: same steps, crops, folds, seeds and decision fitting; intervals over places.

    Start it again to go on after a stop. Example:
    raremap compare examples/naip.yaml --presets baseline,ce-dice --seeds 3
    """
    from raremap.workflows.compare import compare as run
    from raremap.workflows.compare import read_variant

    named = dict(read_variant(text) for text in variant or [])
    if len(named) < len(variant or []):
        raise typer.BadParameter("two variants have the same name", param_hint="--variant")
    result = run(
        read_experiment(experiment, overrides, root),
        presets=[p.strip() for p in presets.split(",") if p.strip()],
        variants=named,
        seeds=seeds,
        folds=None if folds == "all" else numbers(folds, "--folds", int),
        keep=numbers(keep, "--keep", float) or None,
        imbalance=numbers(imbalance, "--imbalance", float),
        points=points or None,
        baseline=baseline,
        fitted_baseline=fitted_baseline,
        final=final,
        out=out,
        keep_bundles=keep_bundles,
        quiet=quiet,
    )
    show(result, as_json)


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="names, or DECODER/ENCODER (default: all)")
    ] = None,
    bands: Annotated[int, typer.Option(min=1, help="bands of the imagery")] = 13,
    classes: Annotated[int, typer.Option(min=2, help="classes of the map")] = 2,
    crop: Annotated[
        int | None, typer.Option(min=8, help="pixels a side (default: 128; with --quick 64)")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="crops at once (default: 4; with --quick 1)")
    ] = None,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="measure no speed")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="one measured step each, of one small crop")] = False,
    encoders: Annotated[bool, typer.Option("--encoders", help="list the encoders by name instead")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Networks by name: weights, multiply-adds, and crops a second on this machine.

    Example: raremap models unet rau_net_1 fpn/resnet50 --bands 4
    """
    from raremap.workflows.models import encoder_names, list_models

    if encoders:
        show(encoder_names(), as_json)
        return
    crop, batch = crop or (64 if quick else 128), batch or (1 if quick else 4)
    seconds = None if no_speed else 0.0 if quick else 1.0
    table = list_models(names, bands, classes, crop, batch, seconds, device=device, quiet=quiet)
    show(table, as_json)
