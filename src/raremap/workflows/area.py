"""`raremap area`: what a labelled sample says of a map: its accuracy, and the areas of its classes, with intervals."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from raremap.errors import ConfigError, RaremapWarning, SampleError, nearest
from raremap.files import written
from raremap.measure.stratified import Accuracy, Estimate, IntervalKind, Stratified, accuracy
from raremap.plain import plain

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.maps.atpoints import Answers
    from raremap.maps.classmap import ClassMap
    from raremap.maps.reference import Reference

FEW = 5
"""A normal interval that rests on fewer points than this is marked."""
_SAME_GROUND = 0.001  # by how much the ground of two maps may differ, besides a row and a column of pixels
_OFF = 0.01  # of the points may lie where the map has no class


@dataclass(frozen=True)
class AreaEstimate:
    """Accuracy and areas of a map; areas in `unit` ("ha" or "pixels").

    `points` counts the points that were used, `left_out` the others by reason, `strata` says how many of each stratum were used.
    """

    map: str
    sample: Path
    unit: str
    found: Accuracy
    colors: tuple[str, ...]
    points: int
    left_out: dict[str, int]
    strata: dict[str, int]
    interval: IntervalKind = "jeffreys"
    remarks: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def areas(self) -> dict[str, Estimate]:
        """Area of each class, adjusted for the map's errors."""
        return dict(zip(self.found.names, self.found.areas, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the matrices have the map's classes as rows."""
        f = self.found
        return plain(
            {
                "map": self.map,
                "sample": str(self.sample),
                "unit": self.unit,
                "level": 0.95,
                "interval": self.interval,
                "points": self.points,
                "left_out": self.left_out,
                "points_by_stratum": self.strata,
                "overall": f.overall.to_dict(),
                "classes": {
                    name: {
                        "mapped_area": f.mapped[i],
                        "area": f.areas[i].to_dict(),
                        "users_accuracy": f.users[i].to_dict(),
                        "producers_accuracy": f.producers[i].to_dict(),
                        "mapped_points": f.counts[i].sum(),
                        "reference_points": f.counts[:, i].sum(),
                    }
                    for i, name in enumerate(f.names)
                },
                "matrix_points": f.counts,
                "matrix_shares": f.shares,
                "remarks": list(self.remarks),
                "files": [str(p) for p in self.files],
            }
        )

    def __str__(self) -> str:
        f = self.found
        wide = max(15, *map(len, f.names))
        lines = [
            f"{self.map}: overall accuracy {_share(f.overall)} (95 %, {self.interval}, {self.points:,} points)",
            f"  {f'areas in {self.unit}':<{wide}} {'mapped':>14} {'area':>14} {'from':>14} {'to':>14} {'user’s':>20} {'producer’s':>20}",
        ]
        for i, name in enumerate(f.names):
            if not (f.mapped[i] or f.counts[:, i].any()):
                continue
            area = f.areas[i]
            lines.append(
                f"  {name:<{wide}} {f.mapped[i]:14,.2f} {area.value:14,.2f} {area.low:14,.2f} {area.high:14,.2f} "
                f"{_share(f.users[i]):>20} {_share(f.producers[i]):>20}"
            )
        lines += [f"note: {r}" for r in self.remarks]
        lines += [str(p) for p in self.files]
        return "\n".join(lines)


def _share(e: Estimate) -> str:
    return "–" if np.isnan(e.value) else str(e)


def area(
    map: str | Path,
    points: str | Path,
    out: str | Path | None = None,
    scheme: LabelScheme | str | None = None,
    interval: IntervalKind = "jeffreys",
    random_within_classes: bool = False,
) -> AreaEstimate:
    """Estimate accuracy and areas from the points of `raremap sample` that were labelled.

    The general estimator of stratified samples (Stehman 2014), which is that of Olofsson et al. 2014 where the
    strata are the map's classes; so another map of the same ground than the one that the sample was drawn from may be judged by it.
    Points of a file without a design are refused unless `random_within_classes` says that they were drawn at random within each
    class of the map. A reference class that the map does not have is an error of the map wherever it was found, and gets
    an area. With `out` writes area.json and area.html there. Ground is measured on the ellipsoid, in any CRS.

    `interval` is how the 95 % are found: "jeffreys" from a posterior that knows of omissions no point has met, and
    holds for classes below 1 % of the ground too; "normal" as ± 1.96 standard errors, as Olofsson et al. 2014 print them.
    The estimates and standard errors are the same.

    Raises `SceneError` for a map without a legend, `SampleError` where the points cannot be read or a stratum
    has fewer than two that can be used, or where map and sample are not of the same ground, `ConfigError` for another interval. What is left out is counted and warned of.
    """
    from raremap.labels import LabelScheme
    from raremap.maps.atpoints import answers_of
    from raremap.maps.classmap import open_classmap
    from raremap.maps.reference import read_reference
    from raremap.maps.strata import Strata, survey

    if interval not in get_args(IntervalKind):
        raise ConfigError(f"'{interval}' is no interval; {nearest(interval, get_args(IntervalKind))}")
    sample = read_reference(points)
    scheme = LabelScheme.named(scheme) if isinstance(scheme, str) else scheme
    with open_classmap(map, scheme) as source:
        if (sample.design is None) != random_within_classes:
            raise SampleError(_unlike(sample))
        answers = answers_of(source, sample)
        counted = survey(Strata.of(source))
        by_hectare = source.grid.crs is not None
        mapped = counted.areas / (1e4 if by_hectare else 1.0)
        pixels = counted.pixels.sum(0)
        unit = "ha" if by_hectare else "pixels"
        result = _estimate(source, sample, answers, mapped, pixels, unit, interval)
    for remark in result.remarks:
        warnings.warn(remark, RaremapWarning, stacklevel=2)
    return result if out is None else _write(result, Path(out))


def _estimate(
    source: ClassMap,
    sample: Reference,
    answers: Answers,
    mapped: np.ndarray,
    pixels: np.ndarray,
    unit: str,
    interval: IntervalKind,
) -> AreaEstimate:
    from raremap.maps.classmap import GREY

    design, left_out = sample.design, dict(answers.left_out)
    remarks = []
    if design is None:
        names, areas, stratum, known = source.names, mapped, answers.mapped, np.ones(len(answers.ids), bool)
        remarks.append(
            f"{sample.path} does not say how its points were drawn; as was said, they count as drawn at random within each "
            "class of the map"
        )
    else:
        if (design.facts.get("unit") == "pixels") != (unit == "pixels"):
            raise SampleError(
                f"{sample.path} was drawn from a map {'with' if unit == 'pixels' else 'without'} a CRS, "
                f"{source.path} has {'none' if unit == 'pixels' else 'one'}; give the map that it was drawn from"
            )
        names = tuple(s.name for s in design.strata)
        pixels = np.array([s.pixels for s in design.strata], np.int64)
        areas = np.array([s.area for s in design.strata]) / (1e4 if unit == "ha" else 1.0)
        _check_ground(source, sample, answers, mapped.sum(), areas.sum(), unit)
        stratum = np.array([design.stratum_of.get(i, -1) for i in answers.ids.tolist()], np.int64)
        # A point counts once, whatever was copied in QGIS.
        first = np.zeros(len(stratum), bool)
        first[np.unique(answers.ids, return_index=True)[1]] = True
        known = (stratum >= 0) & first
        if added := int((~known).sum()):
            left_out["that the design does not know"] = added
        if gone := len(set(design.stratum_of) - set(sample.ids.tolist())):
            left_out["of the design that are no longer in the file"] = gone
    stratum, ground = stratum[known], answers.ground[known]
    if not len(stratum):
        raise SampleError(
            f"{sample.path} has no point that can be used: {_said(left_out) or 'it is empty'}; "
            "fill in the field 'reference'"
        )
    drawn = Stratified(stratum, ground, areas, pixels, names)
    foreign = answers.foreign
    if (answers.reference[known] >= len(source.names)).all():
        raise SampleError(
            f"no reference of {sample.path} is a class of {source.path} (they are {', '.join(map(repr, foreign))}); "
            "give a map of the classes that were looked for"
        )
    found = accuracy(
        drawn, answers.mapped[known], answers.reference[known], (*source.names, *foreign),
        np.append(mapped, np.zeros(len(foreign))), interval,
    )  # fmt: skip
    if foreign:
        remarks.append(
            f"references of classes that the map does not have: {', '.join(f'{n!r} ({c:,})' for n, c in foreign.items())}; "
            "each is an error of the map (mend those that are misspelt, leave empty what nobody can tell)"
        )
    if left_out:
        remarks.append(
            f"points left out: {_said(left_out)}; the others stand for them, as if they were like the rest of their stratum"
        )
    if interval == "normal" and (few := _few(found)):
        remarks.append(
            f"fewer than {FEW} reference points hold {few}: their normal intervals are not to be trusted, "
            "those of 'jeffreys' are made for them"
        )
    return AreaEstimate(
        map=source.path,
        sample=sample.path,
        unit=unit,
        found=found,
        colors=(*source.colors, *[GREY] * len(foreign)),
        points=len(stratum),
        left_out=left_out,
        strata={n: int(c) for n, c in zip(names, drawn.points, strict=True)},
        interval=interval,
        remarks=tuple(remarks),
    )


def _unlike(sample: Reference) -> str:
    """What is wrong where design and the word about it disagree."""
    if sample.design is not None:
        return f"{sample.path} says itself how its points were drawn; leave out --random-within-classes"
    return (
        f"{sample.path} does not say how its points were drawn, which a sample loses when it is exported: give the GeoPackage "
        "that `raremap sample` wrote; or, if they were drawn at random within each class of the map, say so to `raremap area` with --random-within-classes"
    )


def _check_ground(
    source: ClassMap, sample: Reference, answers: Answers, mapped: float, drawn: float, unit: str
) -> None:
    """Raise `SampleError` where a map does not show the ground that a sample was drawn from."""
    grid = source.grid
    # Maps of other pixels end elsewhere inside the last ones.
    if abs(mapped - drawn) > (_SAME_GROUND + 1 / grid.height + 1 / grid.width) * drawn:
        raise SampleError(
            f"{source.path} has classes on {mapped:,.2f} {unit}, {sample.path} was drawn from {drawn:,.2f} {unit}; "
            "a sample tells of its own ground, give a map of it"
        )
    labelled = answers.off + len(answers.ids)
    if answers.off > max(1, _OFF * labelled):
        raise SampleError(
            f"{answers.off:,} of {labelled:,} points of {sample.path} lie where {source.path} has no class; "
            "a sample tells of its own ground, give a map of it"
        )


def _said(left_out: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in left_out.items())


def _few(found: Accuracy) -> str:
    held = found.counts.sum(0)
    return ", ".join(
        f"'{name}' ({n})"
        for name, n, area in zip(found.names, held, found.mapped, strict=True)
        if n < FEW and (n or area)
    )


def _write(result: AreaEstimate, out: Path) -> AreaEstimate:
    from raremap.reports.area import write_area_page

    result = replace(result, files=(out / "area.json", out / "area.html"))
    with written(result.files[0]) as fresh:
        fresh.write_text(json.dumps(result.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
    write_area_page(
        result.files[1], result.to_dict(), dict(zip(result.found.names, result.colors, strict=True))
    )
    return result
