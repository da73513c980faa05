"""`raremap clean`: a map without what is too small, too narrow or too doubtful."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, OutputError
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.maps.cleaning import CleanOptions


@dataclass(frozen=True)
class CleanSummary:
    """What was changed: by class name the square metres before and after, and components given to their neighbours.

    `alone` counts components that are too small and stay, since nothing is beside them.
    """

    path: Path
    area_m2: dict[str, tuple[float, float]]
    filled: dict[str, int]
    alone: dict[str, int]
    pixels: int
    changed_pixels: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "map": str(self.path),
            "classes": {
                name: {
                    "before_m2": before, "after_m2": after, "filled": self.filled[name], "alone": self.alone[name],
                }
                for name, (before, after) in self.area_m2.items()
            },
            "pixels": self.pixels,
            "changed_pixels": self.changed_pixels,
            "seconds": round(self.seconds, 2),
        }  # fmt: skip

    def __str__(self) -> str:
        wide = max(len(name) for name in self.area_m2)
        share = 100 * self.changed_pixels / max(1, self.pixels)
        lines = [
            f"{self.path}  ({share:.2f} % of {self.pixels:,} pixels changed, {self.seconds:.1f} s)",
            f"  {'':<{wide}} {'ha before':>14} {'ha after':>14} {'components filled':>18}",
        ]
        for name, (before, after) in self.area_m2.items():
            lines.append(
                f"  {name:<{wide}} {before / 1e4:14,.2f} {after / 1e4:14,.2f} {self.filled[name]:18,}"
            )
        if left := sum(self.alone.values()):
            lines.append(f"  {left:,} components are too small but have nothing beside them; they stay")
        return "\n".join(lines)


def clean(
    source: str | Path,
    out: str | Path,
    options: CleanOptions | Mapping[str, Any] | str | Path | None = None,
    probabilities: str | Path | None = None,
    scheme: LabelScheme | str | None = None,
    quiet: bool = False,
    ray: str | None = None,
    workers: int | None = None,
    **more: Any,
) -> CleanSummary:
    """Clean a map: `options` are `CleanOptions`, or a mapping or YAML file of them; `more` go before.

    `probabilities` is the file that was written with the map. `scheme` is the legend of a map that has none. `ray` is the
    address of a Ray cluster whose `workers` do the filters, or "local".

        clean("map.tif", "clean.tif", mmu={"house": 400, "forest": 5000}, probabilities="map.probs.tif")

    Raises `ConfigError`, `LabelError`, `SceneError` or `OutputError`, in one line.
    """
    from raremap.cluster import maybe_joined
    from raremap.labels import LabelScheme
    from raremap.maps.classmap import open_classmap
    from raremap.maps.clean import clean_map
    from raremap.maps.levelmap import at_level
    from raremap.maps.probabilities import open_probabilities
    from raremap.scene.cog import check_name

    started = time.perf_counter()
    chosen, out = read_options(options, more), Path(out)
    check_name(out)
    if chosen.idle:
        raise ConfigError(
            "nothing is to be cleaned; give mmu, open, close, majority, level, or small with min_confidence"
        )
    scheme = LabelScheme.named(scheme) if isinstance(scheme, str) else scheme
    with open_classmap(source, scheme) as opened:
        if chosen.level:
            opened = at_level(opened, chosen.level, chosen.parents)
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise OutputError(f"{out} would overwrite the map that is cleaned; choose another -o")
        probs = open_probabilities(probabilities, opened) if probabilities else None
        with (
            maybe_joined(ray, workers) as cluster,
            progress(f"clean {Path(source).name}", opened.grid.height, quiet) as bar,
        ):
            tags = {"raremap_clean": chosen.model_dump_json(exclude_defaults=True)}
            done = clean_map(opened, out, chosen, probs, bar, tags, cluster)
        names = opened.names
    return CleanSummary(
        path=out,
        area_m2={n: (float(b), float(a)) for n, b, a in zip(names, done.before, done.after, strict=True)},
        filled=dict(zip(names, done.filled.tolist(), strict=True)),
        alone=dict(zip(names, done.alone.tolist(), strict=True)),
        pixels=done.pixels,
        changed_pixels=done.changed_pixels,
        seconds=time.perf_counter() - started,
    )


def read_options(
    options: CleanOptions | Mapping[str, Any] | str | Path | None, more: Mapping[str, Any]
) -> CleanOptions:
    """The options of a file or mapping with those of `more`; raises `ConfigError` naming the key."""
    import yaml
    from pydantic import ValidationError

    from raremap.errors import nearest
    from raremap.maps.cleaning import CleanOptions

    where = f"{options}: " if isinstance(options, (str, Path)) else ""
    if isinstance(options, (str, Path)):
        try:
            options = yaml.safe_load(Path(options).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{where}cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if isinstance(options, CleanOptions):
        options = options.model_dump(exclude_unset=True)
    given = options or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}holds {type(given).__name__}, expected keys such as mmu: {{house: 400}}")
    try:
        return CleanOptions(**{**given, **{k: v for k, v in more.items() if v is not None}})
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            raise ConfigError(
                f"{where}'{key}' is no option of clean; {nearest(key, CleanOptions.model_fields)}"
            ) from None
        text = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}{key + ': ' if key else ''}{text}") from None
