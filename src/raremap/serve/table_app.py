"""The addresses of tables: rows to probabilities at once, and units with a scene to a fused prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import anyio
from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter, ValidationError

from raremap.errors import TableError
from raremap.serve import bodies, results, rows, schemas
from raremap.serve.faults import Refused, first_of, one_line, unknown_model
from raremap.serve.guard import FUSED, TABLES
from raremap.serve.intake import Intake
from raremap.serve.jobs import new_id
from raremap.serve.models import Joined, Table
from raremap.serve.options import ServeOptions
from raremap.serve.place import can_fetch, missing_line, wanted
from raremap.serve.runner import Runner
from raremap.serve.units import apart, ingest_units
from raremap.serve.uploads import Slot, Upload, received
from raremap.workflows.unit_terrain import DERIVED

_AT_ONCE = 2  # tables that are read and scored: memory is bounded by so many
_TEXT = 200

FAULTS: dict[int | str, dict[str, Any]] = {
    408: {"model": schemas.Fault, "description": "Too slow"},
    415: {"model": schemas.Fault, "description": "Neither a form nor JSON"},
    501: {"model": schemas.Fault, "description": "This server has no fusion, or fetches no scenes"},
    507: {"model": schemas.Fault, "description": "The server's disk is full"},
}
_ROWS_BODY = bodies.body(
    bodies.json(
        schemas.Rows,
        {
            "model": "units",
            "keep": ["unit"],
            "rows": [
                {"unit": 7, "slope_mean": 31.5, "rock": "schist"},
                {"unit": 8, "slope_mean": 4, "rock": None},
            ],
        },
    ),
    bodies.form(
        ("file", "model"),
        {"file": "units.csv", "model": "units", "prior": 0.02, "keep": "unit"},
        file=bodies.file("a CSV or a GeoPackage"),
        model=bodies.MODEL,
        prior={"type": "number", "description": "share of positives to expect"},
        keep={"type": "string", "description": "columns that come back, with commas between"},
        layer=bodies.LAYER,
    ),
)
_FUSED_BODY = bodies.body(
    bodies.form(
        ("units",),
        {
            "units": "units.gpkg",
            "bbox": "2.1,41.3,2.2,41.4",
            "date": "2024-04-12",
            "double_check": True,
            "key": "unit",
        },
        units=bodies.file(
            "a GeoPackage of polygons with the attributes of the model of tables (those that follow from heights "
            "may be left out where the scene is fetched)"
        ),
        scene=bodies.file("a GeoTIFF; or bbox and date"),
        bbox={
            "type": "string",
            "description": "west,south,east,north in degrees; default: that of the units",
        },
        date={"type": "string", "format": "date", "description": "its scene is fetched"},
        double_check={
            "type": "boolean",
            "description": "alarms only where both sides confirm each other",
        },
        key={"type": "string", "description": "column of unit names", "default": "unit"},
        layer=bodies.LAYER,
    )
)


def tables(app: FastAPI, runner: Runner, intake: Intake, options: ServeOptions) -> None:
    """`POST /api/tables/predictions`."""
    limit = anyio.CapacityLimiter(_AT_ONCE)

    async def off(work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=limit)

    @app.post(
        TABLES, tags=["tables"], openapi_extra=_ROWS_BODY, responses=FAULTS, response_model=schemas.Scores
    )
    async def score(request: Request) -> Response:
        """Probability and decision of each row, at once: rows as JSON, or a CSV or GeoPackage."""
        kind = request.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() == "application/json":
            body = await request.body()
            return await off(partial(_of_body, runner.tables, body))
        async with intake.folder(new_id()) as folder:
            path = folder / "rows.csv"
            slots = {"file": Slot(path, options.max_table_bytes, "CSV or GeoPackage")}
            upload = await received(request.stream(), kind, slots)
            return await off(partial(_of_upload, runner.tables, path, upload, options.max_rows))


def _of_body(known: Mapping[str, Table], body: bytes) -> Response:
    try:
        asked = schemas.Rows.model_validate_json(body)
    except ValidationError as fault:
        raise Refused(422, first_of(fault.errors())) from None
    table = _table(known, asked.model)
    given = rows.of_json(asked.rows, table.model.columns, asked.keep)
    return _answered(table, given, asked.prior)


def _of_upload(known: Mapping[str, Table], path: FilePath, upload: Upload, most_rows: int) -> Response:
    fields = _fields(upload, ("model", "prior", "keep", "layer"))
    table = _table(known, fields.get("model", ""))
    prior = _prior(fields.get("prior", ""))
    keep = tuple(dict.fromkeys(k.strip() for k in fields.get("keep", "").split(",") if k.strip()))
    columns = table.model.columns
    given = rows.of_file(
        path, upload.called["file"], columns, keep, most_rows, fields.get("layer", "") or None
    )
    return _answered(table, given, prior)


def _answered(table: Table, given: rows.Rows, prior: float | None) -> Response:
    model = table.model
    told = {"model": table.id, "label": str(model.info.get("label", "label")), "positive": model.positive}
    told |= rows.answer(model, given, prior)
    return Response(json.dumps(told, allow_nan=False), media_type="application/json")


def fused(app: FastAPI, runner: Runner, intake: Intake, options: ServeOptions, checked: Any) -> None:
    """`POST /api/fused/predictions`; `checked` looks at an uploaded scene."""

    @app.post(
        FUSED, status_code=202, tags=["predictions"], openapi_extra=_FUSED_BODY, responses=FAULTS
    )  # fmt: skip
    async def fuse(request: Request) -> schemas.Accepted:
        """Fuse what both models say of units: a scene, or a date whose scene is fetched, and the units' polygons."""
        joined = runner.joined
        if joined is None:
            raise Refused(501, "this server joins no models; it is started with --fusion for that")
        kind = request.headers.get("content-type", "")
        job_id = new_id()
        async with intake.folder(job_id) as folder:
            sent, scene = folder / "units.sent", folder / results.UPLOAD
            slots = {
                "units": Slot(sent, options.max_table_bytes, "GeoPackage"),
                "scene": Slot(scene, options.max_upload_bytes, needed=False),
            }
            upload = await received(request.stream(), kind, slots)
            ready = partial(_ready, joined, runner, folder, upload, options, checked)
            task, bounds = await anyio.to_thread.run_sync(ready)
            return intake.queued(job_id, joined.id, task, bounds)


