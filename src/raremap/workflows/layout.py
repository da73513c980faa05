"""`raremap layout`: the sections of an experiment for a folder of a known layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Sections(dict[str, Any]):
    """Sections of an experiment; as text they are YAML to go into its file."""

    def __str__(self) -> str:
        import yaml

        return yaml.safe_dump(dict(self), sort_keys=False, allow_unicode=True).rstrip()


def layout(name: str, root: str | Path, out: str | Path | None = None, quiet: bool = False) -> Sections:
    """The `scenes`, `labels` and `split` of an experiment on `root`; sets that are no rasters are written to `out`.

    `name` is one of `raremap.tiles.formats.LAYOUTS`, or `torchgeo:NAME`.
    """
    from raremap.tiles.formats import layout as run

    return Sections(run(name, root, out, quiet))
