"""Scenes mapped in strips by the workers of a Ray cluster, to the same classes as by one machine."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.cluster import Cluster
from raremap.errors import ClusterError, ConfigError, RaremapError
from raremap.exported import Exported
from raremap.files import locked
from raremap.jobs import PartFiles, in_threads, progress
from raremap.maps.drawing import Drawing
from raremap.maps.export import MapFiles, MapSummary, held_rows, settled
from raremap.maps.parcel import packed, unpacked
from raremap.maps.stream import batch_of, parts_of, stream
from raremap.scene.gdal import fingerprint
from raremap.scene.window import Window
from raremap.workflows.days import date_tag
from raremap.workflows.uses import members_of

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.maps.stream import Network
    from raremap.tiles.catalog import SceneRecord
    from raremap.workflows.scenes import SceneToMap

log = logging.getLogger("raremap")

_VERSION = 1
_ROWS = 8
"""Rows of windows in a strip: the one above it is computed again, an eighth more at the usual overlap."""


@dataclass(frozen=True)
class Given:
    """What a worker needs to map any strip: the bundle, how its probabilities are drawn, where and how it computes."""

    bundle: Bundle | Ensemble | Exported
    drawing: Drawing
    device: str
    compiled: bool = False

    def __call__(self) -> Callable[[Task], bytes]:
        """The function that maps strips in a worker, with the bundle loaded."""
        return _Mapper(self)

    def digest(self, rule: str) -> str:
        """A checksum of all that a map follows from, beside its scene and precision; `rule` names how classes are decided."""
        b, d = self.bundle, self.drawing
        said = hashlib.sha256(
            repr((_VERSION, _ROWS, rule, d.scheme, d.probabilities, d.quantities, self.device, self.compiled, b.predict)).encode()
        )  # fmt: skip
        for member in members_of(b):
            said.update(repr((member.bands, member.features, member.normalization, member.prior)).encode())
            for part in _network(member):
                said.update(part)
        return said.hexdigest()[:24]


def _network(model: Bundle | Exported) -> Iterator[bytes]:
    """What tells a network from others: an exported one's graph by its checksum, else how it is built, and its weights."""
    if isinstance(model, Exported):
        yield repr(sorted(model.graph.items())).encode()
        return
    yield str(model.module).encode()
    for name, tensor in model.module.state_dict().items():
        yield name.encode()
        yield np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes()


@dataclass(frozen=True)
class Task:
    """A rectangle of a scene to be mapped in a precision, `batch` windows at once.

    An empty one asks for both: which precision "auto" takes there, and how many windows the worker's device has room for.
    """

    scene: SceneToMap
    window: Window
    precision: str
    number: int = 0
    batch: int | None = None

    def __str__(self) -> str:
        w = self.window
        return f"{self.scene.path}, rows {w.row_off}-{w.row_end}, columns {w.col_off}-{w.col_end}"


@dataclass
class _Mapper:
    given: Given
    networks: dict[str, Network] = field(default_factory=dict)

    def __call__(self, strip: Task) -> bytes:
        g = self.given
        if strip.precision not in self.networks:
            self.networks[strip.precision] = g.bundle.network(g.device, strip.precision, g.compiled)
        network = self.networks[strip.precision]
        with strip.scene.opened(g.bundle) as reader:
            options = g.bundle.predict
            batch = strip.batch or batch_of(reader, options, network)
            options = options.model_copy(update={"batch": batch})
            if not strip.window.empty:
                strips = stream(reader, network, g.bundle.scheme.num_classes, options, [strip.window])
                return packed(g.drawing(strips))
            if strip.precision == "auto":
                with closing(stream(reader, network, g.bundle.scheme.num_classes, options)) as strips:
                    for _ in strips:
                        if getattr(network, "precision", "float32") != "auto":
                            break
            return f"{getattr(network, 'precision', 'float32')} {batch}".encode()


