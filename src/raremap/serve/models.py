"""The models of a server, as the page and programs see them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tabular.fusion import Fusion
    from raremap.tabular.model import TableModel


@dataclass(frozen=True)
class Class:
    """A class: its value in maps, its name and colour `#RRGGBB`, and whether it is rare."""

    value: int
    name: str
    color: str
    rare: bool


@dataclass(frozen=True)
class Model:
    """A bundle as the server needs it; the network itself is with the worker.

    `unfit` is why no imagery of a place and a date can be fetched for it, None where it can.
    """

    id: str
    folder: str
    name: str
    card: str
    bands: tuple[str, ...]
    classes: tuple[Class, ...]
    map_nodata: int
    nodata: float | None
    resolution_m: float | None
    metrics: dict[str, Any]
    unfit: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Model:
        """What `to_dict` gave."""
        classes = tuple(Class(**c) for c in data["classes"])
        return cls(**{**data, "bands": tuple(data["bands"]), "classes": classes})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """A model of tables; it answers at once, within the server's own process."""

    id: str
    card: str
    model: TableModel


@dataclass(frozen=True)
class Joined:
    """A model of imagery and one of tables, joined by a fusion; the ids are theirs, `landslide` a class of the former."""

    id: str
    image: str
    table: Table
    landslide: str
    fusion: Fusion
    top: int


def tables_of(loaded: Mapping[str, TableModel], taken: Sequence[str]) -> dict[str, Table]:
    """Models of tables (by folder) by id, beside models of the names `taken`."""
    ids = ids_of([*taken, *(m.name for m in loaded.values())])[len(taken) :]
    rows = zip(ids, loaded.items(), strict=True)
    return {i: Table(i, card_of(Path(folder)), model) for i, (folder, model) in rows}


def joined_of(
    file: Path | None, landslide: str | None, images: Mapping[str, Model], tables: Mapping[str, Table]
) -> Joined | None:
    """What a fusion.json joins, None without one; raises `ConfigError` where it does not fit the models."""
    if file is None:
        return None
    from raremap.workflows.table_fuse import read_fusion

    if len(images) != 1 or len(tables) != 1:
        raise ConfigError(
            f"a fusion joins one model of imagery and one of tables; {len(images)} and {len(tables)} are given"
        )
    (image,), (table,) = images.values(), tables.values()
    names = [c.name for c in image.classes]
    past = read_fusion(file, image.name, table.model.name)
    name = ids_of([image.name, table.model.name, "fused"])[-1]
    return Joined(name, image.id, table, past.landslide_of(names, landslide), past.fusion, past.top)


def described(bundle: Bundle | Ensemble, folder: Path, model_id: str) -> Model:
    """A loaded bundle in these words.

    A class is rare where the scheme says so, else by its share of the ground of the training, which is not the prior of
    its scores (`balance.census.rare_classes`); none is where the bundle does not know them.
    """
    import numpy as np

    from raremap.balance.census import rare_classes
    from raremap.serve.place import unfit

    scheme = bundle.scheme
    shares = np.array(bundle.shares) if bundle.shares else np.full(scheme.num_classes, np.nan)
    rare = rare_classes(shares, scheme.names, scheme.rare)
    rows = zip(scheme.values, scheme.names, scheme.palette, strict=True)
    return Model(
        id=model_id,
        folder=str(folder),
        name=bundle.name,
        card=card_of(folder),
        bands=bundle.bands,
        classes=tuple(Class(v, n, c, n in rare) for v, n, c in rows),
        map_nodata=scheme.map_nodata,
        nodata=bundle.nodata,
        resolution_m=bundle.info.get("resolution_m"),
        metrics=bundle.metrics,
        unfit=unfit(bundle),
    )


def ids_of(names: Sequence[str]) -> list[str]:
    """A short name for addresses for each, no two alike.

    >>> ids_of(["NAIP, soft", "naip soft", "Zürich"])
    ['naip-soft', 'naip-soft-2', 'z-rich']
    """
    out: list[str] = []
    for name in names:
        short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "model"
        same = sum(o == short or re.fullmatch(rf"{re.escape(short)}-\d+", o) is not None for o in out)
        out.append(f"{short}-{same + 1}" if same else short)
    return out


def card_of(folder: Path) -> str:
    """A bundle's card without the lines that are meant for a registry."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip()
