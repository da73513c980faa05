"""The plan as a file: Parquet, a row for each tile and each composite."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from raremap.balance.composites import Composites
from raremap.balance.crops import CropGrid
from raremap.balance.objects import ObjectBank
from raremap.balance.options import BalanceOptions
from raremap.errors import CatalogError
from raremap.files import written

if TYPE_CHECKING:
    import pyarrow as pa

    from raremap.balance.plan import SamplingPlan

_KEY = b"raremap"
_PASTED = {"object": np.int32, "code": np.int32, "scale": np.float32, "top": np.int32, "left": np.int32}


def objects_path(path: str | Path) -> Path:
    """Where the objects of a plan's composites lie."""
    return Path(path).with_suffix(".objects.parquet")


def save(plan: SamplingPlan, path: str | Path) -> Path:
    """Write a plan and, where it has composites, their objects beside it; where not, those of an older plan go."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    k = plan.counts.shape[1]
    columns: dict[str, Any] = {
        "tile_id": pa.array(plan.tile_ids.tolist()),
        "weight": plan.weights,
        "repeats": plan.repeats,
        "counts": _fixed(plan.counts, k),
    }
    c = plan.composites
    if c is not None:
        tiles = len(plan.weights) - len(c)
        columns["background"] = np.where(plan.composite, np.concatenate([np.full(tiles, -1), c.row]), -1)
        values = (c.objects, c.code, c.scale, c.top, c.left)
        for (name, kind), lists in zip(_PASTED.items(), values, strict=True):
            columns[name] = _ragged([np.empty(0, kind)] * tiles + [np.asarray(v, kind) for v in lists])
    objects = None
    if plan.bank is not None:
        objects = _digest(plan.bank.save(objects_path(path)))
    if plan.cropped is not None:
        columns["cropped"] = _fixed(plan.cropped, k)
    if plan.grid is not None:
        g = plan.grid
        parts = np.split(np.arange(len(g.top)), g.first[1:-1])
        columns["crop_top"] = _ragged([g.top[p] for p in parts])
        columns["crop_left"] = _ragged([g.left[p] for p in parts])
        columns["crop_empty"] = _ragged([g.empty[p] for p in parts])
        columns["crop_chance"] = _ragged([g.chance[p] for p in parts])
        columns["crop_counts"] = _ragged([g.counts[p].ravel() for p in parts])
    meta = {
        "natural": plan.natural.tolist(),
        "target": plan.target.tolist(),
        "shares": plan.shares.tolist(),
        "rare": plan.rare.tolist(),
        "options": plan.options.model_dump(mode="json"),
        "note": plan.note,
        "path": None if plan.path is None else plan.path.tolist(),
        "refused": {} if c is None else c.refused,
        "crop": plan.crop,
        "grid": None if plan.grid is None else [plan.grid.size, plan.grid.step],
        "objects": objects,
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta).encode()})
    with written(path) as fresh:
        pq.write_table(table, fresh, compression="zstd")
    if objects is None:
        objects_path(path).unlink(missing_ok=True)  # of an older plan
    return path


def _digest(path: Path) -> str:
    """What tells the objects of one plan from those of another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: str | Path) -> SamplingPlan:
    """Read a plan; raises `CatalogError` where the file is missing or is none, or its objects are of another plan."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raremap.balance.plan import SamplingPlan

    try:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {})[_KEY])
        options = TypeAdapter(BalanceOptions).validate_python(meta["options"])
        counts = _matrix(table, "counts")
        composites = _composites(table, counts, meta["refused"])
        return SamplingPlan(
            tile_ids=np.array(table.column("tile_id").to_pylist(), object),
            weights=table.column("weight").to_numpy(),
            repeats=table.column("repeats").to_numpy(),
            counts=counts,
            natural=np.array(meta["natural"]),
            target=np.array(meta["target"]),
            rare=np.array(meta["rare"], bool),
            options=options,
            composites=composites,
            bank=None if not composites else _bank(objects_path(path), meta.get("objects")),
            grid=None if meta["grid"] is None else _grid(table, meta["grid"], counts.shape[1]),
            crop=meta["crop"],
            cropped=_matrix(table, "cropped") if "cropped" in table.column_names else None,
            note=meta["note"],
            path=None if meta["path"] is None else np.array(meta["path"]),
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, ValidationError):
        raise CatalogError(f"{path} is not a sampling plan; make it again with `raremap plan`") from None


def _bank(path: Path, objects: str | None) -> ObjectBank:
    """The objects of a plan; those of another one beside it would be pasted in their place."""
    bank = ObjectBank.load(path)
    if objects is not None and _digest(path) != objects:
        raise CatalogError(f"{path} holds the objects of another plan; make the plan again")
    return bank


def _composites(table: pa.Table, counts: np.ndarray, refused: dict[str, int]) -> Composites | None:
    if "background" not in table.column_names:
        return None
    background = table.column("background").to_numpy()
    here = np.flatnonzero(background >= 0)
    tiles = len(background) - len(here)
    lists = {name: _lists(table, name, kind)[tiles:] for name, kind in _PASTED.items()}
    return Composites(
        row=background[here],
        objects=lists["object"],
        code=lists["code"],
        scale=lists["scale"],
        top=lists["top"],
        left=lists["left"],
        counts=counts[here],
        refused=refused,
    )


def _grid(table: pa.Table, spacing: list[int], k: int) -> CropGrid:
    size, step = spacing
    tops = _lists(table, "crop_top", np.int32)
    first = np.concatenate([[0], np.cumsum([len(t) for t in tops])]).astype(np.int64)
    flat = {n: _flat(table, f"crop_{n}") for n in ("top", "left", "counts", "empty", "chance")}
    flat["counts"] = flat["counts"].reshape(-1, k)
    return CropGrid(size, step, first, **flat)


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def _fixed(values: np.ndarray, width: int) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values, np.float64).ravel()), width)


def _ragged(lists: list[np.ndarray]) -> pa.Array:
    import pyarrow as pa

    first = np.concatenate([[0], np.cumsum([len(v) for v in lists])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(first), pa.array(np.concatenate(lists)))


def _flat(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).combine_chunks().flatten().to_numpy()


def _lists(table: pa.Table, name: str, kind: type) -> list[np.ndarray]:
    column = table.column(name).combine_chunks()
    return np.split(column.flatten().to_numpy().astype(kind), column.offsets.to_numpy()[1:-1])
