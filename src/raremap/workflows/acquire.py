"""`raremap acquire`: imagery of a place and a time, one file a day on one grid."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError

from raremap.errors import AcquireError, ConfigError, OutputError, RaremapWarning
from raremap.files import locked
from raremap.jobs import progress
from raremap.scene.acquire.options import BANDS, HUB, TERRAIN, AcquireOptions

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.scene.acquire.days import Target
    from raremap.scene.acquire.journal import Day
    from raremap.scene.acquire.place import Place
    from raremap.scene.acquire.source import Overpass, Source

LARGE_GB = 20.0
"""Size, before compression, from which a download must be confirmed."""

_WRITTEN = 0.5  # share of that size that compressed imagery takes at least


@dataclass(frozen=True)
class Acquired:
    """What was found and what is there: the days, those fetched now, and the files beside them."""

    folder: Path
    found: tuple[Overpass, ...]
    days: tuple[Day, ...]
    new: tuple[str, ...]
    size: tuple[int, int]
    crs: str
    source: str
    gigabytes: float
    mosaic: Path | None = None
    dem: Path | None = None
    slope: Path | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """The images, the earliest first."""
        return tuple(self.folder / d.image for d in self.days if d.image is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "folder": str(self.folder),
            "size": list(self.size),
            "crs": self.crs,
            "source": self.source,
            "gigabytes": self.gigabytes,
            "found": [{"date": f.date, "scenes": list(f.scenes), "cloud": f.cloud} for f in self.found],
            "days": [asdict(d) for d in self.days],
            "new": list(self.new),
            **{n: str(p) if p else None for n, p in self._beside.items()},
        }

    @property
    def _beside(self) -> dict[str, Path | None]:
        return {"mosaic": self.mosaic, "dem": self.dem, "slope": self.slope}

    def __str__(self) -> str:
        height, width = self.size
        lines = [
            f"{len(self.found)} day(s) of {width}x{height} pixels in {self.crs}, {self.gigabytes:.2g} GB at most"
        ]
        done = {d.date: d for d in self.days}
        for one in self.found:
            told = "" if one.cloud is None else f"{one.cloud:5.1f} % cloud told"
            day = done.get(one.date)
            if day is None:
                here = ""
            elif day.image is None:
                here = "no data in the place"
            else:
                here = f"{day.cloud:6.1%} cloud here, {day.covered:.1%} covered  {self.folder / day.image}"
            lines.append(f"  {one.date}  {len(one.scenes)} scene(s)  {told}  {here}".rstrip())
        return "\n".join([*lines, *(f"  {n:<8} {p}" for n, p in self._beside.items() if p)])


def acquire(
    out: str | Path,
    dates: str,
    bbox: str | Sequence[float] | None = None,
    polygon: str | Path | None = None,
    point: str | Sequence[float] | None = None,
    buffer_m: float | None = None,
    max_cloud: float = 30.0,
    source: str = "earth-search",
    collection: str | None = None,
    bundle: Bundle | Ensemble | str | Path | None = None,
    bands: Sequence[str] | None = None,
    resolution_m: float | None = None,
    clouds: Literal["file", "band", "mask"] = "file",
    scale: Literal["dn", "reflectance"] | None = None,
    mosaic: Literal["none", "median", "least-cloud"] = "none",
    dem: bool = False,
    clip: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    quiet: bool = False,
) -> Acquired:
    """Fetch the Sentinel-2 imagery of a place: `images/DATE.tif` for each day, and what goes with it, in the folder `out`.

    The place is one of `bbox` (W,S,E,N), `polygon` (a vector file) and `point` (LON,LAT, with `buffer_m`). `dates` is
    A/B of days, months or years, both included. `source` is earth-search, planetary-computer, cdse, sentinelhub, or the
    address of a STAC API. A `bundle` says the bands, their scale, the size of pixels (else 10 m) and the value of no data; `bands`,
    `scale` and `resolution_m` go before it. See `AcquireOptions` for the rest, and docs/acquire.md.

    Days that are finished are not fetched again. With `dry_run` nothing is fetched: the result says what there is.
    Raises `AcquireError` where nothing is found, where the source cannot be reached, and where the whole is larger than
    `LARGE_GB` unless `yes`.
    """
    from raremap.scene.acquire.period import Period

    place = _place(bbox, polygon, point, buffer_m)
    period = Period.read(dates)
    options = options_for(
        bundle,
        bands,
        scale,
        {
            **({"resolution_m": resolution_m} if resolution_m is not None else {}), "max_cloud": max_cloud, "clouds": clouds, "mosaic": mosaic, "dem": dem,
            "clip": clip,
        },
    )  # fmt: skip
    target = _target(Path(out), place, options)
    origin = source_of(source, collection)
    found = origin.overpasses(place, period, max_cloud)
    if not found:
        west, south, east, north = place.bounds
        raise AcquireError(
            f"{origin.name} has no scene of {origin.collection} at {west:.4f},{south:.4f},{east:.4f},{north:.4f} "
            f"from {period.first} to {period.last} with up to {max_cloud:g} % cloud; widen --dates or raise --max-cloud"
        )
    gigabytes = _gigabytes(target, len(found))
    if dry_run:
        return _result(origin, target, found, [], [], gigabytes)
    if gigabytes > LARGE_GB and not yes:
        raise AcquireError(
            f"{len(found)} day(s) of {target.grid.width}x{target.grid.height} pixels are {gigabytes:.0f} GB before "
            "compression; say --yes to fetch them, or take fewer --dates, --bands or less ground"
        )
    with locked(target.folder):
        return _fetch(origin, found, target, gigabytes, quiet)


def watch(every_s: float, rounds: int | None = None, **request: Any) -> Iterator[Acquired]:
    """`acquire` again and again, every `every_s` seconds (`rounds` times, or for good): what each round brought.

    A round that finds nothing, or that does not reach its source, is told in a warning, and the next is tried. Rounds
    without a new day give nothing. With `dates="2026-05-01/.."` the period goes up to today.
    """
    done = 0
    while rounds is None or done < rounds:
        if done:
            time.sleep(every_s)
        done += 1
        try:
            result = acquire(**request)
        except AcquireError as error:
            if done == 1 and "no scene" not in str(error):
                raise  # a wrong address or place is no matter of waiting
            warnings.warn(f"{error}; the next look is in {every_s:g} s", RaremapWarning, stacklevel=2)
            continue
        if result.new:
            yield result


def _fetch(source: Source, found: list[Overpass], target: Target, gigabytes: float, quiet: bool) -> Acquired:
    from raremap.scene.acquire.days import write_day
    from raremap.scene.acquire.journal import Journal
    from raremap.scene.acquire.stac import warn_if_dark

    journal = Journal(target.folder, _request(source, target))
    todo = [one for one in found if journal.finished(one.date, one.scenes) is None]
    _room(target, _gigabytes(target, len(todo)))
    new = []
    megapixels = target.grid.height * target.grid.width / 1e6
    _terrain(source, target, quiet)
    with progress(f"acquire from {source.name}", len(todo) * megapixels, quiet) as bar:
        for overpass in todo:
            bar.note(overpass.date)
            day, dark = write_day(source, overpass, target, bar)
            warn_if_dark(dark, day.date, source.name)
            journal.add(day)
            if day.image is not None:
                new.append(day.date)
    days = [journal.days[one.date] for one in found]
    if target.options.mosaic != "none":
        _mosaic(days, new, target, quiet)
    return _result(source, target, found, days, new, gigabytes)


def _terrain(source: Source, target: Target, quiet: bool) -> None:
    """Heights and slopes, where they are asked for and not there yet."""
    from raremap.scene.acquire.terrain import write_terrain

    dem, slopes = _heights(target)
    if not (target.options.dem or target.terrain) or (dem.is_file() and slopes.is_file()):
        return
    megapixels = target.grid.height * target.grid.width / 1e6
    with progress("heights", megapixels, quiet) as bar:
        write_terrain(source, target.grid, dem, slopes, bar)


def _mosaic(days: list[Day], new: list[str], target: Target, quiet: bool) -> None:
    from raremap.scene.acquire.mosaic import mosaic_is_of, write_mosaic

    how = target.options.mosaic
    assert how != "none"
    if not new and mosaic_is_of(days, target, how):
        return
    with progress(f"mosaic ({how})", target.grid.height * target.grid.width / 1e6, quiet) as bar:
        clear = write_mosaic(days, target, how, bar)
        if clear < 1:
            bar.note(f"{1 - clear:.1%} of the mosaic is clear on no day, and is nodata")


def _place(
    bbox: str | Sequence[float] | None,
    polygon: str | Path | None,
    point: str | Sequence[float] | None,
    buffer_m: float | None,
) -> Place:
    from raremap.scene.acquire.place import Place, read_numbers

    given = [n for n, v in (("bbox", bbox), ("polygon", polygon), ("point", point)) if v is not None]
    if len(given) != 1:
        raise AcquireError(
            f"the place is given by {' and '.join('--' + g for g in given) or 'nothing'}; "
            "give one of --bbox W,S,E,N, --polygon FILE, and --point LON,LAT with --buffer-m"
        )
    if (buffer_m is not None) != (point is not None):
        raise AcquireError("--point and --buffer-m belong together: the metres to each side of the point")
    if bbox is not None:
        west, south, east, north = read_numbers(bbox, 4, "--bbox", "W,S,E,N")
        return Place.box(west, south, east, north)
    if point is not None:
        lon, lat = read_numbers(point, 2, "--point", "LON,LAT")
        assert buffer_m is not None
        return Place.point(lon, lat, buffer_m)
    assert polygon is not None
    return Place.file(polygon)


def options_for(
    bundle: Bundle | Ensemble | str | Path | None,
    bands: Sequence[str] | None = None,
    scale: Literal["dn", "reflectance"] | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> AcquireOptions:
    """The options, with what the bundle says where `given` and the user do not.

    Raises `AcquireError` where Sentinel-2 has no imagery for the bundle: other bands, finer pixels, numbers of its own.
    """
    from raremap.scene.acquire.names import SCL, require_sentinel2, sentinel2

    wanted: dict[str, Any] = {"bands": tuple(bands or BANDS), "scale": scale or "dn"}
    if bundle is not None:
        wanted |= _wanted(bundle, bands, scale, given)
    names = wanted["bands"]
    if any(sentinel2(b) == SCL for b in names):
        if SCL not in names:
            raise AcquireError(f"the scene classification is a band called {SCL}; name it so")
        wanted["bands"] = tuple(b for b in names if b != SCL)
        given = {**given, "clouds": "band"}
    require_sentinel2(b for b in wanted["bands"] if b.lower() not in TERRAIN)
    if not any(b.lower() not in TERRAIN for b in wanted["bands"]):
        raise AcquireError(f"bands are {', '.join(names)}; name one of Sentinel-2's at least, such as B04")
    try:
        return AcquireOptions(**{**wanted, **given})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "options"
        raise ConfigError(f"{where} {fault['input']}: {fault['msg'].removeprefix('Value error, ')}") from None


def _wanted(
    bundle: Bundle | Ensemble | str | Path,
    bands: Sequence[str] | None,
    scale: Literal["dn", "reflectance"] | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    from raremap.ensembles import load_bundle
    from raremap.scene.acquire.fit import resolution_of, scale_of

    bundle = load_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
    one = cast("Bundle", getattr(bundle, "members", (bundle,))[0])
    nodata = one.nodata
    return {
        "bands": tuple(bands or bundle.bands),
        "resolution_m": given.get("resolution_m") or resolution_of(bundle.info, bundle.name),
        "scale": scale or scale_of(one.normalization, one.bands, bundle.name) or "dn",
        "nodata": None if nodata is None or math.isnan(nodata) else nodata,
    }


def _target(folder: Path, place: Place, options: AcquireOptions) -> Target:
    from raremap.scene.acquire.days import Target

    if folder.is_file():
        raise OutputError(f"{folder} is a file, expected a folder for the days; choose another -o")
    target = Target(folder, place, place.grid(options.resolution_m), options, {})
    dem, slope = _heights(target)
    files = {"dem": dem, "slope": slope}
    target.terrain.update({b.lower(): files[b.lower()] for b in options.bands if b.lower() in TERRAIN})
    return target


def _heights(target: Target) -> tuple[Path, Path]:
    return target.folder / "terrain" / "dem.tif", target.folder / "terrain" / "slope.tif"


def source_of(name: str, collection: str | None = None) -> Source:
    """The source of a name or address; raises `AcquireError` and `MissingExtra`."""
    if name == HUB:
        from raremap.scene.acquire.hub import HubSource

        if collection is not None:
            raise AcquireError("--collection is of STAC APIs; Sentinel Hub's Sentinel-2 L2A needs none")
        return HubSource()
    from raremap.scene.acquire.stac import StacSource, stac_api

    return StacSource(stac_api(name, collection), name)


def _request(source: Source, target: Target) -> dict[str, Any]:
    """What must be the same for days to stand beside each other in a folder."""
    import hashlib

    o = target.options
    return {
        "source": source.name,
        "collection": source.collection,
        "grid": target.grid.to_dict(),
        "bands": list(o.bands),
        "clouds": o.clouds,
        "scale": o.scale,
        "nodata": o.nodata,
        "clip": hashlib.sha256(target.place.geometry.wkb).hexdigest()[:16] if o.clip else None,
    }


def _gigabytes(target: Target, days: int) -> float:
    """Size of days before compression."""
    pixel = len(target.written) * (2 if target.options.dtype == "uint16" else 4) + 1
    return days * target.grid.height * target.grid.width * pixel / 1e9


def _room(target: Target, gigabytes: float) -> None:
    """Find out before the first fetch whether the disk holds it all."""
    folder = target.folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if gigabytes * _WRITTEN > free:
        raise OutputError(
            f"{target.folder} needs about {gigabytes * _WRITTEN:.1f} GB for the days to fetch, its disk has {free:.1f} GB "
            "left; choose another disk, or fewer --dates"
        )


def _result(
    source: Source, target: Target, found: list[Overpass], days: list[Day], new: list[str], gigabytes: float
) -> Acquired:
    from raremap.scene.acquire.mosaic import NAME

    dem, slope = _heights(target)
    mosaic = target.folder / NAME
    return Acquired(
        target.folder,
        tuple(found),
        tuple(days),
        tuple(new),
        (target.grid.height, target.grid.width),
        str(target.grid.crs),
        f"{source.name} {source.collection}",
        gigabytes,
        mosaic if target.options.mosaic != "none" and days else None,
        dem if dem.is_file() else None,
        slope if slope.is_file() else None,
    )
