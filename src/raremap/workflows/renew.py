"""`raremap predict --update`: a map renewed by newer scenes, once or as they arrive."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, OutputError, RaremapError, RaremapWarning, SceneError
from raremap.files import written
from raremap.jobs import progress
from raremap.workflows.days import day_of, scene_day

if TYPE_CHECKING:
    import numpy as np

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.models.precision import Precision
    from raremap.scene.clouds import CloudReader
    from raremap.workflows.scenes import Given, SceneToMap

_SETTLED_S = 5  # a file that changed since is still being written


@dataclass(frozen=True)
class Renewal:
    """What a scene changed in a map: pixels from class to class, and those that stayed, by reason."""

    path: Path
    dates: Path
    scene: str
    date: str
    margin: float
    names: tuple[str, ...]
    changed: np.ndarray
    confirmed: int
    unsure: int
    clouded: int
    clouds_unknown: int
    not_newer: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from` null is ground that had no class."""
        rows, cols = self.changed.nonzero()
        return {
            "map": str(self.path),
            "dates": str(self.dates),
            "scene": self.scene,
            "date": self.date,
            "margin": self.margin,
            "changed": [
                {
                    "from": self.names[i] if i < len(self.names) else None,
                    "to": self.names[j],
                    "pixels": int(self.changed[i, j]),
                }
                for i, j in zip(rows.tolist(), cols.tolist(), strict=True)
            ],
            "confirmed": self.confirmed,
            "within_margin": self.unsure,
            "clouded": self.clouded,
            "clouds_unknown": self.clouds_unknown,
            "not_newer": self.not_newer,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.path}  ({Path(self.scene).name} of {self.date}, {self.seconds:.1f} s)",
            f"  {'changed':<28} {self.changed.sum():13,} pixels",
            f"  {'the same class again':<28} {self.confirmed:13,}",
            f"  {'another, within the margin':<28} {self.unsure:13,}",
            f"  {'clouded':<28} {self.clouded:13,}",
            f"  {'clouded or not: unknown':<28} {self.clouds_unknown:13,}",
            f"  {'seen as late already':<28} {self.not_newer:13,}",
        ]
        order = sorted(self.to_dict()["changed"], key=lambda c: -c["pixels"])
        lines += [f"    {c['from'] or 'no class'} → {c['to']}: {c['pixels']:,}" for c in order[:12]]
        return "\n".join(lines)


@dataclass(frozen=True)
class Renewals:
    """What each scene changed, in the order of their dates."""

    scenes: tuple[Renewal, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"scenes": [s.to_dict() for s in self.scenes]}

    def __str__(self) -> str:
        return "\n".join(map(str, self.scenes))