def map_on(
    cluster: Cluster,
    given: Given,
    scenes: Sequence[tuple[SceneToMap, Path]],
    rule: str,
    tags: dict[str, str],
    precision: str = "auto",
    quiet: bool = False,
    keys: Mapping[Path, str] | None = None,
    done: dict[Path, MapSummary] | None = None,
) -> list[MapSummary]:
    """The maps of `scenes` (each with the file to write), in their order; `rule` is as in `Given.digest`.

    Strips that are done stand in a folder beside each map until it is complete, so that a stopped job goes on.
    `keys` are kept with the maps, by file, for `finished`; in `done` are those that stand, to which each is added.
    Raises what mapping here raises, and `ClusterError`.
    """
    if given.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{given.device}' is not one of a cluster's; use auto, cpu or cuda")
    if given.device == "cuda" and not cluster.has_gpu:
        raise ClusterError("no machine of the cluster has a GPU that Ray knows of; use --device auto or cpu")
    if isinstance(given.bundle, Exported):
        precision = given.bundle.computes_in(precision)
    on_gpu = given.device in ("auto", "cuda") and cluster.has_gpu
    given = replace(given, device="cuda" if on_gpu else "cpu")
    digest = given.digest(rule)
    done = {} if done is None else done
    jobs: list[_Scene] = []
    with ExitStack() as stack:
        for scene, target in scenes:
            folder = target.with_name(f".{target.stem}.parts")
            stack.enter_context(locked(folder))
            stack.callback(PartFiles(folder).tidy)
            with scene.opened(given.bundle) as reader:
                cut = parts_of(reader, given.bundle.scheme.num_classes, given.bundle.predict, _ROWS)
                made = hashlib.sha256(repr((digest, stamp(scene.record, reader.paths))).encode()).hexdigest()
                about = (reader.paths[0], reader.nodata)
                batch = batch_of(reader, given.bundle.predict)
                rows = held_rows(reader, given.bundle.predict.window)
                own, key = {**tags, **date_tag(scene)}, (keys or {}).get(target)
                files = MapFiles(target, reader.grid, given.drawing, own, rows, key)
            jobs.append(_Scene(scene, cut, PartFiles(folder), made[:24], files, about, len(cut), batch))
        team = stack.enter_context(cluster.team(given, on_gpu=on_gpu))
        if precision == "auto" or on_gpu:
            precision, batch = _settled(jobs[0], team, precision)
            for job in jobs if on_gpu else ():
                job.batch = batch
        title = jobs[0].scene.path if len(jobs) == 1 else f"{len(jobs)} scenes"
        bar = stack.enter_context(progress(title, sum(job.files.grid.height for job in jobs), quiet))
        bar.note(settled(precision, jobs[0].batch, given.bundle.predict.window))

        def strips() -> Iterator[Task]:
            for number, job in enumerate(jobs):
                for window in job.cut:
                    yield Task(job.scene, window, precision, number, job.batch)

        def mapped(strip: Task) -> bytes:
            job, w = jobs[strip.number], strip.window
            job.begun = True
            key = f"{job.key}-{precision}-{strip.batch}-{w.row_off}-{w.col_off}-{w.height}-{w.width}"
            data = job.kept.get(key)
            if data is None:
                data = team(strip)
                job.kept.put(key, data)
            return data

        try:
            for strip, data in in_threads(strips(), mapped, team.size, team.close):
                job = jobs[strip.number]
                if job.left == len(job.cut):
                    stack.enter_context(job.files)
                for drawn in unpacked(data):
                    job.files.write(drawn)
                bar.advance(strip.window.height * strip.window.width / job.files.grid.width)
                job.left -= 1
                if not job.left:
                    done[job.files.path] = job.files.finish(*job.about, precision, job.batch)
                    job.kept.remove()
        except RaremapError as error:
            raise broken_off(error, len(done), sum(not job.begun for job in jobs)) from None
        return [done[target] for _, target in scenes]


def broken_off(error: RaremapError, done: int, left: int) -> RaremapError:
    """A fault in the middle of a job, with how many maps stand and how many scenes were not begun."""
    if not done:
        return error
    error.args = (f"{error}; maps finished before and kept: {done}, scenes not begun: {left}",)
    return error


@dataclass
class _Scene:
    """A scene on its way: its strips, those that are done, and the files they go into."""

    scene: SceneToMap
    cut: list[Window]
    kept: PartFiles
    key: str
    files: MapFiles
    about: tuple[str, float | None]
    left: int
    batch: int
    begun: bool = False


def _settled(job: _Scene, team: Callable[[Task], bytes], precision: str) -> tuple[str, int]:
    """The precision that is taken on the first windows of the first scene, and how many windows its worker has room for.

    Kept for when the job goes on: every strip is computed alike.
    """
    key = f"{job.key}-{precision}-settled"
    kept = job.kept.get(key)
    if kept is None:
        kept = team(Task(job.scene, Window(0, 0, 0, 0), precision))
        job.kept.put(key, kept)
    found, _, batch = kept.decode().rpartition(" ")
    if (
        found == "auto" or "," in found
    ):  # a scene without a valid pixel, or members of an ensemble that differ
        log.info("precision %s on the first windows; float32 is used for all", found)
        found = "float32"
    return found, int(batch)


def stamp(record: SceneRecord, paths: Sequence[str]) -> tuple[object, ...]:
    """What tells whether a scene is the same as before: its files as they are, and how they are read."""
    from raremap.scene.gdal import modified

    files = [(str(path), fingerprint(path), modified(path)) for path in paths]
    return files, record.names, record.layers, record.nodata
