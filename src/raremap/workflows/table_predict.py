"""`raremap table predict`: a table's rows to probabilities, a raster of its attributes to a susceptibility map."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raremap.errors import ConfigError, OutputError, RaremapWarning, SceneError, TableError, nearest, refuse
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.scene.raster import ImageReader
    from raremap.scene.window import Window
    from raremap.tabular.columns import Faults
    from raremap.tabular.model import TableModel

_TABLES = frozenset(
    {".csv", ".tsv", ".txt", ".parquet", ".geoparquet", ".pq", ".gpkg", ".geojson", ".shp", ".fgb"}
)
_PIXELS = 1 << 20  # of a window
_STEPS = 250


@dataclass(frozen=True)
class Scored:
    """What was written: rows or pixels with a probability, those without (nodata), alarms, the mean, seconds.

    An alarm is a probability of `least` or more; `prior` the share of positives that probabilities are given for.
    `outside` counts, by attribute, the rows or pixels beyond its range in training (0.1 % of those at either end).
    """

    path: Path
    unit: Literal["rows", "pixels"]
    count: int
    nodata: int
    alarms: int
    mean: float | None
    least: float
    prior: float
    seconds: float
    alarm_ha: float | None = None
    outside: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, "path": str(self.path)}

    def __str__(self) -> str:
        share = f" ({100 * self.alarms / self.count:.2f} %)" if self.count else ""
        area = f", {self.alarm_ha:,.2f} ha" if self.alarm_ha is not None else ""
        lines = [
            f"{self.path}  ({self.seconds:.1f} s)",
            f"  {self.count:,} {self.unit}, mean probability "
            f"{'–' if self.mean is None else format(self.mean, '.4f')} (for a share of {self.prior:.4g})",
            f"  {self.alarms:,} alarms{share}{area}, from a probability of {self.least:.3g} on",
        ]
        if self.nodata:
            lines.append(f"  {self.nodata:,} {self.unit} without data")
        return "\n".join(lines)


def table_predict(
    bundle: TableModel | str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    prior: float | None = None,
    keep: Sequence[str] | None = None,
    dtype: str | None = None,
    bands: Sequence[str] = (),
    layer: str | None = None,
    quiet: bool = False,
) -> Scored:
    """Probabilities of the rows of a table, or of the pixels of a raster of the same attributes.

    A table gives `out` (.csv, .parquet or .gpkg) with its columns (`keep`: some of them) and `probability` and
    `alarm`; rows are read and written in parts. A raster (a file with a band an attribute, or a file for each, called
    as the attributes) gives a COG of probabilities: `dtype` float32 (default) with nodata NaN, or uint8 in steps of 1/250 with
    nodata 255. A pixel where any attribute has no data, or is infinite, has no probability. `bands` say which attribute each band is.

    `prior` is the share of positives to expect; an alarm needs the same evidence whatever it is. Raises `TableError` or
    `SceneError` where an attribute is missing, `ConfigError` where an option is of the other kind of input.
    """
    from raremap.scene.cog import check_name
    from raremap.tabular.columns import Faults
    from raremap.tabular.model import TableModel

    model = TableModel.load(bundle) if isinstance(bundle, (str, Path)) else bundle
    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"the prior is {prior}, expected a share between 0 and 1")
    # Path would make s3:/ of s3://
    paths = [str(inputs)] if isinstance(inputs, (str, Path)) else [str(p) for p in inputs]
    out = Path(out)
    if any(Path(p).suffix.lower() in _TABLES for p in paths):
        if len(paths) > 1:
            raise TableError(f"{len(paths)} inputs are given; score tables one by one")
        refuse(f"on the rows of a table ({paths[0]})", dtype=dtype, bands=tuple(bands))
        _apart(out, paths)
        faults = Faults()
        done = _rows(model, Path(paths[0]), out, prior, keep, layer, faults, quiet)
    else:
        refuse(f"on a raster ({paths[0]})", keep=keep, layer=layer)
        dtype = dtype or "float32"
        if dtype not in ("float32", "uint8"):
            raise ConfigError(f"a map's type is float32 or uint8, not '{dtype}'")
        check_name(out)
        _apart(out, paths)
        faults = Faults("pixels")
        done = _map(model, paths, out, prior, dtype, bands, faults, quiet)
    for line in faults.lines():
        warnings.warn(f"{paths[0]}: {line}", RaremapWarning, stacklevel=2)
    return done


def _apart(out: Path, paths: list[str]) -> None:
    for path in paths:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise OutputError(f"{out} would overwrite its own input; choose another -o")


@dataclass
class _Tally:
    count: int = 0
    alarms: int = 0
    total: float = 0.0

    def add(self, probability: Any, alarm: Any) -> None:
        self.count += len(probability)
        self.alarms += int(alarm.sum())
        self.total += float(probability.sum())

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


def _rows(
    model: TableModel,
    path: Path,
    out: Path,
    prior: float | None,
    keep: Sequence[str] | None,
    layer: str | None,
    faults: Faults,
    quiet: bool,
) -> Scored:
    """Score a table part by part."""
    import pyarrow as pa

    from raremap.tabular.read import open_parts
    from raremap.tabular.write import written_parts

    started, tally = time.perf_counter(), _Tally()
    columns = model.columns
    with (
        open_parts(path, layer, types=columns.types(), missing=columns.missing) as parts,
        progress(path.name, 0, quiet) as bar,
    ):
        names = [n for n in parts.schema.names if n != parts.geometry]
        model.columns.check(names, str(path))
        for name in keep or ():
            if name not in names:
                raise TableError(f"{path} has no column '{name}' to keep; {nearest(name, names)}")
        made = ("probability", "alarm")
        kept = [n for n in (names if keep is None else keep) if n not in made]
        if parts.geometry is not None and out.suffix.lower() != ".csv":
            kept.append(parts.geometry)
        fields = [parts.schema.field(n) for n in kept]
        schema = pa.schema([*fields, ("probability", pa.float64()), ("alarm", pa.int8())])

        def scored() -> Iterator[pa.RecordBatch]:
            for batch in parts.batches:
                logits = model.logits(model.columns.values(batch, faults, str(path)))
                probability, alarm = _told(model, logits, prior)
                tally.add(probability, alarm)
                bar.note(f"{tally.count:,} rows") if not quiet else None
                columns = [batch.column(n) for n in kept]
                yield pa.RecordBatch.from_arrays(
                    [*columns, pa.array(probability), pa.array(alarm.astype("int8"))], schema=schema
                )

        written_parts(out, schema, scored(), parts)
    return Scored(
        out, "rows", tally.count, 0, tally.alarms, tally.mean, model.least(prior), _served(model, prior),
        time.perf_counter() - started, outside=dict(faults.beyond.count),
    )  # fmt: skip


def _told(model: TableModel, logits: Any, prior: float | None) -> tuple[Any, Any]:
    """Probabilities and alarms of calibrated log-odds."""
    from raremap.tabular.calibration import sigmoid

    return sigmoid(logits + model.moved(prior)), logits >= model.threshold


def _served(model: TableModel, prior: float | None) -> float:
    return model.serves if prior is None else prior


def _map(
    model: TableModel,
    paths: list[str],
    out: Path,
    prior: float | None,
    dtype: str,
    bands: Sequence[str],
    faults: Faults,
    quiet: bool,
) -> Scored:
    """Map a raster window by window."""
    import numpy as np

    from raremap.scene.cog import CogWriter
    from raremap.scene.gdal import bounded_cache
    from raremap.scene.ground import cell_areas

    started, tally = time.perf_counter(), _Tally()
    small = dtype == "uint8"
    with bounded_cache(), open_attributes(model, paths, bands) as reader:
        areas = cell_areas(reader.grid)
        alarm_ha = 0.0
        writer = CogWriter(
            out, reader.grid, dtype, bands=(f"probability of {model.info.get('label', 'label')}",),
            nodata=255 if small else float("nan"), scale=1 / _STEPS if small else None, overviews="average",
            tags={
                "TIFFTAG_SOFTWARE": f"raremap {version('raremap')}",
                "raremap_model": model.name,
                "raremap_prior": f"{_served(model, prior):.6g}",
                "raremap_alarm_from": f"{model.least(prior):.6g}",
            },
        )  # fmt: skip
        with writer, progress(Path(paths[0]).name, reader.grid.height * reader.grid.width, quiet) as bar:
            for window in _windows(reader):
                image, valid = reader.read(window)
                valid &= ~_infinite(reader, image, faults)
                logits = model.logits(model.columns.of_arrays(image[:, valid], faults))
                probability, alarm = _told(model, logits, prior)
                tally.add(probability, alarm)
                if areas is not None:
                    rows = np.nonzero(valid)[0][alarm]
                    alarm_ha += float(areas[window.row_off + rows].sum()) / 10_000
                made = np.full(valid.shape, 255 if small else np.nan, dtype)
                made[valid] = np.rint(probability * _STEPS) if small else probability
                writer.write(window, made)
                bar.advance(window.height * window.width)
            if not tally.count:
                raise SceneError(f"{paths[0]} has no pixel with data in all attributes; nothing was written")
    total = reader.grid.height * reader.grid.width
    return Scored(
        out, "pixels", tally.count, total - tally.count, tally.alarms, tally.mean, model.least(prior),
        _served(model, prior), time.perf_counter() - started, alarm_ha if areas is not None else None,
        dict(faults.beyond.count),
    )  # fmt: skip


def _infinite(reader: ImageReader, image: Any, faults: Faults) -> Any:
    """Pixels `[h, w]` where an attribute is infinite as float32, as models read it; counted by attribute."""
    import numpy as np

    found = np.zeros(image.shape[1:], bool)
    if not np.issubdtype(image.dtype, np.floating):
        return found
    for name, band, nodata in zip(reader.bands, image, reader.nodatas, strict=True):
        with np.errstate(over="ignore"):
            infinite = np.isinf(band.astype(np.float32, copy=False))
        if nodata is not None:
            infinite &= band != nodata
        if count := int(infinite.sum()):
            faults.infinite[name] += count
            found |= infinite
    return found


def open_attributes(model: TableModel, paths: Sequence[str], bands: Sequence[str] = ()) -> ImageReader:
    """A model's attributes as the bands of one image, in its order; raises `SceneError` where one is missing.

    Bands are called as their files say, or `bands`; a file of one band as the file, where it does not say. Where nothing says
    and there are as many as attributes they are taken in order, with a warning.
    """
    from raremap.scene.raster import open_image

    names = model.columns.names
    first, *others = paths
    own: Sequence[str] | None = list(bands) or None
    with open_image(first) as probe:
        if own is None and len(probe.bands) == 1 and probe.bands[0] not in names:
            own = [Path(first).stem]
        elif own is None and not probe.named and not others and len(probe.bands) == len(names):
            own = names
            warnings.warn(
                f"{first} does not say what its bands are; they are taken to be {', '.join(names)}, in this order",
                RaremapWarning,
                stacklevel=3,
            )
    layers: dict[str, str | Path] = {}
    for path in others:
        with open_image(path) as probe:
            name = probe.bands[0] if len(probe.bands) == 1 and probe.bands[0] in names else Path(path).stem
        if name in layers:
            raise SceneError(
                f"{path} and {layers[name]} are both of '{name}'; give one file for each attribute"
            )
        layers[name] = path
    with open_image(first, names=own, layers=layers) as whole:
        missing = [n for n in names if n not in whole.bands]
    if missing:
        raise SceneError(
            f"{first}{' and the other files have' if others else ' has'} no band '{missing[0]}', which the model reads; "
            f"the bands are {', '.join(whole.bands)}; {nearest(missing[0], whole.bands)}"
        )
    return open_image(first, names=own, bands=names, layers=layers)


def _windows(reader: ImageReader) -> Iterator[Window]:
    """Windows of the grid that follow the file's blocks: strips where those are whole rows, else squares."""
    from raremap.scene.window import Window

    height, width = reader.grid.height, reader.grid.width
    high, wide = 1024, 1024
    if reader.block[1] >= width:
        high, wide = max(16, _PIXELS // width // 16 * 16), width
    for row in range(0, height, high):
        for col in range(0, width, wide):
            yield Window(row, col, min(high, height - row), min(wide, width - col))
