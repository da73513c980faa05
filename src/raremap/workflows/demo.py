"""`raremap demo`: the whole job on simulated valleys, to a map and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VALLEYS, _SIZE = 24, 256


@dataclass(frozen=True)
class Demo:
    """What the demo made, and its figures on valleys that training did not see."""

    macro_f1: float
    miou: float
    rare_f1: float
    report: Path
    map: Path
    picture: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {k: str(v) if isinstance(v, Path) else round(v, 4) for k, v in self.__dict__.items()}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"on valleys that training did not see ({self.seconds:.0f} s for everything):",
                f"  macro-F1               {self.macro_f1:.3f}",
                f"  mIoU                   {self.miou:.3f}",
                f"  F1 of the rare classes {self.rare_f1:.3f}",
                f"map:     {self.map}  (open it in QGIS; {self.map.with_suffix('.qml').name} styles it)",
                f"picture: {self.picture}",
                f"report:  {self.report}",
            ]
        )


def demo(out: str | Path = "demo", steps: int | None = None, seed: int = 0, quiet: bool = False) -> Demo:
    """Simulate valleys, prepare, count, train, evaluate, map one valley, and write the report, under `out`.

    Finished parts are kept: a second run with the same settings goes on where the first one was.
    """
    from raremap.maps.export import MapSummary
    from raremap.workflows.census import census
    from raremap.workflows.evaluate import evaluate
    from raremap.workflows.predict import predict
    from raremap.workflows.prepare import catalog_of
    from raremap.workflows.simulate import simulate
    from raremap.workflows.train import train_experiment

    started = time.perf_counter()
    out = Path(out)
    _say(quiet, f"1/6 simulate {_VALLEYS} valleys")
    simulate(out / "valleys", valleys=_VALLEYS, size=_SIZE, seed=seed, quiet=quiet)
    experiment = _experiment(out, steps or _steps(), seed)
    _say(quiet, "2/6 prepare")
    catalog = catalog_of(experiment, quiet)
    _say(quiet, f"3/6 census\n{census(catalog)}")
    _say(quiet, f"4/6 train {experiment.train.steps} steps")
    training = train_experiment(experiment, resume=_unfinished(experiment), quiet=quiet)
    _say(quiet, f"{training}\n5/6 evaluate")
    evaluation = evaluate(training.path, catalog, quiet=quiet)
    scene = catalog.scenes[str(catalog.scene_names[evaluation.rows[0]])]
    _say(quiet, f"{evaluation}\n6/6 map {scene.images[0]}")
    target = out / "map.tif"
    mapped: MapSummary = predict(training.path, scene.images[0], target, quiet=quiet).maps[0]
    picture = _picture(scene, mapped.path, catalog.scheme, out / "map.png")
    s = evaluation.scores
    report = Path(experiment.out) / "report.html"
    return Demo(s.macro_f1, s.miou, s.rare_f1, report, target, picture, time.perf_counter() - started)


def _say(quiet: bool, text: str) -> None:
    import sys

    if not quiet:
        print(text, file=sys.stderr, flush=True)


def _steps() -> int:
    """Steps that fit a few minutes here: processors with native bf16 are five times faster."""
    from raremap.models.forward import best_device, has_bf16

    device = best_device()
    return 600 if device.type == "cuda" or has_bf16(device) else 240


def _experiment(out: Path, steps: int, seed: int) -> Any:
    from raremap.config import Experiment

    return Experiment.from_dict(
        {
            "out": str(out / "simulated-valleys"),
            "scenes": {
                "images": str(out / "valleys/august/*.tif"),
                "masks": str(out / "valleys/labels/*.tif"),
            },
            "labels": "catalonia",
            "tiles": {"size": 128},
            "split": {
                "places": str(out / "valleys/places.json"),
                "folds": 4,
                "monitor": 0.15,
                "calibration": 0.2,
            },
            "model": {"decoder": "unet", "encoder": "resnet18", "decoder_channels": [128, 64, 32, 16]},
            "preset": "raremap",
            "optimizer": {"lr": 2.0e-3},
            "train": {"steps": steps, "batch_size": 8, "crop": 128, "seed": seed},
            "predict": {"window": 256, "overlap": 0.25},
        }
    )


def _unfinished(experiment: Any) -> bool:
    """Whether an earlier run of the same experiment left a checkpoint to go on from."""
    out = Path(experiment.out)
    saved = out / "experiment.yaml"
    same = saved.exists() and saved.read_text(encoding="utf-8") == experiment.to_yaml()
    return same and (out / "checkpoints" / "last.pt").exists()


def _picture(scene: Any, mapped: Path, scheme: Any, path: Path) -> Path:
    from raremap.reports.pictures import map_picture
    from raremap.scene.maskfile import open_mask

    with (
        scene.open_image() as image,
        open_mask(mapped, scheme) as classes,
        open_mask(scene.mask, scheme) as truth,
    ):
        pixels, valid = image.read(image.grid.window)
        return map_picture(
            path, pixels, valid, image.bands, scheme,
            {"given labels": truth.read(image.grid.window), "map": classes.read(image.grid.window)},
        )  # fmt: skip
