"""`raremap simulate`: valleys with known truth, written as GeoTIFFs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raremap.errors import ConfigError
from raremap.jobs import progress
from raremap.valley.options import ValleyOptions


def simulate(
    out_dir: str | Path,
    valleys: int | None = None,
    size: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    coupling: float = 1.0,
) -> Any:
    """Write one simulated scene, or `valleys` independent ones, under `out_dir`; says what was written.

    `size` is in pixels of 10 m (default 1024, or 512 each with `valleys`). `coupling` is how far landslides follow the terrain, 1 by
    default (0: anywhere on steep slopes). Same seed, same bytes.
    """
    from raremap.valley.simulate import simulate as run

    size = size if size is not None else (1024 if valleys is None else 512)
    try:
        options = ValleyOptions(seed=seed, size=size, valleys=valleys, coupling=coupling)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"{fault['loc'][0]} {fault['input']}: {fault['msg'][0].lower() + fault['msg'][1:]}"
        ) from None
    with progress("simulate", total=valleys or 1, quiet=quiet) as bar:
        return run(out_dir, options, bar)