def renew(
    bundle: Bundle | Ensemble | Exported | str | Path,
    scenes: Given | Sequence[Given],
    update: str | Path,
    out: str | Path | None = None,
    margin: float = 0.5,
    date: str | None = None,
    clouds: str | Path | None = None,
    cloud_values: Sequence[int] | None = None,
    argmax: bool = False,
    window: int | None = None,
    overlap: float | None = None,
    device: str = "auto",
    prior: Any = None,
    nodata: float | None = None,
    tta: str | bool | None = None,
    scales: Sequence[float] | None = None,
    quiet: bool = False,
    layers: Mapping[str, str | Path] | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
) -> Renewals:
    """Bring the map `update` up to date by newer scenes, in the order of their dates; `out` (default: the map itself).

    A pixel is looked at where a scene is valid, known to be without clouds, and newer than what the pixel rests upon; it
    changes where the log-odds of the scene's class over the map's exceed `margin`. All others are as they were.
    `NAME.dates.tif` beside the map says of each pixel when it was last seen and when it last changed; a map without
    it rests upon the day of its tag `raremap_date`, and one without that is older than any scene, with a warning.
    `date` (2024-08-12) is that of one scene, where neither its tags nor its name say so. `clouds` is a band of
    the scenes, a file, or a folder of files of the scenes' names, in which
    `cloud_values` are no view of the ground (default: 1, or what Sentinel-2's SCL calls clouds and their shadows). A YAML
    file may say both of its scenes, as `dates` and `clouds`; of several dates in one the last counts. The rest is as in `predict`.

    Raises `SceneError` where a scene's grid or the map's classes do not fit, `OutputError` where `out` is no GeoTIFF here.
    """
    import numpy as np

    from raremap.exported import load_model
    from raremap.maps.classmap import open_classmap
    from raremap.maps.dates import dates_path, iso, undated
    from raremap.maps.renew import CLEANED, Newer
    from raremap.maps.renew import renew as write
    from raremap.measure.decision import Decision
    from raremap.ways import predicting, unfitted
    from raremap.workflows.predict import moved, network_of, tags_of
    from raremap.workflows.scenes import scenes_to_map

    if not np.isfinite(margin) or margin < 0:
        raise ConfigError(f"the margin is {margin:g}, expected log-odds of 0 or more, such as 0.5")
    own = load_model(bundle) if isinstance(bundle, (str, Path)) else bundle
    bundle = predicting(own, window, overlap, tta, scales)
    if not argmax and prior is None and (told := unfitted(bundle)):
        warnings.warn(told, RaremapWarning, stacklevel=2)
    found = scenes_to_map(bundle, scenes, nodata, layers, clouds=clouds is None)
    if date is not None and len(found) > 1:
        raise ConfigError(f"one date cannot be that of {len(found)} scenes; give them one by one")
    dated = sorted(((scene_day(s, date), s) for s in found), key=lambda pair: pair[0])
    target = _target(update, out)
    fitted = moved(bundle, prior) if prior is not None else None if argmax else bundle.decision
    decision = fitted or Decision((0.0,) * bundle.scheme.num_classes)
    network = network_of(bundle, device, precision, compiled, quiet)
    tags = tags_of(bundle, fitted, compiled=compiled)
    done, source, cleaned = [], _here(update), False
    for day, scene in dated:
        started = time.perf_counter()
        with (
            open_classmap(source) as before,
            scene.opened(bundle) as image,
            progress(scene.name, image.grid.height, quiet) as bar,
        ):
            cleaned |= CLEANED in before.tags
            if told := undated(before):
                warnings.warn(told, RaremapWarning, stacklevel=2)
            newer = Newer(
                image,
                network,
                decision.apply,
                decision.odds,
                day,
                _clouds(clouds, cloud_values, scene),
                bundle.predict,
            )
            counts = write(before, newer, target, bundle.scheme, margin, tags, bar)
        done.append(
            Renewal(
                target, dates_path(target), scene.path, iso(day), margin, bundle.scheme.names, counts.changed,
                counts.confirmed, counts.unsure, counts.clouded, counts.unknown, counts.not_newer,
                time.perf_counter() - started,
            )
        )  # fmt: skip
        source = target
    if any(renewal.changed.any() for renewal in done):
        for told in _older(target, cleaned):
            warnings.warn(told, RaremapWarning, stacklevel=2)
    return Renewals(tuple(done))


def _older(target: Path, cleaned: bool) -> Iterator[str]:
    """What was made of the map before its pixels changed, in a line each."""
    from raremap.maps.quantities import beside

    if found := [path.name for path in beside(target)]:
        yield f"{', '.join(found)} beside {target} are of the older map; predict anew where they are needed"
    if cleaned:
        yield f"{target} holds pixels that were never cleaned and is no longer tagged as cleaned; raremap clean it again"


def _here(path: str | Path) -> Path:
    """The path of a map, which stands beside its dates in a folder that can be written."""
    from raremap.scene.gdal import is_remote

    if is_remote(path):
        raise OutputError(f"map {path} is no file of a folder here; copy it and its .dates.tif to one")
    return Path(path)


def _target(update: str | Path, out: str | Path | None) -> Path:
    """The map to write, a GeoTIFF."""
    from raremap.scene.cog import check_name

    target = _here(update if out is None else out)
    check_name(target)
    return target


def _clouds(clouds: str | Path | None, values: Sequence[int] | None, scene: SceneToMap) -> CloudReader | None:
    """Where clouds hide the ground: as given, else as the scene's own YAML file says."""
    from raremap.scene.clouds import CloudRecord
    from raremap.scene.gdal import is_remote

    if clouds is None:
        return scene.record.open_clouds()
    cloud = tuple(values) if values else None
    path = _cloud_file(clouds, scene.path)
    if Path(clouds).is_dir():
        clouds = path
    if path.exists() or path.suffix or path.name != str(clouds) or is_remote(clouds):
        record = CloudRecord(files=(str(clouds),), cloud=cloud)
    else:
        record = CloudRecord(bands=(str(clouds),), cloud=cloud)
    return replace(scene.record, clouds=record).open_clouds()


