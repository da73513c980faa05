"""From a model and scenes to maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raremap.cli.app import (
    DeviceOption,
    FlipsOption,
    JsonOption,
    QuietOption,
    RayOption,
    RootOption,
    ScalesOption,
    SetOption,
    TtaOption,
    WorkersOption,
    app,
    averaging,
    changes,
    numbers,
    show,
)
from raremap.models.precision import Precision


@app.command()
def predict(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="folder of a trained model or ensemble, or an exported .onnx"),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="map.tif, or a folder for several scenes")],
    scenes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCENE...", help="files, or YAML files whose scenes are mapped"),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME=FILE", help="band in a file of its own; may be repeated"),
    ] = None,
    overrides: SetOption = None,
    root: RootOption = None,
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
    nodata: Annotated[
        float | None, typer.Option(help="value of no data, whatever the scenes and the bundle say")
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="also write the probability of the mapped class")
    ] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="also write how undecided the model is")] = False,
    level: Annotated[int, typer.Option(min=0, help="steps up the tree of classes")] = 0,
    update: Annotated[
        str | None, typer.Option(metavar="MAP", help="renew this map where the scenes are newer and clear")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="--update: log-odds that change a class (default: 0.5)")
    ] = None,
    date: Annotated[str | None, typer.Option(help="--update: day of the scene (2024-08-12)")] = None,
    clouds: Annotated[
        str | None, typer.Option(help="--update: cloud band, file, or folder of files of the scenes' names")
    ] = None,
    cloud_values: Annotated[
        str, typer.Option(help="--clouds: its values that hide the ground, with commas between (1, or SCL's)")
    ] = "",
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="--update: by the scenes that come into this folder (as acquire --watch fetches them)",
        ),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=0.1, help="--watch: seconds between two looks (default: 60)")
    ] = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision,
        typer.Option(help="of the network's layers; auto: as the bundle was scored"),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="torch.compile the network first: for large scenes in float32; needs a C++ compiler",
        ),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map whole scenes of any size: a COG with legend, CRS and nodata kept.

    Scenes of several files are told by a YAML file with a section scenes, such as an experiment's own (--set, --root).

    Example: raremap predict runs/naip/bundle scene.tif -o map.tif --layer dem=heights.tif
    """
    layers = _named_files(layer or ())
    found = _scenes(scenes or (), overrides, root)
    _belong("--update MAP", update, margin=margin, date=date, clouds=clouds)
    _belong("--clouds", clouds, cloud_values=cloud_values or None)
    _belong("--watch FOLDER", watch, every=every)
    if watch is not None and date is not None:
        raise typer.BadParameter("one day cannot be that of all scenes that come", param_hint="--date")
    if update is not None or watch is not None:
        beside = probabilities is not None or confidence or entropy or level or ray is not None
        if update is None or beside or bool(scenes) == (watch is not None):
            raise typer.BadParameter(
                "give --update MAP with scenes or with --watch FOLDER, and without --probabilities, --confidence, "
                "--entropy, --level and --ray"
            )
        given: dict[str, Any] = dict(
            date=date, clouds=clouds, argmax=argmax,
            cloud_values=numbers(cloud_values, "--cloud-values", int), window=window, overlap=overlap,
            device=device, precision=precision, compiled=compiled, prior=prior, nodata=nodata, quiet=quiet, layers=layers,
            **averaging(tta, flips, scales), **({} if margin is None else {"margin": margin}),
        )  # fmt: skip
        from raremap.workflows import renew

        if watch is None:
            show(renew.renew(bundle, found, update, out, **given), as_json)
        else:
            pause = {} if every is None else {"every_s": every}
            for result in renew.watch(bundle, watch, update, out, **pause, **given):
                show(result, as_json)
        return
    if not scenes:
        raise typer.BadParameter("no scene to map", param_hint="SCENE...")
    from raremap.workflows.predict import predict as run

    result = run(
        bundle, found, out, probabilities=probabilities, argmax=argmax, window=window, overlap=overlap,
        device=device, precision=precision, prior=prior, nodata=nodata, quiet=quiet, confidence=confidence, entropy=entropy,
        level=level, ray=ray, workers=workers, layers=layers, compiled=compiled, **averaging(tta, flips, scales),
    )  # fmt: skip
    show(result, as_json)


def _belong(to: str, given: object, **options: object) -> None:
    """Wrong usage where options are given without the one that they belong to."""
    names = ["--" + name.replace("_", "-") for name, value in options.items() if value is not None]
    if names and given is None:
        raise typer.BadParameter(f"says nothing without {to}", param_hint=" and ".join(names))


def _named_files(given: Sequence[str]) -> dict[str, str]:
    """Files by name of `NAME=FILE`."""
    found: dict[str, str] = {}
    for text in given:
        name, sep, path = text.partition("=")
        if not (name and sep and path) or name in found:
            told = (
                f"gives '{name}' twice"
                if name in found
                else "is not of the form NAME=FILE, such as dem=heights.tif"
            )
            raise typer.BadParameter(f"'{text}' {told}", param_hint="--layer")
        found[name] = path
    return found


def _scenes(given: Sequence[str], overrides: list[str] | None, root: Path | None) -> list[Any]:
    """Scenes as `predict` takes them, those of YAML files with what the command line changes in them."""
    more = changes(overrides, root)
    if not more:
        return list(given)
    from raremap.workflows.scenes import read_scenes, tells_scenes

    if not any(map(tells_scenes, given)):
        raise typer.BadParameter(
            "--set and --root change a YAML file of scenes, and none is given", param_hint="SCENE..."
        )
    return [read_scenes(s, more) if tells_scenes(s) else s for s in given]