def _ready(
    joined: Joined, runner: Runner, folder: FilePath, upload: Upload, options: ServeOptions, checked: Any
) -> tuple[dict[str, Any], Any]:
    """What the worker is told, and where it lies, when scene and units were looked at and fit each other."""
    fields = _fields(upload, ("model", "bbox", "date", "double_check", "key", "layer"))
    if fields.get("model", joined.id) != joined.id:
        raise unknown_model(fields["model"], [joined.id], 422)
    place = "date" in fields or "bbox" in fields
    if place == ("scene" in upload.called):
        raise Refused(422, "send either a scene, or a date (and a bbox) whose scene is fetched")
    if place and not can_fetch():
        raise Refused(501, missing_line())
    called = upload.called["units"]
    key = fields.get("key", "") or "unit"
    sent = folder / "units.sent"
    columns = joined.table.model.columns
    bounds = ingest_units(
        sent, folder / results.UNITS_IN, called, columns, key, options.max_rows, fields.get("layer", "") or None,
        spare=tuple(DERIVED) if place else (),
    )  # fmt: skip
    sent.unlink()
    task: dict[str, Any] = {
        "image": joined.image, "fusion": str(options.fusion), "landslide": joined.landslide, "key": key,
        "double_check": _yes(fields.get("double_check", "")), "units_called": called,
    }  # fmt: skip
    found = _ground(fields, bounds) if place else None
    if found is not None:
        where = found.bbox
    else:
        name = upload.called["scene"]
        where = checked(folder / results.UPLOAD, name, runner.models[joined.image]).bounds
        task |= {"upload": results.UPLOAD, "called": name}
    if apart(where, bounds):
        raise TableError(
            f"{called} lies at {_degrees(bounds)}, the scene at {_degrees(where)}: they share no ground"
        )
    if found is not None:
        task |= wanted(runner.models[joined.image], where, found.date, options)
    return task, where


def _ground(fields: Mapping[str, str], units: tuple[float, float, float, float]) -> schemas.Ground:
    given: dict[str, Any] = {"date": fields.get("date", "")}
    given["bbox"] = fields["bbox"].split(",") if fields.get("bbox") else units
    try:
        return schemas.Ground.model_validate(given)
    except ValidationError as fault:
        raise Refused(422, first_of(fault.errors())) from None


def _fields(upload: Upload, known: tuple[str, ...]) -> dict[str, str]:
    """The form's fields; one that is not known is a slip that would go unnoticed."""
    for name, text in upload.fields.items():
        if name not in known:
            raise Refused(
                422,
                one_line(f"the form has a field '{name[:40]}' that is not known; known: {', '.join(known)}"),
            )
        if len(text) > _TEXT and name != "keep":
            raise Refused(422, f"field '{name}' is longer than {_TEXT} characters")
    return upload.fields


def _table(known: Mapping[str, Table], model_id: str) -> Table:
    if model_id not in known:
        raise unknown_model(model_id, known, 422)
    return known[model_id]


_SHARE = TypeAdapter(schemas.Share)
_BOOL = TypeAdapter(bool)


def _prior(text: str) -> float | None:
    try:
        return _SHARE.validate_python(text.strip()) if text.strip() else None
    except ValidationError:
        raise Refused(422, f"prior is '{one_line(text)[:40]}', expected a share between 0 and 1") from None


def _yes(text: str) -> bool:
    try:
        return _BOOL.validate_python(text.strip()) if text.strip() else False
    except ValidationError:
        raise Refused(422, f"double_check is '{one_line(text)[:40]}', expected true or false") from None


def _degrees(box: tuple[float, float, float, float]) -> str:
    return " ".join(f"{v:.4f}" for v in box)


def table_row(table: Table) -> schemas.TableRow:
    """A model of tables in the list."""
    model = table.model
    return schemas.TableRow(
        id=table.id, name=model.name, card_markdown=table.card,
        attributes=[
            schemas.Attribute(name=c.name, kind=c.kind, categories=list(c.categories)) for c in model.columns
        ],
        label=str(model.info.get("label", "label")), positive=model.positive, prior=model.serves, least=model.least(),
        metrics=model.metrics,
    )  # fmt: skip


def fused_row(joined: Joined) -> schemas.FusedRow:
    """A model of scenes and one of tables, joined, in the list."""
    fusion = joined.fusion
    return schemas.FusedRow(
        id=joined.id, name=f"{joined.image} with {joined.table.id}", image=joined.image, table=joined.table.id,
        landslide=joined.landslide, weights=fusion.weights, prior=fusion.prior,
    )  # fmt: skip