def _cloud_file(clouds: str | Path, scene: str | Path) -> Path:
    """Where the clouds of a scene lie, if they are in a file of their own: in a folder under the scene's name."""
    path = Path(clouds)
    return path / Path(scene).name if path.is_dir() else path


def in_folder(folder: str | Path) -> Callable[[], list[Path]]:
    """Finds the scenes of a folder that are no longer being written; a source for `watch`."""
    from raremap.scene.gdal import is_remote

    if is_remote(folder):
        raise SceneError(
            f"{folder} is an address, and a folder is watched; let `raremap acquire --watch MINUTES --source {folder} "
            "... -o imagery` fetch what comes there, and give --watch imagery/images --clouds imagery/scl"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise SceneError(f"{folder} is not a folder to watch")

    def find() -> list[Path]:
        files = (
            p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".tif", ".tiff") and p.name[0] != "."
        )
        return [p for p in files if _settled(p)]

    return find


def watch(
    bundle: Bundle | Ensemble | Exported | str | Path,
    find: Callable[[], Sequence[Path]] | str | Path,
    update: str | Path,
    out: str | Path | None = None,
    every_s: float = 60,
    rounds: int | None = None,
    **options: Any,
) -> Iterator[Renewal]:
    """Renew a map by scenes as they arrive, and hand on what each changed; ends after `rounds` looks (None: never).

    `find` is a folder, or what gives the scenes that are there (a search that downloads them, say). What was
    done is kept in `OUT.watched.json`, so that a stopped watch goes on where it was. A scene that
    cannot be used is warned of once, and tried again when its file, that of its clouds or a layer has changed, or after
    a restart; one whose map could not be written, at every look. What `renew` warns of is said once a watch.
    """
    from raremap.exported import load_model

    bundle = load_model(bundle) if isinstance(bundle, (str, Path)) else bundle
    look = find if callable(find) else in_folder(find)
    target = _target(update, out)
    journal = target.with_name(f"{target.stem}.watched.json")
    done: dict[str, str] = _read_journal(journal)
    source = target if done and target.exists() else _here(update)
    failed: dict[str, tuple[list[str], type[RaremapError]]] = {}
    said: set[str] = set()
    while True:
        due: dict[Path, list[str]] = {}
        for path in look():
            files = _files(path, **options)
            state = [_stamp(p) for p in files]  # before the work: what changes meanwhile is looked at again
            tried = failed.get(str(path))
            passing = tried is None or tried[0] != state or tried[1] is OutputError
            if passing and state[0] != done.get(str(path)) and all(map(_settled, files[1:])):
                due[path] = state
        for path in sorted(due, key=_order):
            try:
                with _once(said):
                    result = renew(bundle, path, source, target, **options).scenes[0]
            except RaremapError as error:
                tried = failed.get(str(path))
                failed[str(path)] = due[path], type(error)
                if failed[str(path)] != tried:
                    warnings.warn(f"{path.name} was left aside: {error}", RaremapWarning, stacklevel=2)
                continue
            source, done[str(path)] = target, due[path][0]
            failed.pop(str(path), None)
            with written(journal) as file:
                file.write_text(json.dumps(done, indent=1), encoding="utf-8")
            yield result
        rounds = None if rounds is None else rounds - 1
        if rounds == 0:
            return
        time.sleep(every_s)


def _files(
    scene: Path,
    clouds: str | Path | None = None,
    layers: Mapping[str, str | Path] | None = None,
    **_: Any,
) -> list[Path]:
    """The files that a watched scene is read from: its own first, those of its clouds and layers."""
    beside = [] if clouds is None else [_cloud_file(clouds, scene)]
    return [scene, *beside, *map(Path, (layers or {}).values())]


@contextmanager
def _once(said: set[str]) -> Iterator[None]:
    """Within it a warning is not shown whose text is in `said`; those that are shown are put there."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def first(message: Any, *more: Any, **named: Any) -> None:
            if str(message) not in said:
                said.add(str(message))
                show(message, *more, **named)

        warnings.showwarning = first
        yield


def _order(path: Path) -> tuple[int, str]:
    try:
        return day_of(path), path.name
    except RaremapError:  # told when it is tried
        return 0, path.name


def _stamp(path: Path) -> str:
    """What changes with a file; empty where there is none."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


def _settled(path: Path) -> bool:
    """Whether a file is not being written just now."""
    try:
        return time.time() - path.stat().st_mtime >= _SETTLED_S
    except OSError:
        return True  # there is none


def _read_journal(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise SceneError(f"{path} cannot be read; remove it to look at all scenes again") from None
