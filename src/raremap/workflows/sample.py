"""`raremap sample`: a stratified random reference sample of a map, as points to label."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, RaremapWarning, SampleError, nearest
from raremap.jobs import progress

if TYPE_CHECKING:
    import numpy as np

    from raremap.labels import LabelScheme
    from raremap.maps.classmap import ClassMap
    from raremap.maps.reference import Stratum
    from raremap.maps.strata import Strata
    from raremap.measure.allocation import Allocation

# Olofsson et al. 2014, section 5.1.1: lower for the rare classes of change, higher for the stable ones.
_EXPECTED, _EXPECTED_RARE = 0.9, 0.7
_POOL_OF_CHANGE = 0.001


@dataclass(frozen=True)
class Sampled:
    """What was drawn: the file, the strata with their points, `unit` of their areas, and the standard error expected of overall accuracy."""

    path: Path
    strata: tuple[Stratum, ...]
    unit: str
    expected_se: float

    @property
    def points(self) -> int:
        """All points."""
        return sum(s.points for s in self.strata)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "points_file": str(self.path),
            "points": self.points,
            "unit": self.unit,
            "expected_se": self.expected_se,
            "strata": [dict(s.__dict__) for s in self.strata],
        }

    def __str__(self) -> str:
        total = sum(s.area for s in self.strata) or 1.0
        wide = max(len(s.name) for s in self.strata)
        lines = [
            f"{self.path}  ({self.points:,} points to label)",
            f"  {'stratum':<{wide}} {'share':>9} {'points':>7}",
        ]
        lines += [f"  {s.name:<{wide}} {s.area / total:9.3%} {s.points:7,}" for s in self.strata]
        lines.append(
            f"overall accuracy is expected to within ± {1.96 * self.expected_se:.3f}; label the points in QGIS, then "
            "`raremap area MAP POINTS`"
        )
        return "\n".join(lines)


def sample(
    map: str | Path,
    out: str | Path,
    se: float = 0.01,
    points: int | None = None,
    minimum: int = 50,
    allocation: Allocation = "proportional",
    buffer_px: int = 3,
    rare: Sequence[str] | None = None,
    expected: float | Mapping[str, float] | str | Path | None = None,
    pool: float | None = None,
    shown: bool = False,
    seed: int = 0,
    scheme: LabelScheme | str | None = None,
    quiet: bool = False,
) -> Sampled:
    """Draw reference points of a map and write them as a GeoPackage for QGIS.

    Strata are the map's classes, and the pixels within `buffer_px` of a rare class that are not of one
    themselves, where omissions of it lie (Olofsson et al. 2020; 0: no such stratum). `rare` names the rare classes (default: those
    below half of 1/K of the map). As many points are drawn as bring the standard error of overall accuracy to
    `se` in this allocation (Olofsson et al. 2014, equation 13, is of the best one), or `points`; at least `minimum` in each stratum, the rest by
    `allocation`. `expected` are the user's accuracies that are expected: one, or by class, or a JSON file of
    them (default: 0.7 for rare classes and the ground beside them, 0.9 for others). Classes with less than
    `pool` of the map share a stratum (default: 0, for a map of changes 0.001, where all ground that does not
    change is one stratum). The points do not say what the map has there unless `shown`. The same seed gives the
    same points.

    Raises `SceneError` for a map without a legend, `SampleError` where it has no pixel of a class.
    """
    import numpy as np

    from raremap.labels import LabelScheme
    from raremap.maps.classmap import open_classmap
    from raremap.maps.reference import Stratum, write_reference
    from raremap.maps.strata import draw, survey
    from raremap.measure.allocation import allocate, allocate_for, expected_se

    _check(se, points, minimum, buffer_px)
    scheme = LabelScheme.named(scheme) if isinstance(scheme, str) else scheme
    rng = np.random.default_rng(seed)
    with open_classmap(map, scheme) as source, progress("sample", 3, quiet) as bar:
        strata = _strata(source, rare, buffer_px, pool)
        bar.advance()
        found = survey(strata)
        bar.advance()
        pixels = found.pixels.sum(0)
        if not pixels.any():
            raise SampleError(
                f"map {source.path} has no pixel of a class: all of it is nodata; nothing was drawn"
            )
        accuracies = _expected(expected, strata)
        bounds = (found.weights, accuracies, pixels, minimum, allocation)
        sizes = allocate_for(se, *bounds) if points is None else allocate(points, *bounds)
        if points is not None and sizes.sum() > points:
            warnings.warn(
                f"{points} points are fewer than {minimum} in each of {np.count_nonzero(pixels)} strata: {sizes.sum()} are drawn; "
                "lower the minimum for fewer",
                RaremapWarning,
                stacklevel=2,
            )
        drawn = draw(strata, found, sizes, rng)
        unit = "pixels" if source.grid.crs is None else "m2"
        table = tuple(
            Stratum(name, int(n), float(a), int(s))
            for name, n, a, s in zip(strata.names, pixels, found.areas, sizes, strict=True)
        )
        facts = {
            "map": source.path,
            "unit": unit,
            "classes": dict(zip(source.names, source.values, strict=True)),
            "rare": [source.names[i] for i in strata.rare],
            "buffer_px": strata.buffer_px,
            "allocation": allocation,
            "se": se if points is None else None,
            "minimum": minimum,
            "seed": seed,
        }
        write_reference(out, source, drawn, table, facts, shown)
        bar.advance()
    return Sampled(Path(out), table, unit, expected_se(found.weights, accuracies, sizes))


def _check(se: float, points: int | None, minimum: int, buffer_px: int) -> None:
    if points is None and not 0 < se < 0.5:
        raise ConfigError(f"the standard error is {se:g}, expected a share such as 0.01")
    for name, value, least in (("points", points, 1), ("minimum", minimum, 2), ("buffer_px", buffer_px, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}, expected {least} or more")


def _strata(source: ClassMap, rare: Sequence[str] | None, buffer_px: int, pool: float | None) -> Strata:
    from raremap.maps.change import stable_codes
    from raremap.maps.strata import Strata, survey

    for name in rare or ():
        if name not in source.names:
            raise ConfigError(f"'{name}' is not a class of {source.path}; {nearest(name, source.names)}")
    stable = stable_codes(source)
    pool = (_POOL_OF_CHANGE if stable else 0.0) if pool is None else pool
    if rare is not None and not pool:  # nothing hangs on the shares
        return Strata.of(source, [source.names.index(name) for name in rare], buffer_px, (), stable or ())
    areas = survey(Strata.of(source)).areas
    shares = (areas / max(areas.sum(), 1e-300)).tolist()
    if rare is not None:
        few = [source.names.index(name) for name in rare]
    elif stable is not None:
        few = [i for i in range(len(shares)) if i not in stable and shares[i] > 0]
    else:
        few = [i for i, share in enumerate(shares) if 0 < share < 0.5 / len(shares)]
    small = [i for i, share in enumerate(shares) if 0 < share < pool and i not in (stable or ())]
    if stable is not None:  # changes that the map has nowhere need no stratum
        stable |= {i for i, share in enumerate(shares) if not share}
    return Strata.of(source, few, buffer_px, small, stable or ())


def _expected(expected: float | Mapping[str, float] | str | Path | None, strata: Strata) -> np.ndarray:
    """User's accuracy by stratum."""
    import numpy as np

    rare = {strata.of_class[i] for i in strata.rare} | {strata.beside}
    out = np.array([_EXPECTED_RARE if h in rare else _EXPECTED for h in range(len(strata.names))])
    if isinstance(expected, (str, Path)):
        try:
            expected = json.loads(Path(expected).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"expected accuracies {expected} cannot be read ({error})") from None
    given = dict(expected) if isinstance(expected, Mapping) else {}
    for name, value in given.items():
        if name not in strata.names:
            raise ConfigError(f"'{name}' is not a stratum; {nearest(name, strata.names)}")
        out[strata.names.index(name)] = value
    if isinstance(expected, (int, float)):
        out[:] = expected
    if not ((out > 0) & (out <= 1)).all():
        raise ConfigError(f"expected accuracies are {out.tolist()}, expected shares above 0 and up to 1")
    return out
