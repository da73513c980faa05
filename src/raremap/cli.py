"""The command line: thin; a verb reads its arguments and calls one function of `workflows`.

Nothing heavier than typer is imported at the top, so that `raremap --help` is instant.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

_Number = TypeVar("_Number", int, float)

app = typer.Typer(
    name="raremap",
    help="Maps from satellite scenes that do not lose the rare classes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentArg = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment file (YAML)")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="override one key; may be repeated")
]
RootOption = Annotated[Path | None, typer.Option("--root", help="folder that holds the data (scenes.root)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]


def _version(show: bool) -> None:
    if show:
        import raremap

        print(f"raremap {raremap.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Maps from satellite scenes that do not lose the rare classes."""


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

    _show(run(out, steps=steps, seed=seed, quiet=quiet), as_json)


@app.command()
def simulate(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="folder for the valleys")],
    valleys: Annotated[
        int | None, typer.Option(help="write N independent valleys instead of one scene")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of 10 m a side (1024; with --valleys 512)")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Simulated valleys with known truth: imagery, labels, landslides.

    Example: raremap simulate valleys --valleys 24
    """
    from raremap.workflows.simulate import simulate as run

    _show(run(out_dir, valleys=valleys, size=size, seed=seed, quiet=quiet), as_json)


@app.command()
def rescale(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="fine class raster of one band")],
    like: Annotated[Path, typer.Option("--like", metavar="IMAGE", help="image whose grid the labels get")],
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
        options["ignore"] = tuple(_numbers(ignore, "--ignore", int))
    _show(run(labels, like, out, method, scheme, threads=threads, quiet=quiet, **options), as_json)


@app.command()
def prepare(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Scenes and labels to a catalog of tiles with their class counts.

    Example: raremap prepare examples/naip.yaml --root data
    """
    from raremap.workflows.prepare import prepare as run

    exp = _experiment(experiment, overrides, root)
    catalog = run(exp, quiet=quiet)
    _show(catalog.summary(), as_json)


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

    _show(run(name, folder, out, quiet=quiet), as_json)


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

    _show(run(catalog, out, split=split, quiet=quiet), as_json)


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

    _show(run(catalog, _experiment(experiment, overrides, root) if experiment else None), as_json)


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

    _show(plan_experiment(_experiment(experiment, overrides, root), quiet=quiet), as_json)


@app.command()
def train(
    experiment: ExperimentArg,
    overrides: SetOption = None,
    root: RootOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model; prepares the catalog first where there is none.

    Example: raremap train examples/naip.yaml --set train.steps=700
    """
    from raremap.workflows.train import train_experiment

    _show(train_experiment(_experiment(experiment, overrides, root), resume=resume, quiet=quiet), as_json)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a trained model")],
    catalog: Annotated[Path, typer.Option("--catalog", help="catalog.parquet with the test places")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder for evaluation.json and report.html")
    ] = None,
    use: Annotated[str, typer.Option(help="places to score: test, calibration, monitor or train")] = "test",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a bundle on places it has not seen: evaluation.json and report.html.

    Example: raremap evaluate runs/naip/bundle --catalog runs/naip/catalog.parquet
    """
    from raremap.workflows.evaluate import evaluate as run

    _show(run(bundle, catalog, use=use, out=out, device=device, quiet=quiet), as_json)


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
        _experiment(experiment, overrides, root),
        presets=[p.strip() for p in presets.split(",") if p.strip()],
        variants=named,
        seeds=seeds,
        folds=None if folds == "all" else _numbers(folds, "--folds", int),
        keep=_numbers(keep, "--keep", float) or None,
        imbalance=_numbers(imbalance, "--imbalance", float),
        points=points or None,
        baseline=baseline,
        final=final,
        out=out,
        keep_bundles=keep_bundles,
        quiet=quiet,
    )
    _show(result, as_json)


def _numbers(text: str, option: str, kind: type[_Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(
            f"'{text}' is not a list of {what} with commas between", param_hint=option
        ) from None


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
        device=device, prior=prior, nodata=nodata, quiet=quiet,
    )  # fmt: skip
    _show(result, as_json)


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="names, or DECODER/ENCODER (default: all)")
    ] = None,
    bands: Annotated[int, typer.Option(min=1, help="bands of the imagery")] = 13,
    classes: Annotated[int, typer.Option(min=2, help="classes of the map")] = 2,
    crop: Annotated[int, typer.Option(min=8, help="pixels a side")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="crops at once")] = 4,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="measure no speed")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="one measured step each, of one crop of 64²")
    ] = False,
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
        _show(encoder_names(), as_json)
        return
    if quick:
        crop, batch = 64, 1
    seconds = None if no_speed else 0.0 if quick else 1.0
    table = list_models(names, bands, classes, crop, batch, seconds, device=device, quiet=quiet)
    _show(table, as_json)


def _experiment(path: Path, overrides: list[str] | None, root: Path | None) -> Any:
    from raremap.config import Experiment

    more = [f"scenes.root={json.dumps(str(root))}"] if root is not None else []
    return Experiment.load(path, [*(overrides or []), *more])


def _show(result: Any, as_json: bool) -> None:
    """Print a result: its JSON object and nothing else, or its text."""
    if as_json:
        from raremap.plain import plain

        data = result.to_dict() if hasattr(result, "to_dict") else result
        print(json.dumps(plain(data), allow_nan=False))
    else:
        print(result)


def _warn(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"raremap: warning: {message}", file=sys.stderr)


def main() -> None:
    """Run the command line; exit 0 on success, 2 on wrong usage or bad input, 1 on a failure of ours."""
    import logging

    from raremap.errors import RaremapError, RaremapWarning

    logging.basicConfig(level=logging.WARNING, format="raremap: warning: %(message)s")
    plain = warnings.showwarning

    def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        (_warn if issubclass(category, RaremapWarning) else plain)(message, category, *args, **kwargs)

    warnings.showwarning = show
    warnings.simplefilter("ignore")  # libraries' own remarks are not for the user of a command line
    warnings.simplefilter("always", RaremapWarning)
    try:
        app()
    except RaremapError as error:
        print(f"raremap: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("raremap: stopped; nothing half-written was left", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
